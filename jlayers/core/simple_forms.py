"""Operations as others of JAX that more tools know: the forms in which ``inlining`` writes them.

Each function takes an equation and the values of its inputs, and gives the outputs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .dtypes import is_symbolic

Values = list[Any]


def is_empty(equation: Any) -> bool:
    """Whether what it makes has no numbers, as edges of width 0 that are joined to an array."""
    # One without outputs is there for what it does, such as a callback.
    return bool(equation.outvars) and all(
        not is_symbolic(*out.aval.shape)
        and 0 in out.aval.shape
        and isinstance(out.aval.dtype, np.dtype)
        for out in equation.outvars
    )


def empty(equation: Any) -> Values:
    return [np.zeros(out.aval.shape, out.aval.dtype) for out in equation.outvars]


def concatenate(equation: Any, given: Values) -> Values:
    axis = equation.params["dimension"]
    # Where all are empty the equation itself is.
    kept = [part for part in given if not _is_none(np.shape(part)[axis])]
    return [lax.concatenate(kept, axis) if len(kept) > 1 else kept[0]]


def _is_none(size: Any) -> bool:
    return not is_symbolic(size) and size == 0


def stack(equation: Any, given: Values) -> Values:
    axis = equation.params["axis"]
    return [lax.concatenate([lax.expand_dims(part, (axis,)) for part in given], axis)]


def split(equation: Any, given: Values) -> Values:
    axis, start, parts = equation.params["axis"], 0, []
    for size in equation.params["sizes"]:
        parts.append(lax.slice_in_dim(given[0], start, start + size, axis=axis))
        start += size
    return parts


def minimum(equation: Any, given: Values) -> Values:
    if not jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
        return [lax.min(*given)]
    return [lax.neg(lax.max(*(lax.neg(value) for value in given)))]


def select(equation: Any, given: Values) -> Values:
    return [selected(*given)]


def selected(*given: Any) -> Any:
    """``lax.select_n``, in a form that OpenVINO's shapes are right for."""
    y = lax.select_n(*given)
    # OpenVINO 2026.4 gives one axis more than there is, of length 1: the reshapes take it off.
    shape = np.shape(y)
    return lax.reshape(lax.reshape(y, (1, *shape)), shape)


def gaps(equation: Any, given: Values) -> Values:
    """Of padding the kind between numbers, which ONNX lacks."""
    between = any(config[2] for config in equation.params["padding_config"])
    return pad(equation, given) if between else [equation.primitive.bind(*given, **equation.params)]


def pad(equation: Any, given: Values) -> Values:
    x, value = given
    config = equation.params["padding_config"]
    if any(is_symbolic(*sizes) for sizes in config):
        return [equation.primitive.bind(*given, **equation.params)]
    for axis, (low, high, between) in enumerate(config):
        x = padded(x, axis, low, high, between, value)
    return [x]


def padded(x: Any, axis: int, low: int, high: int, between: int = 0, value: Any = 0) -> Any:
    """As ``lax.pad`` along one axis, of arrays joined."""
    shape = np.shape(x)
    value = lax.convert_element_type(value, x.dtype)
    if between and not _is_none(shape[axis]):
        x = lax.expand_dims(x, (axis + 1,))
        gap = lax.broadcast(value, (*shape[: axis + 1], between, *shape[axis + 1 :]))
        x = lax.concatenate([x, gap], axis + 1)
        x = lax.reshape(x, (*shape[:axis], shape[axis] * (between + 1), *shape[axis + 1 :]))
        # A gap is behind the last number too.
        high -= between
    edges = [
        [lax.broadcast(value, (*shape[:axis], size, *shape[axis + 1 :]))] if size > 0 else []
        for size in (low, high)
    ]
    parts = [*edges[0], x, *edges[1]]
    x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    size = np.shape(x)[axis]
    return lax.slice_in_dim(x, max(-low, 0), size + min(high, 0), axis=axis)


def window_maximum(equation: Any, given: Values) -> Values:
    """Of windows side by side a reshape and a maximum, which know no batch and no channels."""
    params = equation.params
    window, shape = params["window_dimensions"], np.shape(given[0])
    plain = (
        window == params["window_strides"]
        and all(low == high == 0 for low, high in params["padding"])
        and all(step == 1 for name in ("base_dilation", "window_dilation") for step in params[name])
    )
    # A window of one position takes any size.
    divides = all(
        n == 1 or (not is_symbolic(s) and s % n == 0) for s, n in zip(shape, window, strict=True)
    )
    if not plain or not divides:
        made = equation.primitive.bind(*given, **params)
        return [made]
    parts: list[tuple[Any, ...]] = [
        (size,) if length == 1 else (size // length, length)
        for size, length in zip(shape, window, strict=True)
    ]
    ends = np.cumsum([len(part) for part in parts]) - 1
    axes = tuple(int(end) for end, part in zip(ends, parts, strict=True) if len(part) == 2)
    split_up = lax.reshape(given[0], [size for part in parts for size in part])
    return [lax.reduce_max(split_up, axes) if axes else given[0]]


FORMS = {
    "concatenate": concatenate,
    "min": minimum,
    "pad": gaps,
    "reduce_window_max": window_maximum,
    "select_n": select,
    "split": split,
    "stack": stack,
}
