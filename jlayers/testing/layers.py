"""check_layer: the contract as code, for jlayers' own layers and for anybody's.

How to read this file: ``check_layer`` lists the laws and calls a function for each, which raises
``AssertionError`` with the law's number and what it found. To compile is what a check costs, so the
laws share programs (``cases.Program``, ``derivatives``), and all that is computed beside the layer
is NumPy (``trees``).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from ..base.adapters import out_spec
from ..base.constructors import lift
from ..base.errors import LayerError
from ..base.parameters import child_key
from ..base.specs import specs_of
from ..base.tracing import trace
from ..base.types import PyTree
from .cases import Case
from .derivatives import check_derivatives
from .purity import same_program, same_traces
from .trees import as_float, floats_of, item, map_numpy, stacked, with_garbage_row, without_first

# Two programs of one function may round differently, sums in another order most of all.
_FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
# bfloat16 has 8 significant bits and a layer rounds many times: only what is wrong is further off.
_BFLOAT16 = {"rtol": 0.1, "atol": 0.1}


def check_layer(
    layer: Any,
    x: PyTree,
    *,
    batch_axis: int | None = 0,
    same_dtype: bool = True,
    symbolic_axes: tuple[int, ...] = (0,),
    differences: bool = True,
) -> None:
    """Checks a layer against the laws of jlayers, in training and out of it.

    1. ``init`` gives arrays, looks at shapes and dtypes alone, and works under ``jit``, ``vmap``,
       ``eval_shape`` and ``out_shardings``.
    2. Parameters and state are nested dicts with string keys and without empty entries.
    3. State keeps its structure, shapes and dtypes; out of training it does not change.
    4. ``apply`` is pure: ``vmap`` changes nothing; a second call traces nothing, and a second trace
       gives the same program.
    5. ``grad``, ``jvp``, ``vmap`` of ``grad``, forward-over-reverse, ``scan``, ``remat`` and
       ``eval_shape`` work and agree.
    6. Gradients match finite differences in float64.
    7. A layer that needs a key and gets none raises a ``LayerError``.
    8. A child's initial values depend on the key and the child's name alone.
    9. bfloat16 in gives bfloat16 out, near the float32 output.
    10. Out of training, garbage in one row of the batch changes no other row.
    11. It runs without ``jit`` to the same numbers, and exports (``jax.export``) with axes whose
        sizes are symbolic: the exported program gives the same numbers too.

    Args:
      layer: a ``Layer`` or a function of one argument.
      x: an input: arrays, or specs for random floats and for integers 0 and 1. A few small
        sizes will do; take sizes that differ from axis to axis.
      batch_axis: axis of every output leaf along which the batch runs, for law 10; None if the
        rows of the input's first axis are not independent.
      same_dtype: False for a layer whose documented output dtype is not its input's.
      symbolic_axes: axes of every input array that have no size when the layer is exported, for law
        11: the batch, and ``(0, 1)`` where the second axis is time. ``()`` exports for the sizes of
        ``x``.

      differences: False for a layer whose gradient is another one by intention, as that of a
        quantiser which passes it straight through: law 6 is then left out.

    Raises:
      AssertionError: naming the law that does not hold, and where.

    >>> import jlayers as jl
    >>> from jlayers.testing import check_layer
    >>> check_layer(jl.Dense(4), jl.spec((3, 5)))
    """
    case = Case(lift(layer), x)
    _law_1_and_8_init(case)
    _law_2_trees(case)
    # Purity first: what a layer keeps in Python would show as any other law's failure.
    _law_4_pure(case)
    _law_3_state(case)
    check_derivatives(case, differences)
    _law_5_loops(case)
    _law_7_keys(case)
    _law_11_without_jit(case)
    _law_11_export(case, symbolic_axes)
    if same_dtype:
        _law_9_dtypes(case)
    if batch_axis is not None:
        _law_10_rows(case, batch_axis)


def _law_1_and_8_init(case: Case) -> None:
    layer, key, x = case.layer, case.key, case.x
    made = (case.params, case.state)
    for leaf in jax.tree.leaves(made):
        if not isinstance(leaf, jax.Array):
            case.fail(1, f"init gives a {type(leaf).__name__}, not arrays alone")
    case.same(1, "init of specs", layer.init(key, specs_of(x)), made, rtol=0)
    zeros = map_numpy(np.zeros_like, x)
    case.same(1, "init of other values", layer.init(key, zeros), made, rtol=0)
    # The key comes first among the inputs; no equation may read any of the others.
    jaxpr = jax.make_jaxpr(layer.init)(key, x).jaxpr
    inputs = set(map(id, jaxpr.invars[1:]))
    if any(id(v) in inputs for e in jaxpr.eqns for v in e.invars):
        case.fail(1, "init computes with the values of x")
    if jax.eval_shape(layer.init, key, x) != specs_of(made):
        case.fail(1, "eval_shape of init gives other shapes")
    other = jax.random.key(8)
    mapped, children = _inits_of(case)(key, other)
    what = "vmap of init under jit with out_shardings"
    case.same(1, what, item(mapped, 0), made, **_FLOAT32)
    case.same(1, what, item(mapped, 1), layer.init(other, x), **_FLOAT32)
    for name, alone in children.items():
        of_child = (case.params.get(name, {}), case.state.get(name, {}))
        case.same(8, f"child {name!r}", of_child, alone, **_FLOAT32)


def _inits_of(case: Case) -> Any:
    """One program, on all devices: ``init`` for two keys at once, and of each child alone."""
    layer, x = case.layer, specs_of(case.x)
    inputs = trace(layer, case.x).inputs
    # Over all devices there are: one by default, several where a test asks XLA for them.
    mesh = jax.make_mesh((len(jax.devices()),), ("all",))

    def run(key: jax.Array, other: jax.Array) -> Any:
        mapped = jax.vmap(lambda key: layer.init(key, x))(jnp.stack([key, other]))
        children = {
            name: child.init(child_key(key, name), inputs[name][0])
            for name, child in layer.children.items()
            if name  # a wrapper's child goes by the wrapper's own key
        }
        return mapped, children

    return jax.jit(run, out_shardings=NamedSharding(mesh, PartitionSpec()))


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
    _, trained = case.run(True)
    case.same_specs(3, "the state after training", trained, case.state)
    _, kept = case.run(False, state=trained)
    case.same(3, "state out of training", kept, trained, rtol=0)


def _law_4_pure(case: Case) -> None:
    for train in case.modes:
        program = case.programs[train]
        if not same_traces(jax.make_jaxpr(program.once)(*case.args), case.jaxprs[train]):
            case.fail(4, "a second trace of apply gives another program")
        ys = case.run(train)
        case.same_specs(4, "the output, by out_spec", ys[0], out_spec(case.layer, case.x))
        # Not new numbers: the layer takes these, ids among them, and so it does in another order.
        flipped = map_numpy(lambda a: np.flip(a, 0) if a.ndim else a, case.x)
        xs = stacked([case.x, flipped])
        mapped = jax.jit(jax.vmap(program.once, (None, None, 0, None)))(
            case.params, case.state, xs, case.key
        )
        looped = [ys, case.run(train, x=flipped)]
        case.same(4, "vmap of apply", mapped, stacked(looped), **_FLOAT32)
        if program.traces != 1:
            case.fail(4, f"{program.traces} traces for two calls with one set of shapes")


def _law_5_loops(case: Case) -> None:
    def scan(params: PyTree, state: PyTree, xs: PyTree, key: Any) -> PyTree:
        def step(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            y, state = case.programs[True].once(params, state, x, key)
            return state, y

        return jax.lax.scan(step, state, xs)

    scanned = jax.jit(scan)(case.params, case.state, stacked([case.x, case.x]), case.key)
    # By the program that has been compiled already, with the state passed on as a scan does.
    first, middle = case.run(True)
    second, last = case.run(True, state=middle)
    case.same(5, "scan of apply", scanned, (last, stacked([first, second])), **_FLOAT32)
    shapes = jax.eval_shape(case.programs[False].once, *case.args)[0]
    if shapes != out_spec(case.layer, case.x):
        case.fail(5, "eval_shape of apply gives other shapes")


def _law_7_keys(case: Case) -> None:
    for train in (False, True):
        without_key = case.programs[train].without_key
        try:
            jaxpr = jax.make_jaxpr(without_key)(*case.args)
        except LayerError as error:
            # Any other text would send the user looking for another mistake.
            if "key" not in error.problem:
                case.fail(7, f"without a key it raises: {error.problem}")
            continue
        if same_program(jaxpr, case.jaxprs[train]):
            continue
        # It accepts to have no key and yet its program uses one: then a key must change nothing.
        expected, _ = jax.jit(without_key)(*case.args)
        for seed in (1, 2):
            drawn, _ = case.run(train, key=jax.random.key(seed))
            case.same(7, "the output uses a key when there is one", drawn, expected, **_FLOAT32)


def _law_9_dtypes(case: Case) -> None:
    if not floats_of(case.x):
        return
    narrow = as_float(case.x, jnp.bfloat16)
    specs = jax.eval_shape(case.layer.init, case.key, narrow)
    case.same_specs(9, "parameters for bfloat16", specs[0], case.params)
    state = jax.tree.map(lambda a, spec: a.astype(spec.dtype), case.state, specs[1])
    for train in case.modes:
        run = jax.jit(case.programs[train].once)
        y, _ = run(case.params, state, narrow, case.key)
        # Of the narrow input: what its rounding changes is not the layer's doing.
        wide, _ = case.run(train, state=state, x=as_float(narrow, jnp.float32))
        expected = as_float(wide, jnp.bfloat16)
        case.same(9, "the bfloat16 output", y, expected, **_BFLOAT16)


def _law_10_rows(case: Case, axis: int) -> None:
    clean, _ = case.run(False)
    spoiled, _ = case.run(False, x=with_garbage_row(case.x))
    others = (without_first(y, axis) for y in (spoiled, clean))
    case.same(10, "rows beside a row of garbage", *others, **_FLOAT32)


def _law_11_without_jit(case: Case) -> None:
    # Each primitive by itself is a program in which XLA has little to rewrite.
    for train in case.modes:
        eager = case.programs[train].once(*case.args)
        case.same(11, "apply without jit", eager, case.run(train), **_FLOAT32)


def _law_11_export(case: Case, axes: tuple[int, ...]) -> None:
    specs = _with_symbolic_axes(specs_of(case.x), axes)
    given = specs_of((case.params, case.state))
    for train in case.modes:
        try:
            program = jax.jit(case.programs[train].once)
            exported = export.export(program)(*given, specs, case.key)
        except Exception as error:
            case.fail(11, f"cannot be exported with symbolic sizes of the axes {axes}: {error!r}")
        # Both modes are lowered; one of them is compiled, which is what costs.
        if not train:
            called = exported.call(*case.args)
            case.same(11, "the exported program", called, case.run(False), **_FLOAT32)


def _with_symbolic_axes(specs: PyTree, axes: tuple[int, ...]) -> PyTree:
    """Specs with a symbol for each of the axes; axes of one size share theirs."""
    leaves, treedef = jax.tree.flatten(specs)
    scope = export.SymbolicScope()
    shapes = [
        export.symbolic_shape(
            ", ".join(f"axis{i}of{n}" if i in axes else str(n) for i, n in enumerate(leaf.shape)),
            scope=scope,
        )
        for leaf in leaves
    ]
    symbolic = [
        jax.ShapeDtypeStruct(shape, leaf.dtype) for shape, leaf in zip(shapes, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, symbolic)
