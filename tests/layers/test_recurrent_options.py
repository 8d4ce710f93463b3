"""The options of recurrent layers against loops over steps written from the papers, in float64.

And against what ONNX Runtime makes of generic weights, in ``data/onnx_recurrent.npz``: X (time,
batch, in) and lengths, and for each case W, R, B, P, h0, c0 as ONNX has them (two directions) with
the outputs Y and Y_h. It was made with onnxruntime 1.31.1 (CPU) from models of opset 22 with the
operators LSTM, GRU and RNN, numbers from ``numpy.random.default_rng(4).standard_normal``.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.tiers import full, named, sample

import jlayers as jl
from jlayers.testing import check_sequence

ONNX = np.load(pathlib.Path(__file__).parent.parent / "data" / "onnx_recurrent.npz")
FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def norm(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


# Steps of one row: step(w, x, carry, options) -> carry, the output first.


def lstm_step(w, x, carry, o):
    h, c = carry
    if o.get("layer_norm"):
        left, right = w["kernel_scale"] * norm(x @ w["kernel"]), norm(h @ w["recurrent_kernel"])
        gates = left + w["recurrent_scale"] * right + w["bias"]
    else:
        gates = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
    cut = o.get("clip", np.inf)
    size = len(c)
    if o.get("coupled"):
        i, g, out = gates.reshape(3, size)
    else:
        i, f, g, out = gates.reshape(4, size)
    peep = w["peephole"].reshape(-1, size) if o.get("peephole") else np.zeros((3, size))
    i = sigmoid(np.clip(i + peep[0] * c, -cut, cut))
    f = 1 - i if o.get("coupled") else sigmoid(np.clip(f + peep[1] * c, -cut, cut))
    c = f * c + i * np.tanh(np.clip(g, -cut, cut))
    limit = o.get("cell_clip", np.inf)
    c = np.clip(c, -limit, limit)
    out = sigmoid(np.clip(out + peep[-1] * c, -cut, cut))
    seen = w["cell_scale"] * norm(c) + w["cell_bias"] if o.get("layer_norm") else c
    h = out * np.tanh(seen)
    return (h @ w["projection_kernel"] if "projection" in o else h), c


def gru_step(w, x, carry, o):
    (h,) = carry
    size, cut = len(h), o.get("clip", np.inf)
    k, u = np.split(w["kernel"], [2 * size], 1), np.split(w["recurrent_kernel"], [2 * size], 1)
    b = np.split(w["bias"], [2 * size])

    def both(i, h):
        """The products with input and state."""
        left, right = x @ k[i], h @ u[i]
        if not o.get("layer_norm"):
            return left + b[i], right
        scales = (np.split(w[name], [2 * size])[i] for name in ("kernel_scale", "recurrent_scale"))
        left, right = (scale * norm(v) for scale, v in zip(scales, (left, right), strict=True))
        return left + b[i], right

    r, z = sigmoid(np.clip(sum(both(0, h)), -cut, cut)).reshape(2, size)
    if o.get("reset_after", True):
        left, right = both(1, h)
        n = left + r * (right + w["recurrent_bias"])
    else:
        n = sum(both(1, r * h))
    return ((1 - z) * np.tanh(np.clip(n, -cut, cut)) + z * h,)


def rnn_step(w, x, carry, o):
    total = x @ w["kernel"] + carry[0] @ w["recurrent_kernel"]
    total = w["scale"] * norm(total) if o.get("layer_norm") else total
    return (np.tanh(np.clip(total + w["bias"], -o.get("clip", np.inf), o.get("clip", np.inf))),)


def min_gru_step(w, x, carry, o):
    z, n = (x @ w["kernel"] + w["bias"]).reshape(2, -1)
    return ((1 - sigmoid(z)) * carry[0] + sigmoid(z) * n,)


def log_space(v):
    """Of the papers of the minimal cells: above zero."""
    return np.where(v >= 0, v + 0.5, sigmoid(v))


def min_lstm_step(w, x, carry, o):
    f, i, n = (x @ w["kernel"] + w["bias"]).reshape(3, -1)
    n = log_space(n) if "activation" in o else n
    f, i = sigmoid(f), sigmoid(i)
    return (f / (f + i) * carry[0] + i / (f + i) * n,)


def mgu_step(w, x, carry, o):
    (xf, xn), (hf, hn) = (
        v.reshape(2, -1) for v in (x @ w["kernel"] + w["bias"], carry[0] @ w["recurrent_kernel"])
    )
    f = sigmoid(xf + hf)
    n = np.tanh(xn + f * (hn + w["recurrent_bias"]))
    return ((1 - f) * n + f * carry[0],)


def ind_rnn_step(w, x, carry, o):
    return (np.maximum(x @ w["kernel"] + w["recurrent_scale"] * carry[0] + w["bias"], 0),)


def sru_step(w, x, carry, o):
    c = carry[1]
    n, f, r, *s = (x @ w["kernel"]).reshape(-1, len(c))
    (b_f, b_r), (v_f, v_r) = (
        w.get(name, np.zeros(2 * len(c))).reshape(2, -1) for name in ("bias", "peephole")
    )
    f, r = sigmoid(f + v_f * c + b_f), sigmoid(r + v_r * c + b_r)
    c = f * c + (1 - f) * n
    return r * (np.tanh(c) if "activation" in o else c) + (1 - r) * (s[0] if s else x), c


def qrnn_step(w, x, carry, o):
    _, c, *before = carry
    steps = np.concatenate([*before, x[None]])
    gates = np.tensordot(steps, w["kernel"], 2) + w["bias"]
    z, f, *more = gates.reshape(-1, len(c))
    f = sigmoid(f)
    i = sigmoid(more[1]) if len(more) > 1 else 1 - f
    c = f * c + i * np.tanh(z)
    return (sigmoid(more[0]) * c if more else c), c, *[steps[1:]] * len(before)


def selective_step(w, x, carry, o):
    size = w["log_decay"].shape[1]
    r, b, c = np.split(x @ w["select_kernel"], [-2 * size, -size])
    d = np.log1p(np.exp(r @ w["step_kernel"] + w["step_bias"]))
    state = np.exp(-d[:, None] * np.exp(w["log_decay"])) * carry[1] + np.outer(d * x, b)
    return state @ c + w["skip"] * x, state


def silu(v):
    return v * sigmoid(v)


def mamba_step(w, x, carry, o):
    _, state, before = carry
    u, gate = (x @ w["in_kernel"] + w.get("in_bias", 0)).reshape(2, -1)
    steps = np.concatenate([before, u[None]])
    u = silu((steps * w["conv_kernel"][:, 0]).sum(0) + w["conv_bias"])
    y, state = selective_step(w, u, (None, state), o)
    return (y * silu(gate)) @ w["out_kernel"] + w.get("out_bias", 0), state, steps[1:]


def s5_step(w, x, carry, o):
    rate, step = -np.exp(w["log_decay"]) + 1j * w["frequency"], np.exp(w["log_step"])
    write, read, state = (v[..., 0] + 1j * v[..., 1] for v in (w["write"], w["read"], carry[1]))
    decay = np.exp(rate * step)
    state = decay * state + (decay - 1) / rate * (write @ x)
    y = 2 * (read @ state).real + w.get("skip", 0) * (x if "skip" in w else 0)
    return y, np.stack([state.real, state.imag], -1)


def linear_attention_step(w, x, carry, o):
    """The sum of keys is the last column of the state."""
    heads, size = carry[1].shape[0], carry[1].shape[2] - 1
    q, k, v = (
        (x @ w[f"{name}_kernel"] + w[f"{name}_bias"]).reshape(heads, size)
        for name in ("query", "key", "value")
    )
    q, k = (np.where(part > 0, part + 1, np.exp(part)) for part in (q, k))
    value = np.concatenate([v, np.ones((heads, 1))], 1)
    state = carry[1] + k[:, :, None] * value[:, None]
    read = np.einsum("hk,hkv->hv", q, state)
    y = read[:, :-1] / (read[:, -1:] + 1e-6)
    return y.ravel() @ w["out_kernel"] + w["out_bias"], state


def mlstm_step(w, x, carry, o):
    """As the paper has it before the stabiliser, which changes no output; m is not looked at."""
    _, state, m = carry
    heads, size = state.shape[:2]
    q, k, v, out = (x @ w["kernel"] + w["bias"]).reshape(4, heads, size)
    i, f = (x @ w["gate_kernel"] + w["gate_bias"]).reshape(2, heads)
    value = np.concatenate([v, np.ones((heads, 1))], 1)
    write = np.exp(i)[:, None, None] * k[:, :, None] * value[:, None] / np.sqrt(size)
    state = sigmoid(f)[:, None, None] * state + write
    read = np.einsum("hk,hkv->hv", q, state)
    h = read[:, :-1] / np.maximum(abs(read[:, -1:]), 1)
    return (sigmoid(out) * h).ravel(), state, m


def slstm_step(w, x, carry, o):
    """Before the stabiliser, likewise."""
    h, c, n, m = carry
    heads, size, _ = w["recurrent_kernel"].shape
    recurrent = [
        row @ u for row, u in zip(h.reshape(heads, size), w["recurrent_kernel"], strict=True)
    ]
    recurrent = np.reshape(recurrent, (heads, 4, size)).swapaxes(0, 1).ravel()
    i, f, g, out = (x @ w["kernel"] + w["bias"] + recurrent).reshape(4, -1)
    c = sigmoid(f) * c + np.exp(i) * np.tanh(g)
    n = sigmoid(f) * n + np.exp(i)
    return sigmoid(out) * c / n, c, n, m


def delta_step(w, x, carry, o):
    _, state, *before = carry
    heads, size, values = state.shape
    mixed = x @ w["kernel"]
    if before:
        steps = np.concatenate([before[0], mixed[None]])
        mixed, before = silu((steps * w["conv_kernel"][:, 0]).sum(0)), [steps[1:]]
    q, k, v = np.split(mixed, [heads * size, 2 * heads * size])
    q, k = (part.reshape(heads, size) for part in (q, k))
    q, k = (p / np.sqrt((p**2).sum(1, keepdims=True) + 1e-6) for p in (q, k))
    beta = sigmoid(x @ w["write_kernel"])
    rate = np.exp(w["log_decay"]) * np.log1p(np.exp(x @ w["decay_kernel"] + w["step_bias"]))
    new = []
    for head in range(heads):
        # The paper's form: the old state loses what it has under the key.
        erased = np.eye(size) - beta[head] * np.outer(k[head], k[head])
        written = beta[head] * np.outer(k[head], v.reshape(heads, values)[head])
        new.append(np.exp(-rate[head]) * erased @ state[head] + written)
    y = np.einsum("hk,hkv->hv", q / np.sqrt(size), new)
    y = y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-6) * w["scale"]
    return (y.ravel() * silu(x @ w["gate_kernel"])) @ w["out_kernel"], np.stack(new), *before


def mamba2_step(w, x, carry, o):
    _, state, before = carry
    heads, size, values = state.shape
    width = heads * values
    y = x @ w["in_kernel"] + w["in_bias"]
    gate, mixed, d = np.split(y, [width, len(y) - heads])
    steps = np.concatenate([before, mixed[None]])
    mixed = silu((steps * w["conv_kernel"][:, 0]).sum(0) + w["conv_bias"])
    v, b, c = np.split(mixed, [width, width + 2 * size])
    v, d = v.reshape(heads, values), np.log1p(np.exp(d + w["step_bias"]))
    new, read = np.zeros_like(state), np.zeros((heads, values))
    for head in range(heads):
        # Two groups of heads.
        write, of = (part.reshape(2, size)[head // (heads // 2)] for part in (b, c))
        decay = np.exp(-d[head] * np.exp(w["log_decay"][head]))
        new[head] = decay * state[head] + d[head] * np.outer(write, v[head])
        read[head] = of @ new[head] + w["skip"][head] * v[head]
    y = (read.ravel() * silu(gate)).reshape(2, -1)
    y = (y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-5)).ravel() * w["scale"]
    return y @ w["out_kernel"] + w["out_bias"], new, steps[1:]


def rg_lru_step(w, x, carry, o):
    u = x @ w["kernel"] + w["bias"] if o.get("project", True) else x
    r, i = sigmoid(u @ w["gate_kernel"] + w["gate_bias"]).reshape(2, -1)
    a = sigmoid(w["decay"]) ** (8 * r)
    return (a * carry[0] + np.sqrt(1 - a**2) * (i * u),)


def same_conv(x, kernel):
    """(height, width, in) by (k, l, in, out), one output at a time, padding SAME."""
    size = kernel.shape[:2]
    low = [(k - 1) // 2 for k in size]
    padded = np.pad(x, [(a, k - 1 - a) for a, k in zip(low, size, strict=True)] + [(0, 0)])
    y = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for p in np.ndindex(*x.shape[:2]):
        window = padded[p[0] : p[0] + size[0], p[1] : p[1] + size[1]]
        y[p] = np.tensordot(window, kernel, 3)
    return y


def conv_lstm_step(w, x, carry, o):
    h, c = carry
    gates = same_conv(x, w["kernel"]) + same_conv(h, w["recurrent_kernel"]) + w["bias"]
    i, f, g, out = np.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(out) * np.tanh(c), c


# name: (layer, step, options)
CASES = {
    "lstm": (jl.LSTM, lstm_step, {}),
    "peephole": (jl.LSTM, lstm_step, {"peephole": True}),
    "coupled": (jl.LSTM, lstm_step, {"coupled": True}),
    "coupled, peephole": (jl.LSTM, lstm_step, {"coupled": True, "peephole": True}),
    "projection": (jl.LSTM, lstm_step, {"projection": 2, "trainable_carry": True}),
    "layer norm": (jl.LSTM, lstm_step, {"layer_norm": True}),
    "clip": (jl.LSTM, lstm_step, {"clip": 0.5}),
    "cell clip": (jl.LSTM, lstm_step, {"cell_clip": 0.2, "peephole": True}),
    "zoneout": (jl.LSTM, lstm_step, {"zoneout": 0.3}),
    "all": (
        jl.LSTM,
        lstm_step,
        {
            "peephole": True,
            "coupled": True,
            "projection": 2,
            "layer_norm": True,
            "clip": 0.7,
            "cell_clip": 0.4,
            "zoneout": 0.3,
            "recurrent_dropout": 0.5,
            "trainable_carry": True,
            "method": "recompute",
        },
    ),
    "gru": (jl.GRU, gru_step, {"trainable_carry": True}),
    "gru, reset before": (jl.GRU, gru_step, {"reset_after": False}),
    "gru, layer norm": (jl.GRU, gru_step, {"layer_norm": True, "clip": 0.5}),
    "gru, all": (
        jl.GRU,
        gru_step,
        {"reset_after": False, "layer_norm": True, "zoneout": 0.2, "trainable_carry": True},
    ),
    "simple rnn": (
        jl.SimpleRNN,
        rnn_step,
        {"layer_norm": True, "clip": 0.5, "zoneout": 0.2, "trainable_carry": True},
    ),
    "min gru": (jl.MinGRU, min_gru_step, {"trainable_carry": True}),
    "linear recurrence": (jl.LinearRecurrence, rg_lru_step, {"trainable_carry": True}),
    "rg-lru": (jl.LinearRecurrence, rg_lru_step, {"project": False}),
    "mgu": (jl.MGU, mgu_step, {"trainable_carry": True, "zoneout": 0.3}),
    "min lstm": (jl.MinLSTM, min_lstm_step, {"trainable_carry": True}),
    "min lstm, log space": (
        jl.MinLSTM,
        min_lstm_step,
        {"activation": lambda v: jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v))},
    ),
    "ind rnn": (jl.IndRNN, ind_rnn_step, {"trainable_carry": True, "zoneout": 0.2}),
    "sru": (jl.SRU, sru_step, {"trainable_carry": True}),
    "sru, linear": (
        lambda n, **o: jl.SRU(n + 1, **o),
        sru_step,
        {"peephole": False, "activation": jnp.tanh, "trainable_carry": True},
    ),
    "qrnn, f": (jl.QRNN, qrnn_step, {"pooling": "f"}),
    "qrnn": (jl.QRNN, qrnn_step, {"window": 3, "trainable_carry": True}),
    "qrnn, ifo": (jl.QRNN, qrnn_step, {"window": 2, "pooling": "ifo"}),
    "selective ssm": (lambda n, **o: jl.SelectiveSSM(n + 1, **o), selective_step, {}),
    "mamba": (lambda n, **o: jl.Mamba(n - 1, **o), mamba_step, {"kernel_size": 3}),
    "mamba, other sizes": (
        lambda n, **o: jl.Mamba(n, **o),
        mamba_step,
        {"kernel_size": 2, "features": 5, "expand": 3, "step_rank": 2, "bias": True},
    ),
    "s5": (jl.S5, s5_step, {}),
    "s5, no skip": (jl.S5, s5_step, {"features": 2, "skip": False}),
    "linear attention": (
        lambda n, **o: jl.LinearAttention(2, **o),
        linear_attention_step,
        {"head_dim": 4, "features": 5},
    ),
    "mlstm": (lambda n, **o: jl.MLSTM(6, 2, **o), mlstm_step, {}),
    "slstm": (lambda n, **o: jl.SLSTM(6, 2, **o), slstm_step, {}),
    "gated delta net": (
        lambda n, **o: jl.GatedDeltaNet(2, **o),
        delta_step,
        {"head_dim": 3, "value_dim": 2, "kernel_size": 3},
    ),
    "gated delta net, no convolution": (
        lambda n, **o: jl.GatedDeltaNet(3, **o),
        delta_step,
        {"kernel_size": None, "features": 2},
    ),
    "mamba2": (
        lambda n, **o: jl.Mamba2(2, **o),
        mamba2_step,
        {"head_dim": 3, "expand": 4, "num_groups": 2, "kernel_size": 3, "bias": True},
    ),
    "conv lstm": (lambda n, **o: jl.ConvLSTM(n, (2, 3), **o), conv_lstm_step, {"zoneout": 0.2}),
}
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], bool)
RESETS = np.array([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 1]], bool)


def made(name, **more):
    """The layer of a case with random parameters, and an input."""
    make, _, options = CASES[name]
    layer = make(3, **options, **more)
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 5, 3) if name != "conv lstm" else (4, 5, 3, 2, 2))
    params, _ = layer.init(jax.random.key(0), jnp.asarray(x))
    return layer, jax.tree.map(lambda p: p + 0.5 * rng.standard_normal(p.shape), params), x


def first_carry(name, w, x, step, options):
    """Of a row: zeros, or what is trained."""
    shape = (*x.shape[2:-1], 4 if name == "sru, linear" else 3)
    sizes = {"h": (*shape[:-1], options.get("projection", shape[-1]))}
    if step in (lstm_step, conv_lstm_step, sru_step, qrnn_step):
        sizes["c"] = shape
    if step is qrnn_step and "window" in options:
        sizes["context"] = (options["window"] - 1, x.shape[-1])
    if step is mamba_step:
        sizes = {"y": (options.get("features", x.shape[-1]),), "state": w["log_decay"].shape}
        sizes["context"] = (options["kernel_size"] - 1, len(w["log_decay"]))
    if step is selective_step:
        sizes = {"y": x.shape[2:], "state": w["log_decay"].shape}
    if step is s5_step:
        sizes = {"y": w["read"].shape[:1], "state": (*w["log_step"].shape, 2)}
    if step is linear_attention_step:
        sizes = {"y": (5,), "state": (2, 4, 5)}
    if step is mamba2_step:
        sizes = {"y": (3,), "state": (4, 2, 3), "context": (2, 20)}
    if step is mlstm_step:
        sizes = {"h": (6,), "state": (2, 3, 4), "m": (2,)}
    if step is slstm_step:
        sizes = dict.fromkeys("hcnm", (6,))
    if step is delta_step:
        heads, values = len(w["log_decay"]), len(w["scale"])
        keys = (w["kernel"].shape[1] // heads - values) // 2
        sizes = {"y": w["out_kernel"].shape[1:], "state": (heads, keys, values)}
        if "conv_kernel" in w:
            sizes["context"] = (2, w["kernel"].shape[1])
    return tuple(w.get(f"initial_{key}", np.zeros(size)) for key, size in sizes.items())


def expected(name, params, x, mask, resets, reverse):
    """Outputs with zeros where there is no step, and what was the last one of each row."""
    _, step, options = CASES[name]
    w = jax.tree.map(np.asarray, params)
    first = first_carry(name, w, x, step, options)
    share = options.get("zoneout", 0)
    y = np.zeros((*x.shape[:2], *first[0].shape))
    last = np.zeros((len(x), *first[0].shape))
    for b in range(len(x)):
        carry = first
        for t in range(x.shape[1])[:: -1 if reverse else 1]:
            if mask[b, t]:
                carry = first if resets[b, t] else carry
                new = step(w, x[b, t], carry, options)
                carry = tuple(share * c + (1 - share) * n for c, n in zip(carry, new, strict=True))
                y[b, t] = carry[0]
        last[b] = carry[0]
    return y, last


# What these have, "all" of a layer has too, or another size of it.
AGAIN = {"peephole", "coupled", "clip", "gru, layer norm", "qrnn, f"}
AGAIN |= {"mamba, other sizes", "gated delta net, no convolution", "s5, no skip"}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reverse", [False, *full(True)], ids=["", "reverse"])
@pytest.mark.parametrize("name", named(CASES, *set(CASES) - AGAIN))
@pytest.mark.oracle("a loop")
def test_against_a_loop(name, reverse):
    """With holes, a row of length zero, NaN in the padding and resets; and without all that."""
    layer, params, x = made(name, reverse=reverse)
    end, _, _ = made(name, reverse=reverse, return_sequences=False)

    @jax.jit
    def run(x, resets, mask):
        given = (jl.Sequence(x, mask), resets)
        return layer.apply(params, {}, given)[0].fill(), end.apply(params, {}, given)[0]

    everywhere, nowhere = np.ones_like(MASK), np.zeros_like(MASK)
    plain = jax.jit(lambda x: layer.apply(params, {}, x)[0])(x)
    want = expected(name, params, x, everywhere, nowhere, reverse)
    np.testing.assert_allclose(plain, want[0], atol=1e-12)
    spoiled = np.where(MASK.reshape(MASK.shape + (1,) * (x.ndim - 2)), x, np.nan)
    for mask, resets, given in (
        (everywhere, nowhere, x),
        (everywhere, RESETS, x),
        (MASK, nowhere, spoiled),
        (MASK, RESETS, spoiled),
    ):
        want = expected(name, params, x, mask, resets, reverse)
        for have, wanted in zip(run(given, resets, mask), want, strict=True):
            np.testing.assert_allclose(have, wanted, atol=1e-12)


def split_at(x):
    """An input, and resets where its first feature is large."""
    return x, x.reshape(*x.shape[:2], -1)[..., 0] > 0.8


@pytest.mark.parametrize(
    "layer",
    sample(
        [
            jl.serial(split_at, jl.LSTM(2, peephole=True, projection=3, trainable_carry=True)),
            jl.serial(split_at, jl.LSTM(2, reverse=True, layer_norm=True)),
            jl.serial(split_at, jl.GRU(2, reset_after=False, zoneout=0.2)),
            jl.bidirectional(jl.LSTM(2, coupled=True, recurrent_dropout=0.3)),
            jl.serial(split_at, jl.MinGRU(2, trainable_carry=True)),
            jl.LinearRecurrence(2),
        ],
        4,
    ),
    ids=lambda layer: repr(layer)[:60],
)
def test_masks_and_steps(layer):
    check_sequence(layer, jl.spec((3, 4, 3)))


def onnx_params(name, direction):
    """ONNX keeps (gates, in), the gates i, o, f, c, or z, r, h, and two biases."""
    case = {
        key.split("/")[1]: ONNX[key][direction] for key in ONNX.files if key.startswith(name + "/")
    }
    size = case["R"].shape[-1]
    kind, coupled = name.split()[0], "coupled" in name
    order = {"lstm": [0, 3, 1] if coupled else [0, 2, 3, 1], "gru": [1, 0, 2], "rnn": [0]}[kind]

    def gates(value, order=order):
        parts = np.split(value, len(value) // size)
        return np.concatenate([parts[i] for i in order])

    w_bias, r_bias = (gates(part) for part in np.split(case["B"], 2))
    params = {"kernel": gates(case["W"]).T, "recurrent_kernel": gates(case["R"]).T}
    params["bias"] = w_bias + r_bias
    if "reset after" in name:
        params["bias"] = w_bias + np.concatenate([r_bias[: 2 * size], np.zeros(size, "f")])
        params["recurrent_bias"] = r_bias[2 * size :]
    if "P" in case:
        params["peephole"] = gates(case["P"], [0, 1] if coupled else [0, 2, 1])
    for key in ("h", "c"):
        if f"{key}0" in case:
            params[f"initial_{key}"] = case[f"{key}0"]
    return params


ONNX_OPTIONS = {
    "lstm": {},
    "lstm from a carry": {"trainable_carry": True},
    "lstm peephole": {"peephole": True, "trainable_carry": True},
    "lstm coupled": {"coupled": True, "trainable_carry": True},
    "lstm clip": {"clip": 0.6},
    "lstm peephole coupled clip": {
        "peephole": True,
        "coupled": True,
        "clip": 0.8,
        "trainable_carry": True,
    },
    "gru reset after": {"trainable_carry": True},
    "gru reset before": {"reset_after": False, "trainable_carry": True},
    "gru reset before clip": {"reset_after": False, "clip": 0.6},
    "rnn": {"trainable_carry": True},
    "rnn relu clip": {"activation": jax.nn.relu, "clip": 0.9},
}


@pytest.mark.parametrize(
    "name", named(ONNX_OPTIONS, "lstm peephole coupled clip", "gru reset before clip", "rnn")
)
@pytest.mark.oracle("ONNX Runtime")
def test_against_onnx_runtime(name):
    """Both directions, rows of 3, 0, 5 and 1 steps."""
    make = {"lstm": jl.LSTM, "gru": jl.GRU, "rnn": jl.SimpleRNN}[name.split()[0]]
    params = dict(zip(("forward", "backward"), (onnx_params(name, d) for d in (0, 1)), strict=True))
    x = jl.Sequence.from_lengths(np.swapaxes(ONNX["x"], 0, 1), ONNX["lengths"])
    both = jl.bidirectional(make(2, **ONNX_OPTIONS[name]), jl.serial())
    ends = jl.bidirectional(make(2, return_sequences=False, **ONNX_OPTIONS[name]), jl.serial())
    whole, last = jax.jit(lambda x: [run.apply(params, {}, x)[0] for run in (both, ends)])(x)
    for d, y in enumerate(whole):
        want = np.swapaxes(ONNX[f"{name}/Y"][:, d], 0, 1)
        np.testing.assert_allclose(y.fill(), want, atol=1e-6)
    for d, (side, y) in enumerate(zip(params, last, strict=True)):
        want = ONNX[f"{name}/Y_h"][d]
        # ONNX Runtime gives zeros for a row without steps, which here is as it began.
        first = params[side].get("initial_h", np.zeros(2, "f"))
        want = np.where(ONNX["lengths"][:, None] > 0, want, first[None])
        np.testing.assert_allclose(y, want, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name", sample(["lstm", "all", "gru, reset before", "min gru", "rg-lru"], 1, 3)
)
def test_gradients_do_not_cross_a_reset(name):
    layer, params, x = made(name)
    resets = jnp.asarray(RESETS[:1])

    def outputs(x):
        return layer.apply(params, {}, (x, resets))[0].sum((0, 2))

    slope = np.abs(jax.jit(jax.jacobian(outputs))(jnp.asarray(x[:1])))[:, 0].sum(-1)
    # Resets before the steps 2 and 4.
    episode = np.array([0, 0, 1, 1, 2])
    seen = (episode[:, None] == episode) & (np.arange(5)[:, None] >= np.arange(5))
    np.testing.assert_array_equal(slope > 0, seen)


def test_plain_layers_run_as_before():
    """Bitwise what ``core`` gives; outside training dropout leaves the program unchanged."""
    x = jax.random.normal(jax.random.key(1), (2, 7, 3))
    zeros = jnp.zeros((2, 4))
    for plain, dropped, run, carry in (
        (jl.LSTM(4), jl.LSTM(4, recurrent_dropout=0.3), jl.core.lstm, (zeros, zeros)),
        (jl.GRU(4), jl.GRU(4, recurrent_dropout=0.3), jl.core.gru, (zeros,)),
        (jl.SimpleRNN(4), jl.SimpleRNN(4, recurrent_dropout=0.3), jl.core.simple_rnn, (zeros,)),
    ):
        params, _ = plain.init(jax.random.key(0), x)
        y, _ = plain.apply(params, {}, x)
        np.testing.assert_array_equal(y, run(x, carry, **params)[0])
        jl.out_spec(dropped, x)
        programs = {
            re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(layer.apply)(params, {}, x)))
            for layer in (plain, dropped)
        }
        assert len(programs) == 1
        assert [row.method for row in jl.explain(dropped, x).decisions] == ["store"]


@pytest.mark.usefixtures("float64")
def test_the_first_carry_of_a_stream():
    layer, params, x = made("projection")
    carry = jl.stream(layer).start(params, {}, jnp.asarray(x))
    assert {name: value.shape for name, value in carry.items()} == {"h": (4, 2), "c": (4, 3)}
    np.testing.assert_array_equal(carry["c"], np.tile(params["initial_c"], (4, 1)))
    loss = jax.jit(jax.grad(lambda p: layer.apply(p, {}, jnp.asarray(x))[0].sum()))
    assert all(np.any(loss(params)[f"initial_{name}"]) for name in "hc")


@pytest.mark.usefixtures("float64")
def test_zoneout_in_training():
    """Each value is the old one or the step's own, by chance, in every row and step."""
    layer = jl.SimpleRNN(30, zoneout=0.25)
    x = jax.random.normal(jax.random.key(1), (8, 12, 3), jnp.float64)
    w, _ = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(w, {}, x, key=jax.random.key(2), train=True)
    old = np.concatenate([np.zeros((8, 1, 30)), y[:, :-1]], 1)
    new = np.tanh(x @ w["kernel"] + old @ w["recurrent_kernel"])
    held = np.asarray(y) == old
    np.testing.assert_allclose(np.where(held, old, new), y, atol=1e-12)
    assert abs(held.mean() - 0.25) < 0.03
    assert np.ptp(held.mean((0, 1))) > 0
    assert np.ptp(held.mean((1, 2))) > 0


@pytest.mark.usefixtures("float64")
def test_recurrent_dropout_is_the_same_at_every_step():
    layer = jl.SimpleRNN(6, recurrent_dropout=0.5)
    x = 0.3 * jax.random.normal(jax.random.key(1), (40, 5, 3), jnp.float64)
    w, _ = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(w, {}, x, key=jax.random.key(2), train=True)
    recurrent = np.arctanh(y[:, 1:]) - x[:, 1:] @ w["kernel"]
    factor = np.asarray(recurrent @ np.linalg.inv(w["recurrent_kernel"]) / y[:, :-1])
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), atol=1e-6)
    assert set(np.round(factor.ravel(), 6) + 0.0) == {0.0, 2.0}
    assert abs(factor.mean() - 1) < 0.2

    start, step = jl.stream(layer)
    carry, parts = start(w, {}, x), []
    for block in (x[:, :2], x[:, 2:]):
        part, carry = step(w, {}, carry, block, key=jax.random.key(2), train=True)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), y, atol=1e-12)


def test_dropout_same_over_time():
    layer, key = jl.Dropout(0.5, shared_axes=1), jax.random.key(1)
    y, _ = layer.apply({}, {}, jnp.ones((4, 7, 30)), key=key, train=True)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert np.ptp(np.asarray(y)[:, 0].sum(-1)) > 0
    block, _ = layer.apply({}, {}, jnp.ones((4, 2, 30)), key=key, train=True)
    np.testing.assert_array_equal(block, y[:, :2])


def test_dtypes():
    """Linear recurrences keep their state in float32, where bfloat16 would lose it."""
    x = jl.spec((2, 5, 3), jnp.bfloat16)
    for layer, wide in ((jl.MinGRU(4), True), (jl.LinearRecurrence(4), True), (jl.GRU(4), False)):
        params, _ = layer.init(jax.random.key(0), x)
        carry = jl.stream(layer).start(params, {}, x)
        assert carry["h"].dtype == (jnp.float32 if wide else jnp.bfloat16)
        assert jl.out_spec(layer, x).dtype == jnp.bfloat16


def test_the_decay_starts_slow():
    params, _ = jl.LinearRecurrence(500).init(jax.random.key(0), jl.spec((1, 2, 3)))
    kept = jax.nn.sigmoid(params["decay"]) ** 8
    assert 0.899 < kept.min() < 0.91
    assert 0.99 < kept.max() < 0.9995


def test_gates_that_are_shut_have_gradients():
    """``a`` is 1 to the last digit then, where the root of ``1 - a ** 2`` has no slope."""
    layer = jl.LinearRecurrence(3, project=False)
    params, _ = layer.init(jax.random.key(0), STEPS)
    params["gate_bias"] = jnp.full(6, -200.0)
    x = jnp.ones(STEPS.shape)
    y, pull = jax.vjp(lambda p, x: layer.apply(p, {}, x)[0], params, x)
    gradients = pull(jnp.ones_like(y))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, gradients)))


STEPS = jl.spec((2, 5, 3))
ERRORS = [
    (lambda: jl.LSTM(3, clip=0), "LSTM: clip must be a number above 0, got 0"),
    (lambda: jl.LSTM(3, cell_clip=-1), "LSTM: cell_clip must be a number of at least 0, got -1"),
    (lambda: jl.LSTM(3, projection=0), "LSTM: projection must be a positive int, got 0"),
    (lambda: jl.LSTM(3, coupled=1), "LSTM: coupled must be True or False, got 1"),
    (lambda: jl.GRU(3, zoneout=1), "GRU: zoneout must be at least 0 and less than 1, got 1"),
    (
        lambda: jl.out_spec(jl.GRU(3), (STEPS, jl.spec((2, 4), bool))),
        "GRU: takes (x, resets), and these are not resets of its steps",
        "expected: bool[2, 5]",
        "got:      bool[2, 4]",
    ),
    (
        lambda: jl.out_spec(jl.LSTM(3), (STEPS, STEPS)),
        "LSTM: takes (x, resets), and these are not resets of its steps",
        "hint:     jl.carried(layer) takes (x, carry), such as {'h': h, 'c': c}; concat() to merge",
    ),
    (
        lambda: jl.out_spec(jl.LinearRecurrence(4, project=False), STEPS),
        "LinearRecurrence: without project the input must have 4 features",
        "got:      float32[2, 5, 3]",
    ),
    (
        lambda: jl.out_spec(jl.ConvLSTM(3, 3), STEPS),
        "ConvLSTM: takes an array of rank 4 or more, got rank 3",
        "expected: (batch, time, *spatial, channels)",
    ),
    (
        lambda: jl.LSTM(3, zoneout=0.1).apply(
            *jl.LSTM(3).init(jax.random.key(0), STEPS), jnp.ones((2, 5, 3)), train=True
        ),
        "LSTM: needs a key to train and got none",
    ),
    (
        lambda: jl.out_spec(jl.Dropout(0.5, shared_axes=2), jl.spec((2, 3))),
        "Dropout: there is no axis [2]",
    ),
    (
        lambda: jl.stream(jl.MinGRU(2, bias=False, reverse=True)).start(
            {"kernel": jnp.zeros((3, 4))}, {}, STEPS
        ),
        "MinGRU: cannot be streamed: it reads the sequence from its end",
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error[1][:50])
def test_errors(error):
    run, *texts = error
    with pytest.raises(jl.LayerError) as raised:
        run()
    assert [text for text in texts if text not in str(raised.value)] == [], str(raised.value)
