"""check_layer: the contract as code, for jlayers' own layers and for anybody's.

Each law is a function that raises ``AssertionError`` with its number and what it found.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ..base.constructors import lift, out_spec
from ..base.errors import LayerError
from ..base.naming import child_key
from ..base.specs import PyTree, format_spec, specs_of
from ..base.tracing import trace
from .case import (
    Case,
    as_float,
    dot,
    floats_of,
    item,
    moved,
    other_than,
    random_like,
    stacked,
    with_floats,
    zeros_of,
)

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
    case = Case(lift(layer), x)
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


def _law_1_init(case: Case) -> None:
    layer, key, x = case.layer, case.key, case.x
    made = (case.params, case.state)
    for leaf in jax.tree.leaves(made):
        if not isinstance(leaf, jax.Array):
            case.fail(1, f"init gives a {type(leaf).__name__}, not arrays alone")
    case.same(1, "init of specs", layer.init(key, specs_of(x)), made, rtol=0)
    case.same(1, "init of other values", layer.init(key, zeros_of(x)), made, rtol=0)
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
    case.same(1, "vmap of init", item(stacked, 1), layer.init(keys[1], x), **_FLOAT32)


def _law_2_trees(case: Case) -> None:
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


def _law_3_state(case: Case) -> None:
    _, trained = case.apply(case.params, case.x, True)
    if specs_of(trained) != specs_of(case.state):
        case.fail(
            3,
            f"state becomes {format_spec(specs_of(trained))}, "
            f"was {format_spec(specs_of(case.state))}",
        )
    _, kept = case.apply(case.params, case.x, False, trained)
    case.same(3, "state out of training", kept, trained, rtol=0)


def _law_4_pure(case: Case) -> None:
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
        looped = [jitted(case.params, case.state, item(xs, i)) for i in range(2)]
        case.same(4, "vmap of apply", mapped, stacked(looped), **_FLOAT32)


def _law_5_and_6_derivatives(case: Case) -> None:
    with jax.enable_x64(True):
        wide = as_float(case.x, jnp.float64)
        params, state = as_float(case.layer.init(case.key, wide), jnp.float64)
        for train in case.modes:
            _derivatives(case, params, state, wide, train)


def _derivatives(case: Case, params: PyTree, state: PyTree, x: PyTree, train: bool) -> None:
    if not any(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves((params, x))):
        return
    # Its shapes alone: without jit, layers that loop are compiled anew at each call.
    y, _ = jax.eval_shape(lambda: case.apply(params, x, train, state))
    weights = random_like(y, 1)

    def loss(at: PyTree) -> jax.Array:
        y, _ = case.apply(at["params"], with_floats(at["x"], x), train, state)
        terms = jax.tree.map(lambda a, w: jnp.sum(jnp.sin(a) * w), y, weights)
        return sum(jax.tree.leaves(terms), jnp.zeros(()))

    at = {"params": params, "x": floats_of(x)}
    u, v = random_like(at, 2), random_like(at, 3)
    grad = jax.grad(loss)

    @jax.jit
    def derivatives(at: PyTree) -> tuple[Any, ...]:
        gradient = grad(at)
        _, forward = jax.jvp(loss, (at,), (v,))
        _, hessian_v = jax.jvp(grad, (at,), (v,))
        _, hessian_u = jax.jvp(grad, (at,), (u,))
        again = jax.grad(jax.checkpoint(loss))(at)
        two = jax.vmap(grad)(stacked([at, at]))
        return gradient, forward, hessian_v, hessian_u, again, two

    value = jax.jit(lambda step: loss(moved(at, v, step)))
    slope = jax.jit(lambda step: dot(grad(moved(at, v, step)), u))
    gradient, forward, hessian_v, hessian_u, again, two = derivatives(at)
    step = 1e-6
    mode = "in training" if train else "out of training"
    case.same(5, f"jvp against grad {mode}", forward, dot(gradient, v), **_FLOAT64)
    case.same(5, f"grad of remat {mode}", again, gradient, **_FLOAT64)
    case.same(5, f"vmap of grad {mode}", item(two, 1), gradient, **_FLOAT64)
    case.same(
        5, f"symmetry of the Hessian {mode}", dot(hessian_v, u), dot(hessian_u, v), **_FLOAT64
    )
    near = {"rtol": 1e-5, "atol": 1e-6}
    difference = (value(step) - value(-step)) / (2 * step)
    case.same(6, f"gradient against differences {mode}", forward, difference, **near)
    difference = (slope(step) - slope(-step)) / (2 * step)
    case.same(6, f"Hessian against differences {mode}", dot(hessian_v, u), difference, **near)


def _law_5_loops(case: Case) -> None:
    def step(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        y, state = case.apply(case.params, x, True, state)
        return state, y

    xs = stacked([case.x, case.x])
    state, outputs = jax.jit(lambda state: jax.lax.scan(step, state, xs))(case.state)
    middle, first = step(case.state, case.x)
    last, second = step(middle, case.x)
    case.same(5, "scan of apply", (state, outputs), (last, stacked([first, second])), **_FLOAT32)
    shapes = jax.eval_shape(lambda p, x: case.apply(p, x, False)[0], case.params, case.x)
    if shapes != out_spec(case.layer, case.x):
        case.fail(5, "eval_shape of apply gives other shapes")


def _law_7_keys(case: Case) -> None:
    def run(key: Any, train: bool) -> PyTree:
        return case.layer.apply(case.params, case.state, case.x, key=key, train=train)[0]

    for train in (False, True):
        try:
            without = run(None, train)
        except LayerError as error:
            if "key" not in error.problem:
                case.fail(7, f"without a key it raises: {error.problem}")
            continue
        for seed in (1, 2):
            drawn = run(jax.random.key(seed), train)
            case.same(7, "the output uses a key when there is one", drawn, without, **_FLOAT32)


def _law_8_child_keys(case: Case) -> None:
    found = trace(case.layer, case.x)
    for name, child in case.layer.children.items():
        if not name:
            continue  # a wrapper's child goes by the wrapper's own key
        alone = child.init(child_key(case.key, name), found.inputs[name][0])
        made = (case.params.get(name, {}), case.state.get(name, {}))
        case.same(8, f"child {name!r}", made, alone, **_FLOAT32)


def _law_9_dtypes(case: Case) -> None:
    if not floats_of(case.x):
        return
    narrow = as_float(case.x, jnp.bfloat16)
    params, state = case.layer.init(case.key, narrow)
    case.same(9, "parameters for bfloat16", zeros_of(params), zeros_of(case.params), rtol=0)
    for train in case.modes:
        y, _ = case.apply(params, narrow, train, state)
        wide, _ = case.apply(params, as_float(narrow, jnp.float32), train, state)
        expected = as_float(wide, jnp.bfloat16)
        case.same(9, "the bfloat16 output", y, expected, **_BFLOAT16)


def _law_10_rows(case: Case, axis: int) -> None:
    def spoil(a: jax.Array) -> jax.Array:
        if a.ndim == 0:
            return a
        garbage = jnp.nan if jnp.issubdtype(a.dtype, jnp.floating) else other_than(a[0])
        return a.at[0].set(garbage)

    def others(y: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.delete(a, 0, axis), y)

    clean, _ = case.apply(case.params, case.x, False)
    spoiled, _ = case.apply(case.params, jax.tree.map(spoil, case.x), False)
    case.same(10, "rows beside a row of garbage", others(spoiled), others(clean), **_FLOAT32)
