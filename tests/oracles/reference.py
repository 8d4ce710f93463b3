"""Models by hand: an interpreter of descriptions in plain jnp that knows nothing of jlayers.

A description is ``(name, arguments, options)``: ``("Conv", (8, 3), (("strides", 2),))``. What it
computes comes from the parameters, read by path, with loops over windows, time steps and copies.
Names, defaults and keys are those of DESIGN.md and of the docstrings, written a second time.
"""

import hashlib
import itertools
import re
from collections import Counter
from functools import reduce

import jax
import jax.numpy as jnp

FUNCTIONS = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "softplus": jax.nn.softplus,
    "lambda": lambda x: 0.5 * x + jnp.sin(x),
    "sum": lambda y: jnp.sum(y, 0),
}
MERGES = {name: getattr(jnp, name) for name in ("add", "multiply", "maximum", "minimum")}
MERGES["average"] = jnp.add


def run(node, params, state, x, key=None, train=False):
    """The output of the described model, and its next state."""
    name, arguments, options = (*node, (), ())[:3]
    frame = Frame(name, params, dict(state), key, train)
    return RULES[name](frame, x, *arguments, **dict(options)), frame.state


class Frame:
    """One layer while it runs: its parameters, its (next) state and its key."""

    def __init__(self, name, params, state, key, train):
        self.name, self.params, self.state, self.key, self.train = name, params, state, key, train
        self.times = Counter()

    def call(self, name, node, x):
        key = fold(self.key, f"{name}/{self.times[name]}" if self.times[name] else name)
        self.times[name] += 1
        params, state = self.params.get(name, {}), self.state.get(name, {})
        y, state = run(node, params, state, x, key, self.train)
        if state:
            self.state[name] = state
        return y

    def own(self, node, x):
        """The layer inside a transparent wrapper: everything is its own."""
        y, self.state = run(node, self.params, self.state, x, self.key, self.train)
        return y


def fold(key, name):
    """A child's key: folded with four bytes of blake2b of its name, or with a number."""
    if isinstance(name, str):
        digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
        name = int.from_bytes(digest, "big")
    return None if key is None else jax.random.fold_in(key, name)


def kind(node):
    """What a parent names a positional child after; wrappers go by what they wrap."""
    if node[0] in ("remat", "each_step", "repeat", "ensemble"):
        return kind(node[1][0])
    if node[0] == "compose":
        return dict(node[2]).get("name") or "compose"
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", node[0]).lower()


def children(layers, named):
    """Pairs of names and nodes: the kind, numbered from the second on, or the keyword."""
    seen, found = Counter(), []
    for node in layers:
        number = seen[kind(node)]
        found.append((f"{kind(node)}_{number}" if number else kind(node), node))
        seen[kind(node)] += 1
    return found + list(named.items())


# Combinators.


def _serial(f, x, *layers, **named):
    for name, node in children(layers, named):
        x = f.call(name, node, x)
    return x


def _fan(f, x, *layers, **named):
    """branch and parallel: tuple or dict."""
    every = children(layers, named)
    inputs = [x] * len(every) if f.name == "branch" else [x[name] for name in named] or x
    outputs = [f.call(*child, x) for child, x in zip(every, inputs, strict=True)]
    return dict(zip(named, outputs, strict=True)) if named else tuple(outputs)


def _merge(f, x, *layers, axis=-1, **named):
    outputs = [f.call(*child, x) for child in children(layers, named)]
    if not outputs:  # an incoming tuple, or a dict in the order in which JAX has it
        outputs = [x[name] for name in sorted(x)] if isinstance(x, dict) else x
    if f.name == "concat":
        return jnp.concatenate(outputs, axis)
    return reduce(MERGES[f.name], outputs) / (len(outputs) if f.name == "average" else 1)


def _residual(f, x, layer, shortcut=None):
    y = f.call("body", layer, x)
    return y + (x if shortcut is None else f.call("shortcut", shortcut, x))


def _copies(f, x, layer, n, remat=None):
    """repeat and ensemble."""
    outputs, states = [], []
    for i in range(n):
        params, state = jax.tree.map(lambda leaf, i=i: leaf[i], (f.params, f.state))
        y, state = run(layer, params, state, x, fold(f.key, i), f.train)
        x = y if f.name == "repeat" else x
        outputs.append(y)
        states.append(state)
    f.state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return x if f.name == "repeat" else jnp.stack(outputs)


def _each_step(f, x, layer):
    if f.train:  # statistics and dropout masks are those of all steps at once
        return (y := f.own(layer, x.reshape(-1, *x.shape[2:]))).reshape(*x.shape[:2], *y.shape[1:])
    return jnp.stack([f.own(layer, x[:, t]) for t in range(x.shape[1])], 1)


def _bidirectional(f, x, layer, merge=("concat",), backward=None):
    ahead = f.call("forward", layer, x)
    behind = f.call("backward", backward or layer, x[:, ::-1])
    return f.call("merge", merge, (ahead, behind[:, ::-1] if behind.ndim > 2 else behind))


def _compose(f, x, body, name=None, **layers):
    def call(name, x):
        return f.call(name, layers[name], x)

    if body == ("rich",):
        y = call("one", jnp.tanh(call("one", x))) * jnp.broadcast_to(f.params["gain"], x.shape)
        if f.train:
            f.state["level"] = 0.5 * f.state["level"] + 0.5 * jnp.mean(y)
            factor, term = (jax.random.normal(fold(f.key, i), y.shape, y.dtype) for i in (1, 2))
            y = y * factor + term
        return x + y
    values = [x]  # ("wired", program): each step makes a value from those before
    for step, i, which in body[1][0]:
        y = call(which, values[i]) if step == "call" else MERGES[step](values[i], values[which])
        values.append(y / (1 + jnp.abs(y)))
    return values[-1]


# Layers.


def dense(x, kernel, bias=None):
    products = x[..., None] * jnp.broadcast_to(kernel, x.shape + kernel.shape[-1:])
    y = jnp.sum(products, -2)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def _positions(x, window, strides, padding, dilation=1, fill=0.0):
    """For each position in the window, the value there for each output."""
    rank, margins = x.ndim - 2, padding
    window, strides, dilation = (
        (size,) * rank if isinstance(size, int) else size for size in (window, strides, dilation)
    )
    reach = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    if padding == "SAME":
        each = zip(x.shape[1:], reach, strides, strict=False)
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in each]
        margins = [(t // 2, t - t // 2) for t in total]
    elif isinstance(padding, str):
        margins = [(k - 1 if padding == "CAUSAL" else 0, 0) for k in reach]
    x = jnp.pad(x, ((0, 0), *margins, (0, 0)), constant_values=fill)
    for position in itertools.product(*map(range, window)):
        start = [p * d for p, d in zip(position, dilation, strict=True)]
        stop = [n - k + 1 + a for n, k, a in zip(x.shape[1:], reach, start, strict=False)]
        yield position, x[:, *map(slice, start, stop, strides)]


def _conv(f, x, features, window, strides=1, padding="VALID", dilation=1, groups=1, bias=True):
    kernel, y = f.params["kernel"], 0.0
    inside, outside = x.shape[-1] // groups, features // groups
    if isinstance(window, int):
        window = (window,) * (x.ndim - 2)
    for position, seen in _positions(x, window, strides, padding, dilation):
        parts = [
            dense(
                seen[..., g * inside : (g + 1) * inside],
                kernel[position][:, g * outside : (g + 1) * outside],
            )
            for g in range(groups)
        ]
        y = y + jnp.concatenate(parts, -1)
    return y + jnp.broadcast_to(f.params["bias"], y.shape) if bias else y


def _max_pool(f, x, window, strides=None, padding="VALID"):
    seen = _positions(x, window, strides or window, padding, fill=-jnp.inf)
    return reduce(jnp.maximum, [values for _, values in seen])


def _avg_pool(f, x, window, strides=None, padding="VALID", count_include_pad=False):
    def total(x, fill):
        seen = _positions(x, window, strides or window, padding, fill=fill)
        return sum(values for _, values in seen)

    return total(x, 0.0) / total(jnp.ones_like(x), float(count_include_pad))


def _global_pool(f, x):
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    steps = [x[:, i] for i in range(x.shape[1])]
    return reduce(jnp.maximum, steps) if "Max" in f.name else sum(steps) / len(steps)


def _normal(x, mean, var, scale=1.0, bias=0.0):
    mean, var, scale, bias = (jnp.broadcast_to(v, x.shape) for v in (mean, var, scale, bias))
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def _layer_norm(f, x, scale=True, bias=True):
    mean = jnp.sum(x, -1, keepdims=True) / x.shape[-1]
    return _normal(x, mean, jnp.sum((x - mean) ** 2, -1, keepdims=True) / x.shape[-1], **f.params)


def _batch_norm(f, x, scale=True, bias=True):
    mean, var = f.state["mean"], f.state["var"]
    if f.train:
        rows = x.reshape(-1, x.shape[-1])
        mean = jnp.sum(rows, 0) / rows.shape[0]
        var = jnp.sum((rows - mean[None]) ** 2, 0) / rows.shape[0]
        f.state["mean"] = 0.99 * f.state["mean"] + 0.01 * mean
        f.state["var"] = 0.99 * f.state["var"] + 0.01 * var
    return _normal(x, mean, var, **f.params)


def _recurrent(f, x, features, return_sequences=True, reverse=False, bias=True):
    h = c = jnp.zeros((x.shape[0], features), x.dtype)
    outputs, params = {}, f.params
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        a = dense(x[:, t], params["kernel"], params.get("bias"))
        b = dense(h, params["recurrent_kernel"])
        if f.name == "SimpleRNN":
            h = jnp.tanh(a + b)
        elif f.name == "LSTM":
            i, g, u, o = ((a + b)[:, k * features : (k + 1) * features] for k in range(4))
            c = jax.nn.sigmoid(g) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        else:
            r, z = (jax.nn.sigmoid((a + b)[:, k * features : (k + 1) * features]) for k in (0, 1))
            recurrent = b[:, 2 * features :]
            if bias:
                recurrent = recurrent + jnp.broadcast_to(params["recurrent_bias"], h.shape)
            h = (1 - z) * jnp.tanh(a[:, 2 * features :] + r * recurrent) + z * h
        outputs[t] = h
    return jnp.stack([outputs[t] for t in range(x.shape[1])], 1) if return_sequences else h


def _dropout(f, x, rate):
    keep = jax.random.bernoulli(f.key, 1 - rate, x.shape) if f.train else None
    return x if keep is None else x * keep.astype(x.dtype) / (1 - rate)


def _embedding(f, x, num_embeddings, features):
    hot = jnp.stack([x == i for i in range(num_embeddings)], -1)
    return dense(hot.astype(f.params["embedding"].dtype), f.params["embedding"])


RULES = {
    "serial": _serial,
    **dict.fromkeys(("branch", "parallel"), _fan),
    **dict.fromkeys(("concat", *MERGES), _merge),
    "residual": _residual,
    **dict.fromkeys(("repeat", "ensemble"), _copies),
    "each_step": _each_step,
    "bidirectional": _bidirectional,
    "remat": lambda f, x, layer: f.own(layer, x),
    "compose": _compose,
    **dict.fromkeys(FUNCTIONS, lambda f, x: FUNCTIONS[f.name](x)),
    "Dense": lambda f, x, features, bias=True: dense(x, **f.params),
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AvgPool": _avg_pool,
    **dict.fromkeys(("GlobalMaxPool", "GlobalAvgPool"), _global_pool),
    "LayerNorm": _layer_norm,
    "BatchNorm": _batch_norm,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _recurrent),
    "Dropout": _dropout,
    "Embedding": _embedding,
    "Flatten": lambda f, x: x.reshape(x.shape[0], -1),
    "Reshape": lambda f, x, shape: x.reshape(x.shape[0], *shape),
}
