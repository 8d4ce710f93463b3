"""audit: where a model changes from one floating dtype to another, and where it should not.

How to read this file: ``audit`` traces a model with its gradient (``dataflow``). ``_casts`` lists
what is cast, and the functions after it what is wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.arguments import flag
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import error_context, public_api
from ..base.layer import Layer
from ..base.paths import join
from ..base.specs import specs_of
from ..base.tracing import trace
from ..base.types import PyTree
from ..inspection.summary_columns import table_text
from ..inspection.traverse import walk
from .casts import is_in_precision
from .dataflow import MOVES, Operation, Program, Value

if TYPE_CHECKING:  # as in inspection.summary
    import rich.table

_CAST = "convert_element_type"
_SUMS = ("reduce_sum", "cumsum", "reduce_window_sum", "scatter-add", "scatter_add")


class Cast(NamedTuple):
    """One line of an audit.

    Attributes:
      path: of the layer; ``""`` for the model's own.
      where: ``"forward"``, ``"backward"`` or ``"params"``.
      what: ``"float32 -> bfloat16"`` for a cast, or a dtype.
      of: ``"parameters"`` or ``"activations"``.
      times: how often in one pass; a cast in a loop counts at each turn.
      unexpected: what is wrong with it; ``""`` if nothing is.
    """

    path: str
    where: str
    what: str
    of: str
    times: int
    unexpected: str = ""


class _Casts(tuple[Cast, ...]):
    """Casts; ``str`` and ``print`` give a table."""

    def __str__(self) -> str:
        return table_text(self.__rich__()) if self else "()"

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> rich.table.Table:
        import rich.box
        import rich.markup
        import rich.table

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for title in ("path", "where", "dtypes", "of", "times", "unexpected"):
            table.add_column(title, overflow="fold")
        for row in self:
            table.add_row(*(rich.markup.escape(str(cell)) for cell in row))
        return table


class Audit(NamedTuple):
    """What ``audit`` found; ``str`` and ``print`` give a table.

    Attributes:
      rows: all casts, those of a layer together.
    """

    rows: tuple[Cast, ...]

    @property
    def unexpected(self) -> tuple[Cast, ...]:
        """The rows with something wrong; printed, a table too."""
        return _Casts(row for row in self.rows if row.unexpected)

    def __str__(self) -> str:
        return table_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> rich.table.Table:
        return _Casts(self.rows).__rich__()


@public_api
def audit(layer: LayerOrFunction, x: PyTree, *, train: bool = True) -> Audit:
    """The casts of a model between floating dtypes, by layer, and those that are mistakes.

    The program is traced, with its gradient, and nothing is computed. Unexpected are

    * activations in float32 that are rounded to 16 bits, and used in float32 alone;
    * a layer with inputs of 16 bits alone that goes on in float32: a NumPy constant, for instance;
    * float64, where no input has it and no rule asks for it;
    * sums in 16 bits of more terms than it tells apart, 256 in bfloat16 and 2,048 in float16.
      ``jnp.sum`` sums in float32 by itself, and so do matrix products and convolutions on all
      platforms, whose result is rounded once;
    * in training, parameters that are stored in 16 bits: they lose small updates.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s.
      train: whether in training and with the gradient; otherwise in evaluation and without.

    Returns:
      An ``Audit``: print it for a table, read ``rows`` and ``unexpected``.

    Raises:
      LayerError: where ``x`` does not fit the model.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> wide = jl.serial(jl.Dense(8), half=lambda x: x.astype(jnp.float32) / 2, head=jl.Dense(3))
    >>> mixed = jl.transforms.precision(wide, "mixed")
    >>> for row in jl.transforms.audit(mixed, jl.spec((2, 8))).unexpected:
    ...     print(row.path, row.what, row.unexpected)
    half bfloat16 -> float32 its output is wider than its inputs
    """
    layer, train = lift(layer), flag("train", train)
    with error_context(layer):
        found = trace(layer, x)
        x = specs_of(x)
        paths = [path for path, _ in walk(layer)]
        program = _program(layer, x, train, paths)
    rows = [*_casts(program), *_wider(layer, x, ""), *_sums(program)]
    if not any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(x)):
        rows += _doubles(program)
    if train:
        rows += _stored(found.parameters, paths)
    # By layer, in the order of the model.
    order = {path: i for i, path in enumerate(dict.fromkeys(paths))}
    return Audit(tuple(sorted(rows, key=lambda row: (order[row.path], row.where != "params"))))


def _program(layer: Layer, x: PyTree, train: bool, paths: list[str]) -> Program:
    found = trace(layer, x)
    leaves, treedef = jax.tree.flatten(x)
    varying = [_is_floating(leaf) for leaf in leaves]

    def run(params: PyTree, state: PyTree, xs: list[Any], key: jax.Array) -> list[Any]:
        x = jax.tree.unflatten(treedef, xs)
        y, _ = layer._apply(params, state, x, key=key, train=train)
        return [leaf for leaf in jax.tree.leaves(y) if _is_floating(leaf)]

    def with_gradient(params: PyTree, state: PyTree, xs: list[Any], key: Any, ct: Any) -> PyTree:
        def of_floats(params: PyTree, floats: list[Any]) -> list[Any]:
            own = iter(floats)
            mixed = [next(own) if v else x for x, v in zip(xs, varying, strict=True)]
            return run(params, state, mixed, key)

        floats = [x for x, v in zip(xs, varying, strict=True) if v]
        y, pull_back = jax.vjp(of_floats, params, floats)
        return y, pull_back(ct)

    key = jax.eval_shape(lambda: jax.random.key(0))
    given = (found.params, found.state, leaves, key)
    out = [leaf for leaf in jax.tree.leaves(found.out) if _is_floating(leaf)]
    # A model of integers alone has no gradient.
    if train and out and (found.params or any(varying)):
        closed = jax.make_jaxpr(with_gradient)(*given, out)
    else:
        closed = jax.make_jaxpr(run)(*given)
    return Program(closed, paths, range(len(jax.tree.leaves(found.params))))


def _casts(program: Program) -> Iterator[Cast]:
    counts: Counter[tuple[str, str, str, str, str]] = Counter()
    for one in program.operations:
        value = one.inputs[0] if one.inputs else None
        if one.name != _CAST or value is None or not _is_changed(one):
            continue
        of = "parameters" if value.parameter else "activations"
        what = f"{value.dtype} -> {one.outputs[0].dtype}"
        for wide in _round_trip(one):
            path = wide.path or one.path
            wrong = (
                f"rounded at {one.path or 'the model'!r} and used in {wide.outputs[0].dtype} alone"
            )
            trip = f"{what} -> {wide.outputs[0].dtype}"
            counts[path, _where(wide), trip, of, wrong] += wide.times
        counts[one.path, _where(one), what, of, ""] += one.times
    for (path, where, what, of, wrong), times in counts.items():
        yield Cast(path, where, what, of, times, wrong)


def _round_trip(rounding: Operation) -> list[Operation]:
    """The casts back, where a value that is rounded is not used as it is."""
    before, after = rounding.inputs[0], rounding.outputs[0]
    # Parameters are rounded to the dtype that a layer computes in: that is what a rule says. The
    # gradient goes the way back, and is in float32 again where it comes to parameters.
    if before is None or before.parameter or rounding.backward:
        return []
    if not _narrower(after.dtype, before.dtype):
        return []
    back = _all_casts(after)
    if not back or not all(_narrower(after.dtype, one.outputs[0].dtype) for one in back):
        return []
    return [one for one in back if _contradicts(rounding, one) and _is_lossy(one, before.dtype)]


def _contradicts(rounding: Operation, back: Operation) -> bool:
    """Whether two casts are of the rules of two layers, or of the arithmetic of one."""
    # A layer in bfloat16 may compute a mean in float32, and takes and gives bfloat16.
    if rounding.ruled or back.ruled:
        return rounding.ruled and back.ruled and rounding.path != back.path
    return rounding.path == back.path


def _is_lossy(back: Operation, dtype: Any) -> bool:
    """Whether something is computed with what was cast back."""
    value = back.outputs[0]
    # Nothing is lost where it is rounded again before.
    again = _all_casts(value)
    return not again or not all(_narrower(one.outputs[0].dtype, dtype) for one in again)


def _all_casts(value: Value) -> list[Operation]:
    """The casts of a value and of what is moved of it; [] where it is used otherwise too."""
    if value.leaves:
        return []
    casts = []
    for user in value.users:
        if user.name == _CAST and _is_floating(user.outputs[0]):
            casts.append(user)
            continue
        found = _all_casts(user.outputs[0]) if user.name in MOVES else []
        if not found:
            return []
        casts += found
    return casts


def _wider(layer: Layer, x: PyTree, path: str) -> Iterator[Cast]:
    """Layers that go on in a wider dtype than all their inputs have."""
    found = trace(layer, x)
    given = [leaf.dtype for leaf in jax.tree.leaves(x) if _is_floating(leaf)]
    inside = {
        name: [trace(child, one).out for one in found.inputs[name]]
        for name, child in layer.children.items()
    }
    if given and all(_bits(dtype) == 16 for dtype in given):
        # What a child gives by a rule of its own may be wide.
        children = max([16, *(_widest(out) for outs in inside.values() for out in outs)])
        # Of other combinators the author knows what is given to whom.
        named = layer.children if _maker(layer) == "compose" else {}
        to = {
            f"what it gives to {n!r}": _kept(child, found.inputs[n]) for n, child in named.items()
        }
        for what, trees in {"its output": (found.out,), **to}.items():
            if "" not in layer.children and _widest(list(trees)) > children:
                change = f"{given[0]} -> {_float_of(list(trees))}"
                wrong = f"{what} is wider than its inputs"
                yield Cast(path, "forward", change, "activations", 1, wrong)
    for name, child in layer.children.items():
        for one in found.inputs[name]:
            yield from _wider(child, one, join(path, name))


def _maker(layer: Layer) -> str:
    """The combinator, which a factory around it hides."""
    return layer.rebuild(layer.children).maker if layer.children else layer.maker


def _kept(layer: Layer, inputs: tuple[PyTree, ...]) -> list[PyTree]:
    """Inputs that a layer does not take by a rule of its own."""
    if not is_in_precision(layer):
        return list(inputs)
    return [x for x in inputs if _widest(trace(layer, x).inputs[""]) < _widest(x)]


def _sums(program: Program) -> Iterator[Cast]:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for one in program.operations:
        if _is_sum(one) and one.inputs[0] is not None:
            _count_sum(counts, one, one.inputs[0].dtype, _terms(one))
    for one, value, length in program.carried_sums:
        _count_sum(counts, one, value.dtype, length)
    for (path, where, dtype, wrong), times in counts.items():
        yield Cast(path, where, dtype, "activations", times, wrong)


def _is_sum(one: Operation) -> bool:
    if one.name == "reduce":
        return [inner.primitive.name for inner in one.params["jaxpr"].jaxpr.eqns] == ["add"]
    return one.name in _SUMS


# 2 / eps, of 8 and 11 binary digits.
_MOST_TERMS = {"bfloat16": 256, "float16": 2048}


def _count_sum(counts: Counter[Any], one: Operation, dtype: Any, terms: int) -> None:
    if str(dtype) not in _MOST_TERMS:
        return
    # Beyond it, a term of the size of those before is lost.
    if terms > _MOST_TERMS[str(dtype)]:
        wrong = f"a sum of {terms:,} terms in {dtype}"
        counts[one.path, _where(one), str(dtype), wrong] += one.times


def _terms(one: Operation) -> int:
    """How many numbers one number of the result is a sum of."""
    given = one.inputs[0]
    assert given is not None
    if one.name == "cumsum":
        return int(given.shape[one.params["axis"]])
    if one.name.startswith("reduce_window"):
        return math.prod(one.params["window_dimensions"])
    if one.name.startswith("scatter"):
        updates = one.inputs[2]
        if updates is None:
            return 1
        window = one.params["dimension_numbers"].update_window_dims
        return math.prod(n for i, n in enumerate(updates.shape) if i not in window)
    return math.prod(given.shape) // max(1, math.prod(one.outputs[0].shape))


def _doubles(program: Program) -> Iterator[Cast]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for one in program.operations:
        made = any(value.dtype == jnp.float64 for value in one.outputs)
        before = [value.dtype for value in one.inputs if value is not None]
        # Where it begins, and not all that follows, or what a rule says.
        if made and before and not one.ruled and not any(d == jnp.float64 for d in before):
            counts[one.path, _where(one), f"{before[0]} -> float64"] += one.times
    for (path, where, what), times in counts.items():
        yield Cast(path, where, what, "activations", times, "no input and no rule has float64")


def _stored(table: Any, paths: list[str]) -> Iterator[Cast]:
    counts: Counter[tuple[str, str]] = Counter()
    known = set(paths)
    for path, spec in table.items():
        if _is_floating(spec) and _bits(spec.dtype) == 16:
            at = path
            while at not in known:
                at = at.rpartition("/")[0]
            counts[at, str(spec.dtype)] += 1
    for (path, dtype), times in counts.items():
        wrong = f"stored in {dtype}: small updates are lost"
        yield Cast(path, "params", dtype, "parameters", times, wrong)


def _is_changed(one: Operation) -> bool:
    (before,), (after,) = one.inputs, one.outputs
    assert before is not None
    return _is_floating(before) and _is_floating(after) and before.dtype != after.dtype


def _is_floating(leaf: Any) -> bool:
    return _is_floating_dtype(leaf.dtype)


def _is_floating_dtype(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _bits(dtype: Any) -> int:
    return int(8 * np.dtype(dtype).itemsize)


def _narrower(dtype: Any, than: Any) -> bool:
    return _bits(dtype) < _bits(than)


def _widest(tree: PyTree) -> int:
    return max([0, *(_bits(leaf.dtype) for leaf in jax.tree.leaves(tree) if _is_floating(leaf))])


def _float_of(tree: PyTree) -> Any:
    floats = [leaf.dtype for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]
    return max(floats, key=_bits)


def _where(one: Operation) -> str:
    return "backward" if one.backward else "forward"
