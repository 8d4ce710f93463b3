"""Operations in fewer others: the forms in which ``basic_operations`` writes them.

Each function takes an equation and the values of its inputs, and gives the outputs. Where the form
would be another function, as of integers, the equation stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .dtypes import is_symbolic
from .inlining import Rule, Values, bound
from .simple_forms import pad, padded, selected

Form = Callable[..., Any]
# Ranks among so many numbers are found by comparing each with each.
_MOST_RANKED = 1024


def _of(dtypes: Any) -> Callable[[Form], Rule]:
    """A rule for what is of such numbers, whose inputs are broadcast to one shape."""

    def decorate(form: Form) -> Rule:
        @functools.wraps(form)
        def rule(equation: Any, given: Values) -> Values:
            if not jnp.issubdtype(equation.invars[0].aval.dtype, dtypes):
                return bound(equation, given)
            if len(given) == 1:
                return [form(equation, *given)]
            shape = equation.outvars[0].aval.shape
            return [form(equation, *(_broadcast(value, shape) for value in given))]

        return rule

    return decorate


def _broadcast(x: Any, shape: Any) -> Any:
    # A number, or an array with sizes of 1.
    axes = range(len(shape) - np.ndim(x), len(shape))
    return x if np.shape(x) == shape else lax.broadcast_in_dim(x, shape, tuple(axes))


@_of(jnp.floating)
def _absolute(_: Any, x: Any) -> Any:
    # Not the maximum: JAX's slope at 0 is 1.
    return selected(lax.ge(x, lax.full_like(x, 0)), lax.neg(x), x)


@_of(jnp.floating)
def _clamp(_: Any, low: Any, x: Any, high: Any) -> Any:
    # NaN stays, and there is no slope at the bounds, as there would be with max and min.
    x = selected(lax.le(x, low), x, low)
    return selected(lax.ge(x, high), x, high)


@_of(jnp.floating)
def _exp2(_: Any, x: Any) -> Any:
    return lax.exp(x * np.asarray(np.log(2), x.dtype))


@_of(jnp.floating)
def _expm1(_: Any, x: Any) -> Any:
    one = lax.full_like(x, 1)
    large = lax.gt(x, one)
    # Without a difference of nearly equal numbers, nor a slope of 0 times infinity.
    small = selected(large, x, lax.full_like(x, 0))
    product = lax.tanh(small * np.asarray(0.5, x.dtype)) * (lax.exp(small) + one)
    return selected(large, product, lax.exp(x) - one)


@_of(jnp.floating)
def _is_finite(_: Any, x: Any) -> Any:
    return lax.lt(lax.max(x, lax.neg(x)), lax.full_like(x, np.inf))


@_of(np.bool_)
def _not(_: Any, x: Any) -> Any:
    return lax.ne(x, lax.full_like(x, True))


@_of(np.bool_)
def _and(_: Any, x: Any, y: Any) -> Any:
    return _is_positive(_number(x) * _number(y))


@_of(np.bool_)
def _or(_: Any, x: Any, y: Any) -> Any:
    return _is_positive(_number(x) + _number(y))


def _number(x: Any) -> Any:
    # Not a choice between truth values, which onnxruntime 1.32 lacks.
    return lax.convert_element_type(x, np.float32)


def _is_positive(x: Any) -> Any:
    return lax.gt(x, lax.full_like(x, 0))


@_of(np.bool_)
def _any(equation: Any, x: Any) -> Any:
    return _is_positive(lax.reduce_max(_number(x), equation.params["axes"]))


@_of(np.bool_)
def _all(equation: Any, x: Any) -> Any:
    return _is_positive(lax.neg(lax.reduce_max(lax.neg(_number(x)), equation.params["axes"])))


@_of(jnp.floating)
def _smallest(equation: Any, x: Any) -> Any:
    return lax.neg(lax.reduce_max(lax.neg(x), equation.params["axes"]))


@_of(jnp.floating)
def _place_of_smallest(equation: Any, x: Any) -> Any:
    return lax.argmax(lax.neg(x), equation.params["axes"][0], equation.params["index_dtype"])


def _iota(equation: Any, given: Values) -> Values:
    params = equation.params
    axis, shape = params["dimension"], params["shape"]
    if is_symbolic(shape[axis]):
        return bound(equation, given)
    return [_places(shape, axis, params["dtype"])]


def _places(shape: Sequence[Any], axis: int, dtype: Any = np.int32) -> Any:
    row = np.arange(shape[axis]).astype(dtype)
    return row if len(shape) == 1 else lax.broadcast_in_dim(row, shape, (axis,))


def _reversed(equation: Any, given: Values) -> Values:
    (x,) = given
    axes = equation.params["dimensions"]
    if is_symbolic(*(x.shape[axis] for axis in axes)):
        return bound(equation, given)
    for axis in axes:
        size = x.shape[axis]
        parts = [lax.slice_in_dim(x, i, i + 1, axis=axis) for i in reversed(range(size))]
        x = lax.concatenate(parts, axis) if size > 1 else x
    return [x]


def _tiled(equation: Any, given: Values) -> Values:
    (x,) = given
    counts, shape = equation.params["reps"], np.shape(x)
    pairs = [size for pair in zip(counts, shape, strict=True) for size in pair]
    full = lax.broadcast_in_dim(x, pairs, tuple(range(1, len(pairs), 2)))
    return [lax.reshape(full, [a * b for a, b in zip(counts, shape, strict=True)])]


def _known_starts(shape: Sequence[Any], sizes: Sequence[Any], starts: Values) -> Any:
    """Where a slice of such sizes begins, or None where that is found out while it runs."""
    if is_symbolic(*shape, *sizes) or any(not isinstance(start, _NUMBERS) for start in starts):
        return None
    return [
        int(np.clip(int(start), 0, n - size))
        for start, n, size in zip(starts, shape, sizes, strict=True)
    ]


_NUMBERS = (int, np.generic, np.ndarray)


def _slice(equation: Any, given: Values) -> Values:
    x, *starts = given
    sizes = equation.params["slice_sizes"]
    first = _known_starts(x.shape, sizes, starts)
    if first is None:
        return bound(equation, given)
    return [lax.slice(x, first, np.add(first, sizes).tolist())]


def _replaced(equation: Any, given: Values) -> Values:
    x, new, *starts = given
    first = _known_starts(np.shape(x), np.shape(new), starts)
    if first is None:
        return bound(equation, given)
    return [_replace(x, new, first, 0)]


def _replace(x: Any, new: Any, first: Sequence[int], axis: int) -> Any:
    if axis == len(first):
        return new
    start, stop = first[axis], first[axis] + np.shape(new)[axis]
    inner = lax.slice_in_dim(x, start, stop, axis=axis)
    parts = [
        lax.slice_in_dim(x, 0, start, axis=axis),
        _replace(inner, new, first, axis + 1),
        lax.slice_in_dim(x, stop, np.shape(x)[axis], axis=axis),
    ]
    parts = [part for part in parts if np.shape(part)[axis]]
    return lax.concatenate(parts, axis) if len(parts) > 1 else parts[0]


def _sums(equation: Any, given: Values) -> Values:
    (x,) = given
    axis, backwards = equation.params["axis"], equation.params["reverse"]
    size = x.shape[axis]
    if is_symbolic(size):
        return bound(equation, given)
    step = 1
    while step < size:
        moved = (-step, step) if backwards else (step, -step)
        x, step = x + padded(x, axis, *moved), 2 * step
    return [x]


def _rows(equation: Any, given: Values) -> Values:
    """Rows of a table of floats by a product with rows of the identity."""
    table, index = given
    params, axis_of = equation.params, equation.params["dimension_numbers"]
    out = equation.outvars[0].aval
    sizes, mode = params["slice_sizes"], params["mode"]
    if (
        len(axis_of.start_index_map) != 1
        or axis_of.collapsed_slice_dims != axis_of.start_index_map
        or axis_of.operand_batching_dims
        or is_symbolic(table.shape[axis_of.start_index_map[0]])
        or not jnp.issubdtype(out.dtype, jnp.floating)
    ):
        return bound(equation, given)
    (axis,) = axis_of.start_index_map
    if any(s != n for i, (s, n) in enumerate(zip(sizes, table.shape, strict=True)) if i != axis):
        return bound(equation, given)
    size = table.shape[axis]
    index = lax.squeeze(index, (np.ndim(index) - 1,))
    if mode == lax.GatherScatterMode.CLIP:
        index = lax.max(lax.neg(lax.max(lax.neg(index), _full(index, 1 - size))), _full(index, 0))
    shape = (*np.shape(index), size)
    wide = lax.broadcast_in_dim(index, shape, tuple(range(np.ndim(index))))
    chosen = lax.eq(wide, _places(shape, len(shape) - 1, index.dtype))
    chosen = lax.convert_element_type(chosen, table.dtype)
    y = lax.dot_general(
        chosen, table, (((len(shape) - 1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    # From (*index, *row) to where the axes of a row are wanted.
    row = iter(range(np.ndim(index), y.ndim))
    rest = iter(range(np.ndim(index)))
    y = lax.transpose(y, [next(row if i in axis_of.offset_dims else rest) for i in range(y.ndim)])
    if mode == lax.GatherScatterMode.FILL_OR_DROP:
        value = np.nan if params["fill_value"] is None else params["fill_value"]
        places = [i for i in range(y.ndim) if i not in axis_of.offset_dims]
        for outside in (lax.lt(index, _full(index, 0)), lax.gt(index, _full(index, size - 1))):
            y = selected(lax.broadcast_in_dim(outside, y.shape, places), y, lax.full_like(y, value))
    return [y]


def _full(like: Any, value: Any) -> Any:
    return lax.broadcast(np.asarray(value, like.dtype), np.shape(like))


def _largest(equation: Any, given: Values) -> Values:
    """By the rank of each: how many are before it."""
    (x,) = given
    params = equation.params
    axis, count, size = params.get("axis", x.ndim - 1), params["k"], x.shape[-1]
    known = not is_symbolic(size, count) and size <= _MOST_RANKED
    if not known or axis not in (-1, x.ndim - 1) or not jnp.issubdtype(x.dtype, jnp.floating):
        return bound(equation, given)
    last = x.ndim
    square = (*x.shape, size)
    mine = lax.broadcast_in_dim(x, square, tuple(range(last)))
    other = lax.broadcast_in_dim(x, square, (*range(last - 1), last))
    order = np.tri(size, k=-1, dtype=np.float32)
    earlier = lax.broadcast_in_dim(order, square, (last - 1, last))
    # NaN comes first, and of equals that with the lower place.
    nan_mine, nan_other = _number(lax.ne(mine, mine)), _number(lax.ne(other, other))
    equal = _number(lax.eq(other, mine)) + nan_mine * nan_other
    larger = _number(lax.gt(other, mine)) + nan_other * (1 - nan_mine)
    rank = lax.reduce_sum(larger + equal * earlier, (last,))
    wanted = (*x.shape[:-1], count, size)
    ranks = lax.broadcast_in_dim(rank, wanted, (*range(last - 1), last))
    chosen = lax.eq(ranks, _places(wanted, last - 1, np.float32))
    values = lax.broadcast_in_dim(x, wanted, (*range(last - 1), last))
    none = lax.full_like(values, 0)
    places = lax.convert_element_type(chosen, np.float32) * _places(wanted, last, np.float32)
    dtype = equation.outvars[1].aval.dtype
    index = lax.convert_element_type(lax.reduce_sum(places, (last,)), dtype)
    return [lax.reduce_sum(selected(chosen, none, values), (last,)), index]


FORMS: dict[str, Rule] = {
    "abs": _absolute,
    "and": _and,
    "argmin": _place_of_smallest,
    "clamp": _clamp,
    "cumsum": _sums,
    "dynamic_slice": _slice,
    "dynamic_update_slice": _replaced,
    "exp2": _exp2,
    "expm1": _expm1,
    "gather": _rows,
    "iota": _iota,
    "is_finite": _is_finite,
    "not": _not,
    "or": _or,
    "pad": pad,
    "reduce_and": _all,
    "reduce_min": _smallest,
    "reduce_or": _any,
    "rev": _reversed,
    "tile": _tiled,
    "top_k": _largest,
}
