"""Models nobody wrote: random trees of layers against the same models by hand (reference.py).

Twelve seeds run by default; ``JLAYERS_SEEDS=200`` runs that many, ``JLAYERS_SEEDS=40:80`` those.
The arithmetic is float64, so that a difference is a bug.
"""

import functools
import importlib.util
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export, lax

import jlayers as jl

FIRST, _, LAST = os.environ.get("JLAYERS_SEEDS", "12").rpartition(":")
# The programs are large and run once, so what counts is the time to compile them.
FAST = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 12):
    FAST["xla_cpu_use_fusion_emitters"] = False
FUNCTIONS = ("tanh", "sin", "softplus", "wavy", "lambda")


def rich(f, x):
    """Everything that a compose body can ask for, and a child called twice."""
    gain = f.param("gain", jax.nn.initializers.ones, x.shape[-1:])
    level = f.variable("level", jax.nn.initializers.zeros, (), x.dtype)
    y = f.one(jnp.tanh(f.one(x))) * jnp.broadcast_to(gain, x.shape)
    if f.train:
        level.value = 0.5 * level.value + 0.5 * jnp.mean(y)
        y = y * jax.random.normal(f.key(), y.shape, y.dtype)
        y = y + jax.random.normal(f.key(), y.shape, y.dtype)
    return x + y


def wired(program):
    def body(f, x):
        values = [x]
        for step, i, which in program:
            if step == "call":
                values.append(f[which](values[i]))
            else:
                values.append(getattr(jnp, step)(values[i], values[which]))
        return values[-1]

    return body


def wavy(x):
    return 0.5 * x + jnp.sin(x)


def members_mean(y):
    return jnp.mean(y, 0)


NAMES = vars(jl) | {f.__name__: f for f in (rich, wired, wavy, members_mean)} | {"jax": jax}


def build(node, made):
    """The jlayers model of a description; equal parts are one ``Layer`` object used again."""
    if not isinstance(node, tuple) or not node or not isinstance(node[0], str):
        return node
    if node not in made:
        name, *rest = node
        make = NAMES.get(name) or getattr(jnp, name, None) or getattr(jax.nn, name, None)
        if rest:
            options = {option: build(value, made) for option, value in dict(*rest[1:]).items()}
            make = make(*(build(argument, made) for argument in rest[0]), **options)
        made[node] = make or (lambda x: wavy(x))
    return made[node]


def chain(*nodes):
    return nodes[0] if len(nodes) == 1 else ("serial", nodes)


class Grower:
    """Grows descriptions in which every layer fits the shape that reaches it."""

    def __init__(self, seed):
        self.rng = np.random.default_rng((seed, 5))  # of which twelve cover all

    def one(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def some(self, **options):
        return tuple(item for item in options.items() if self.one(True, False))

    def model(self, depth=4):
        """A description, the shape of its input, and whether that holds integers below 5."""
        node = ()
        while not 300 < len(repr(node)) < 1000:  # about 10 to 30 layers
            self.room, shape = 8, self.one((2, 3), (2, 4, 3), (2, 4, 4, 2), (2, 4))
            ids = shape == (2, 4)
            node, _ = self.grow((2, 4, 3) if ids else shape, depth)
            node = self.one(node, node, ("branch", (), (("z", node), ("a", ("sin",)))))
        return chain(("Embedding", (5, 3)), node) if ids else node, shape, ids

    def grow(self, shape, depth):
        """A tree for inputs of ``shape``, and the shape of its output."""
        if depth == 0 or self.room <= 0 or (depth < 4 and self.rng.random() < 0.15):
            self.room -= 1
            return self.leaf(shape, self.one(2, 3))
        kinds = [self.serial, self.merge, self.fan, self.residual, self.copies, self.wrap]
        kinds += [self.serial, self.compose] + [self.bidirectional] * 2 * (len(shape) == 3)
        return self.one(*kinds)(shape, depth - 1)

    def to(self, shape, target, depth, dense=False):
        """A tree to the shape ``target``; two that end in a dense layer never tie."""
        node, got = self.grow(shape, depth)
        if got[:-1] == target[:-1]:
            return chain(node, *[("Dense", target[-1:])] * (dense or got != target))
        size = math.prod(target[1:])
        reshape = [("Reshape", (target[1:],))] * (len(target) > 2)
        return chain(node, ("Flatten", ()), ("Dense", (size,)), *reshape)

    def named(self, nodes, cut):
        """Children by position up to ``cut``, and by keyword from there."""
        return tuple(nodes[:cut]), tuple(zip(("zeta", "alpha", "mid"), nodes[cut:], strict=False))

    def serial(self, shape, depth):
        nodes = [("serial", ())] * self.one(0, 0, 0, 1)
        for _ in range(self.one(2, 2, 3)):
            node, y = self.grow(shape, depth)
            nodes += [node] * (self.one(1, 2) if shape == y else 1)
            shape = y
        return ("serial", *self.named(nodes, len(nodes) - self.one(0, 1, 2))), shape

    def merging(self, shape):
        """A kind of merge, its options, how many it merges, and the shape of the result."""
        kind = self.one("concat", "concat", *reference.MERGES)
        count, axis, y = self.one(2, 2, 3), self.one(-1, 1), list(shape)
        if kind != "concat":
            return kind, (), count, shape
        y[axis] *= count
        return kind, (("axis", axis),), count, tuple(y)

    def merge(self, shape, depth):
        target = (*shape[:-1], self.one(2, 3))
        kind, options, count, y = self.merging(target)
        nodes = [self.to(shape, target, depth, dense=True) for _ in range(count)]
        nodes, named = self.named(nodes, self.one(0, 1, 2))
        return (kind, nodes, named + options), y

    def fan(self, shape, depth):
        target = (*shape[:-1], self.one(2, 3))
        kind, options, count, y = self.merging(target)
        fork = [self.grow(shape, depth) for _ in range(count)]
        join = [self.to(middle, target, 0, dense=True) for _, middle in fork]
        cut = self.one(0, count)
        fork = ("branch", *self.named([node for node, _ in fork], cut))
        join = ("parallel", *self.named(join, cut))
        return chain(fork, self.one(join, ("remat", (join,))), (kind, (), options)), y

    def residual(self, shape, depth):
        if self.one(True, False):
            return ("residual", (self.to(shape, shape, depth),)), shape
        node, y = self.grow(shape, depth)
        return ("residual", (node, self.to(shape, y, 0))), y

    def copies(self, shape, depth):
        n = self.one(2, 3)
        if self.one(True, False):
            return ("repeat", (self.to(shape, shape, depth), n), self.some(remat=True)), shape
        node, y = self.grow(shape, depth)
        return chain(("ensemble", (node, n)), ("members_mean",)), y

    def wrap(self, shape, depth):
        if len(shape) == 2 or self.one(True, False, False):
            node, y = self.grow(shape, depth)
            return ("remat", (node,)), y
        node, y = self.grow((shape[0] * shape[1], *shape[2:]), depth)
        return ("each_step", (node,)), (*shape[:2], *y[1:])

    def bidirectional(self, shape, depth):
        node, y = self.grow(shape, depth)
        options = self.some(backward=self.to(shape, y, 0))
        merge = self.one(None, ("add", ()), ("serial", ()))
        if merge is None:
            return ("bidirectional", (node,), options), (*y[:-1], 2 * y[-1])
        both = ("bidirectional", (node, merge), options)
        return (both if merge == ("add", ()) else chain(both, ("average", ()))), y

    def compose(self, shape, depth):
        name = self.some(name="own")
        if self.one(True, False):
            layers = (("one", self.to(shape, shape, depth)), *name)
            return ("compose", (("rich",),), layers), shape
        names, program = ("b", "c", "a")[: self.one(1, 2)], []
        for child in (*names, self.one(*names)):
            program.append(("call", self.one(*range(len(program) + 1)), child))
        for i in range(len(program)):
            program.append((self.one("add", "multiply"), i, len(program)))
        layers = tuple((child, self.to(shape, shape, depth)) for child in names)
        return ("compose", (("wired", (tuple(program),)),), (*layers, *name)), shape

    def leaf(self, shape, features):
        size, sequence, image = math.prod(shape[1:]), len(shape) == 3, len(shape) > 2
        name = self.one(
            *("Dense", "Dense", "LayerNorm", "BatchNorm", "Dropout", "Flatten", "Reshape", ""),
            *("LSTM", "GRU", "SimpleRNN", "LSTM", "GRU", "SimpleRNN") * sequence,
            *("Conv", "Conv", "MaxPool", "AvgPool", "GlobalMaxPool", "GlobalAvgPool") * image,
        )
        if name in ("Conv", "MaxPool", "AvgPool"):
            return self.window(name, shape, features)
        if name == "Dense":
            return (name, (features,), self.some(bias=False)), (*shape[:-1], features)
        if name in ("LSTM", "GRU", "SimpleRNN"):
            options = self.some(return_sequences=False, reverse=True, bias=False)
            y = shape[:1] if "return_sequences" in dict(options) else shape[:2]
            return (name, (features,), options), (*y, features)
        if name == "Reshape" and size % 2 == 0 and size > 2:
            return (name, ((2, -1),)), (shape[0], 2, size // 2)
        if name in ("Flatten", "Reshape"):
            return ("Flatten", ()), (shape[0], size)
        if name.startswith("Global"):
            return (name, ()), (shape[0], shape[-1])
        if name == "LayerNorm":
            return (name, (), self.some(scale=False, bias=False)), shape
        others = {"Dropout": ("Dropout", (0.5,)), "BatchNorm": ("BatchNorm", ())}
        return others.get(name, (self.one(*FUNCTIONS),)), shape

    def window(self, name, shape, features):
        sizes, conv = shape[1:-1], name == "Conv"
        padding = self.one("VALID", "SAME", *["CAUSAL"] * (conv and len(shape) == 3))
        window = tuple(self.one(1, min(2, n), min(3, n)) for n in sizes)
        strides = tuple(self.one(1, 2) for _ in sizes)
        lost = [k - 1 if padding == "VALID" else 0 for k in window]
        y = [(n - k - 1) // s + 1 for n, k, s in zip(sizes, lost, strides, strict=True)]
        options = (("padding", padding), ("strides", strides))
        if not conv:
            options += self.some(count_include_pad=True) if name == "AvgPool" else ()
            return (name, (window,), options), (shape[0], *y, shape[-1])
        dilated = all(2 * k < n for k, n in zip(window, sizes, strict=True)) and padding == "SAME"
        options += self.some(bias=False) + self.some(dilation=2) * dilated
        options += self.some(groups=2) if shape[-1] % 2 == features % 2 == 0 else ()
        return (name, (features, window), options), (shape[0], *y, features)


def take(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def loop_scan(step, carry, xs):
    carry, first = step(carry, take(xs, 0))
    carry, second = step(carry, take(xs, 1))
    return carry, stack(first, second)


def transformed(apply, by_hand, params, others, state, xs, keys, direction):
    """What each transformation makes of a model, or by hand what it ought to make of it."""
    weights = (params, xs[0])[: len(direction)]

    def run(params, x=xs[0]):
        return apply(params, state, x)[0]

    def loss(weights):
        return sum(jnp.mean(jnp.sin(y) + y**2) for y in jax.tree.leaves(run(*weights)))

    def step(moving, inputs):
        y, moving = apply(params, moving, *inputs, True)
        return moving, (y, run(params, inputs[0]))

    gradient, curvature = jax.jvp(jax.grad(loss), (weights,), (direction,))
    y = run(params)
    return {
        "jit": y,
        "grad": gradient,
        "forward over reverse": curvature,
        "vmap": stack(y, run(others))
        if by_hand
        else jax.vmap(run, axis_size=2)(stack(params, others)),
        "checkpoint": gradient if by_hand else jax.grad(jax.checkpoint(loss))(weights),
        "scan": (loop_scan if by_hand else lax.scan)(step, state, (xs, keys)),
    }


def close(what, got, wanted, tolerance=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(wanted), what
    size = max((np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)), default=0)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (what, path)
        off = np.abs(a - b).max()
        assert off <= tolerance * size, f"{what} {jax.tree_util.keystr(path)}: {off} of {size}"


def check(node, shape, ids, seed):
    rng, key, model = np.random.default_rng(seed), jax.random.key(seed), jl.lift(build(node, {}))
    xs = jnp.asarray(rng.integers(0, 5, (2, *shape)) if ids else rng.normal(size=(2, *shape)))
    made = model.init(key, xs[0])
    init = jax.jit(model.init, compiler_options=FAST)
    close("init", init(key, xs[0]), made, 1e-6 if ids else 1e-14)

    def stir(leaf):  # float64, and not as its initialiser made it; variances stay positive
        return jnp.asarray(np.asarray(leaf, float) + rng.uniform(0.1, 0.5, leaf.shape))

    (params, state), (others, _) = jax.tree.map(stir, made), jax.tree.map(stir, made)
    direction = jax.tree.map(stir, (params, xs[0])[: 2 - ids])
    arguments = (params, others, state, xs, jax.random.split(key), direction)
    by_hand = functools.partial(reference.run, node)
    jit = functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
    wanted = jit(transformed)(by_hand, True, *arguments)
    got = jit(transformed)(model.apply, False, *arguments)
    for what in wanted:
        close(what, got[what], wanted[what])
    y, same = model.apply(params, state, xs[0])
    close("apply", y, wanted["jit"])
    assert same is state
    assert ids or jl.out_spec(model, xs[0]) == jax.eval_shape(lambda: y)
    exported = export.export(jax.jit(model.apply))(params, state, xs[0])
    if importlib.util.find_spec("flatbuffers"):
        exported = export.deserialize(exported.serialize())
    close("export", exported.call(params, state, xs[0])[0], wanted["jit"])
    if "lambda" not in names(node):
        again = eval(repr(model), dict(NAMES))
        assert repr(again) == repr(model)
        close("repr", again.init(key, xs[0]), made, 0)


def names(node):
    """The names of all layers in a description."""
    if not isinstance(node, tuple) or not node:
        return set()
    own = {node[0]} if isinstance(node[0], str) else set()
    return own.union(*map(names, node))


@pytest.mark.parametrize("seed", range(int(FIRST or 0), int(LAST)))
def test_a_random_model(seed):
    with jax.enable_x64(True):
        check(*Grower(seed).model(), seed)


def test_the_seeds_cover_all():
    grown = set().union(*(names(Grower(seed).model()[0]) for seed in range(12)))
    assert set(reference.RULES) <= grown
