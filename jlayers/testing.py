"""check_layer: the contract as code, for jlayers' own layers and for anybody's.

Each law is a function that raises ``AssertionError`` with its number and what it found.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from .errors import LayerError
from .layer import Layer, lift
from .naming import child_key
from .specs import PyTree, placeholders, show, specs_of
from .trace import out_spec, trace

_FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
_FLOAT64 = {"rtol": 1e-6, "atol": 1e-8}
_BFLOAT16 = {"rtol": 0.1, "atol": 0.1}


def check_layer(
    layer: Any,
    x: PyTree,
    *,
    batch_axis: int | None = 0,
    same_dtype: bool = True,
) -> None:
    """Checks a layer against the laws of jlayers, in training and out of it.

    1. ``init`` gives arrays, looks at shapes and dtypes alone, and works under ``jit``, ``vmap``,
       ``eval_shape`` and ``out_shardings``.
    2. Parameters and state are nested dicts with string keys and without empty entries.
    3. State keeps its structure, shapes and dtypes; out of training it does not change.
    4. ``apply`` is pure: ``jit`` and ``vmap`` change nothing; a second call traces nothing.
    5. ``grad``, ``jvp``, ``vmap`` of ``grad``, forward-over-reverse, ``scan``, ``remat`` and
       ``eval_shape`` work and agree.
    6. Gradients match finite differences in float64.
    7. A layer that needs a key and gets none raises a ``LayerError``.
    8. A child's initial values depend on the key and the child's name alone.
    9. bfloat16 in gives bfloat16 out, near the float32 output.
    10. Out of training, garbage in one row of the batch changes no other row.

    Args:
      layer: a ``Layer`` or a function of one argument.
      x: an input: arrays, or specs for random floats and for integers 0 and 1. A few small
        sizes will do; take sizes that differ from axis to axis.
      batch_axis: axis of every output leaf along which the batch runs, for law 10; None if the
        rows of the input's first axis are not independent.
      same_dtype: False for a layer whose documented output dtype is not its input's.

    Raises:
      AssertionError: naming the law that does not hold, and where.

    >>> import jlayers as jl
    >>> from jlayers.testing import check_layer
    >>> check_layer(jl.Dense(4), jl.spec((3, 5)))
    """
    case = _Case(lift(layer), x)
    for law in (
        _law_1_init,
        _law_2_trees,
        _law_3_state,
        _law_4_pure,
        _law_5_and_6_derivatives,
        _law_5_loops,
        _law_7_keys,
        _law_8_child_keys,
    ):
        law(case)
    if same_dtype:
        _law_9_dtypes(case)
    if batch_axis is not None:
        _law_10_rows(case, batch_axis)


class _Case:
    """A layer, an input and values for both, in the dtypes that came in."""

    def __init__(self, layer: Layer, x: PyTree):
        self.layer = layer
        self.key = jax.random.key(7)
        self.x = _values(x)
        self.params, self.state = layer.init(self.key, self.x)
        programs = [
            str(jax.make_jaxpr(lambda p, x: self.apply(p, x, train))(self.params, self.x))  # noqa: B023
            for train in (False, True)
        ]
        # Where training runs the same program, checking it twice costs compilations alone.
        self.modes = (False, True) if programs[0] != programs[1] else (False,)

    def apply(self, params: PyTree, x: PyTree, train: bool, state: PyTree = None) -> Any:
        state = self.state if state is None else state
        return self.layer.apply(params, state, x, key=self.key, train=train)

    def fail(self, law: int, text: str) -> None:
        raise AssertionError(f"law {law}: {self.layer.short()}: {text}")

    def same(self, law: int, text: str, got: PyTree, expected: PyTree, **tolerance: float) -> None:
        if jax.tree.structure(got) != jax.tree.structure(expected):  # type: ignore[operator]
            self.fail(
                law, f"{text}: structure {show(specs_of(got))}, not {show(specs_of(expected))}"
            )
        for (path, a), b in zip(
            jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            where = f"{text} {jax.tree_util.keystr(path, simple=True, separator='/')}".strip()
            if a.dtype != b.dtype or a.shape != b.shape:
                self.fail(law, f"{where}: {show(specs_of(a))}, not {show(specs_of(b))}")
            try:
                np.testing.assert_allclose(_numbers(a), _numbers(b), **tolerance)
            except AssertionError as error:
                self.fail(law, f"{where} differs: {error}")


def _law_1_init(case: _Case) -> None:
    layer, key, x = case.layer, case.key, case.x
    made = (case.params, case.state)
    for leaf in jax.tree.leaves(made):
        if not isinstance(leaf, jax.Array):
            case.fail(1, f"init gives a {type(leaf).__name__}, not arrays alone")
    case.same(1, "init of specs", layer.init(key, specs_of(x)), made, rtol=0)
    case.same(1, "init of other values", layer.init(key, placeholders(specs_of(x))), made, rtol=0)
    jaxpr = jax.make_jaxpr(layer.init)(key, x).jaxpr
    inputs = set(map(id, jaxpr.invars[1:]))
    if any(id(v) in inputs for e in jaxpr.eqns for v in e.invars):
        case.fail(1, "init computes with the values of x")
    if jax.eval_shape(layer.init, key, x) != specs_of(made):
        case.fail(1, "eval_shape of init gives other shapes")
    mesh = jax.make_mesh((len(jax.devices()),), ("all",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    sharded = jax.jit(layer.init, out_shardings=everywhere)(key, x)
    case.same(1, "init under jit with out_shardings", sharded, made, **_FLOAT32)
    keys = jax.random.split(key, 2)
    stacked = jax.vmap(lambda key: layer.init(key, x))(keys)
    case.same(1, "vmap of init", _item(stacked, 1), layer.init(keys[1], x), **_FLOAT32)


def _law_2_trees(case: _Case) -> None:
    def check(tree: PyTree, what: str) -> None:
        for name, value in tree.items():
            if not isinstance(name, str):
                case.fail(2, f"{what} has the key {name!r}")
            if isinstance(value, dict):
                if not value:
                    case.fail(2, f"{what} has an empty entry {name!r}")
                check(value, what)

    check(case.params, "params")
    check(case.state, "state")


def _law_3_state(case: _Case) -> None:
    _, trained = case.apply(case.params, case.x, True)
    if specs_of(trained) != specs_of(case.state):
        case.fail(3, f"state becomes {show(specs_of(trained))}, was {show(specs_of(case.state))}")
    _, kept = case.apply(case.params, case.x, False, trained)
    case.same(3, "state out of training", kept, trained, rtol=0)


def _law_4_pure(case: _Case) -> None:
    for train in case.modes:
        traced = 0

        def count(params: PyTree, state: PyTree, x: PyTree) -> Any:
            nonlocal traced
            traced += 1
            return case.apply(params, x, train, state)  # noqa: B023

        eager = case.apply(case.params, case.x, train)
        if specs_of(eager[0]) != out_spec(case.layer, case.x):
            case.fail(4, "out_spec differs from the output")
        jitted = jax.jit(count)
        case.same(4, "jit of apply", jitted(case.params, case.state, case.x), eager, **_FLOAT32)
        jitted(case.params, case.state, jax.tree.map(jnp.zeros_like, case.x))
        if traced != 1:
            case.fail(4, f"{traced} traces for two calls with one set of shapes")
        xs = jax.tree.map(lambda a: jnp.stack([a, jnp.flip(a, 0) if a.ndim else a]), case.x)
        mapped = jax.jit(jax.vmap(count, (None, None, 0)))(case.params, case.state, xs)
        looped = [jitted(case.params, case.state, _item(xs, i)) for i in range(2)]
        case.same(4, "vmap of apply", mapped, _stack(looped), **_FLOAT32)


def _law_5_and_6_derivatives(case: _Case) -> None:
    with jax.enable_x64(True):
        wide = _as_float(case.x, jnp.float64)
        params, state = _as_float(case.layer.init(case.key, wide), jnp.float64)
        for train in case.modes:
            _derivatives(case, params, state, wide, train)


def _derivatives(case: _Case, params: PyTree, state: PyTree, x: PyTree, train: bool) -> None:
    if not any(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves((params, x))):
        return
    y, _ = case.apply(params, x, train, state)
    weights = _random_like(y, 1)

    def loss(at: PyTree) -> jax.Array:
        y, _ = case.apply(at["params"], _merge(at["x"], x), train, state)
        terms = jax.tree.map(lambda a, w: jnp.sum(jnp.sin(a) * w), y, weights)
        return sum(jax.tree.leaves(terms), jnp.zeros(()))

    at = {"params": params, "x": _floats(x)}
    u, v = _random_like(at, 2), _random_like(at, 3)
    grad = jax.grad(loss)

    @jax.jit
    def derivatives(at: PyTree) -> tuple[Any, ...]:
        gradient = grad(at)
        _, forward = jax.jvp(loss, (at,), (v,))
        _, hessian_v = jax.jvp(grad, (at,), (v,))
        _, hessian_u = jax.jvp(grad, (at,), (u,))
        again = jax.grad(jax.checkpoint(loss))(at)
        two = jax.vmap(grad)(_stack([at, at]))
        return gradient, forward, hessian_v, hessian_u, again, two

    value = jax.jit(lambda step: loss(_move(at, v, step)))
    slope = jax.jit(lambda step: _dot(grad(_move(at, v, step)), u))
    gradient, forward, hessian_v, hessian_u, again, two = derivatives(at)
    step = 1e-6
    mode = "in training" if train else "out of training"
    case.same(5, f"jvp against grad {mode}", forward, _dot(gradient, v), **_FLOAT64)
    case.same(5, f"grad of remat {mode}", again, gradient, **_FLOAT64)
    case.same(5, f"vmap of grad {mode}", _item(two, 1), gradient, **_FLOAT64)
    case.same(
        5, f"symmetry of the Hessian {mode}", _dot(hessian_v, u), _dot(hessian_u, v), **_FLOAT64
    )
    near = {"rtol": 1e-5, "atol": 1e-6}
    difference = (value(step) - value(-step)) / (2 * step)
    case.same(6, f"gradient against differences {mode}", forward, difference, **near)
    difference = (slope(step) - slope(-step)) / (2 * step)
    case.same(6, f"Hessian against differences {mode}", _dot(hessian_v, u), difference, **near)


def _law_5_loops(case: _Case) -> None:
    def step(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        y, state = case.apply(case.params, x, True, state)
        return state, y

    xs = _stack([case.x, case.x])
    state, outputs = jax.jit(lambda state: jax.lax.scan(step, state, xs))(case.state)
    middle, first = step(case.state, case.x)
    last, second = step(middle, case.x)
    case.same(5, "scan of apply", (state, outputs), (last, _stack([first, second])), **_FLOAT32)
    shapes = jax.eval_shape(lambda p, x: case.apply(p, x, False)[0], case.params, case.x)
    if shapes != out_spec(case.layer, case.x):
        case.fail(5, "eval_shape of apply gives other shapes")


def _law_7_keys(case: _Case) -> None:
    def run(key: Any, train: bool) -> PyTree:
        return case.layer.apply(case.params, case.state, case.x, key=key, train=train)[0]

    for train in (False, True):
        try:
            without = run(None, train)
        except LayerError as error:
            if "key" not in str(error):
                raise
            continue
        for seed in (1, 2):
            drawn = run(jax.random.key(seed), train)
            case.same(7, "the output uses a key when there is one", drawn, without, **_FLOAT32)


def _law_8_child_keys(case: _Case) -> None:
    found = trace(case.layer, case.x)
    for name, child in case.layer.children.items():
        if not name:
            continue  # a wrapper's child goes by the wrapper's own key
        alone, _ = child.init(child_key(case.key, name), found.inputs[name][0])  # type: ignore[arg-type]
        case.same(8, f"child {name!r}", case.params.get(name, {}), alone, **_FLOAT32)


def _law_9_dtypes(case: _Case) -> None:
    if not _floats(case.x):
        return
    narrow = _as_float(case.x, jnp.bfloat16)
    params, state = case.layer.init(case.key, narrow)
    case.same(9, "parameters for bfloat16", specs_zero(params), specs_zero(case.params), rtol=0)
    for train in case.modes:
        y, _ = case.apply(params, narrow, train, state)
        wide, _ = case.apply(params, _as_float(narrow, jnp.float32), train, state)
        expected = _as_float(wide, jnp.bfloat16)
        case.same(9, "the bfloat16 output", y, expected, **_BFLOAT16)


def _law_10_rows(case: _Case, axis: int) -> None:
    def spoil(a: jax.Array) -> jax.Array:
        if a.ndim == 0:
            return a
        garbage = jnp.nan if jnp.issubdtype(a.dtype, jnp.floating) else 1 - a[0]
        return a.at[0].set(garbage)

    def others(y: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.delete(a, 0, axis), y)

    clean, _ = case.apply(case.params, case.x, False)
    spoiled, _ = case.apply(case.params, jax.tree.map(spoil, case.x), False)
    case.same(10, "rows beside a row of garbage", others(spoiled), others(clean), **_FLOAT32)


def specs_zero(tree: PyTree) -> PyTree:
    """Zeros of the tree's shapes and dtypes, so that only these are compared."""
    return placeholders(specs_of(tree))


def _values(x: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(specs_of(x))
    given = jax.tree.leaves(x)
    made = []
    for i, (leaf, spec) in enumerate(zip(given, leaves, strict=True)):
        key = jax.random.fold_in(jax.random.key(11), i)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            made.append(jnp.asarray(leaf))
        elif jnp.issubdtype(spec.dtype, jnp.floating):
            made.append(jax.random.normal(key, spec.shape, spec.dtype))
        else:
            made.append(jax.random.bernoulli(key, 0.5, spec.shape).astype(spec.dtype))
    return treedef.unflatten(made)


def _as_float(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def _floats(x: PyTree) -> list[jax.Array]:
    return [a for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]


def _merge(floats: list[jax.Array], x: PyTree) -> PyTree:
    remaining = iter(floats)
    return jax.tree.map(
        lambda a: next(remaining) if jnp.issubdtype(a.dtype, jnp.floating) else a, x
    )


def _random_like(tree: PyTree, seed: int) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    generator = np.random.default_rng(seed)
    return treedef.unflatten([jnp.asarray(generator.normal(size=a.shape), a.dtype) for a in leaves])


def _move(at: PyTree, direction: PyTree, step: jax.Array) -> PyTree:
    return jax.tree.map(lambda a, d: a + step * d, at, direction)


def _dot(a: PyTree, b: PyTree) -> jax.Array:
    terms = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    return sum(jax.tree.leaves(terms), jnp.zeros(()))


def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _item(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda a: a[i], tree)


def _numbers(a: jax.Array) -> np.ndarray:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(a))
    return np.asarray(a, np.float64 if a.dtype.itemsize < 8 else a.dtype)
