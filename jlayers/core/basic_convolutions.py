"""Convolutions of images, without dilation: what other convolutions are made of."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import is_symbolic
from .inlining import Values, bound
from .simple_forms import padded

_IMAGE = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def convolution(equation: Any, given: Values) -> Values:
    """Of one axis or two: as convolutions of images whose kernels have no gaps.

    The input is spread where it was dilated, and each place of a dilated kernel is a convolution
    with a kernel of size 1 along that axis: the work stays what it was.
    """
    params = equation.params
    x, kernel = given
    strides, padding = params["window_strides"], params["padding"]
    spread, gaps = params["lhs_dilation"], params["rhs_dilation"]
    axes = len(strides)
    known = not any(is_symbolic(*pair) for pair in padding)
    simple = {*spread, *gaps} == {1} and all(low >= 0 <= high for low, high in padding)
    if (
        not known
        or axes not in (1, 2)
        or params["batch_group_count"] != 1
        or (axes == 2 and simple)
    ):
        return bound(equation, given)
    x_spec, kernel_spec, out_spec = params["dimension_numbers"]
    x = lax.transpose(x, (x_spec[0], *x_spec[2:], x_spec[1]))
    kernel = lax.transpose(kernel, (*kernel_spec[2:], kernel_spec[1], kernel_spec[0]))
    for axis, ((low, high), step) in enumerate(zip(padding, spread, strict=True)):
        x = padded(x, axis + 1, low, high, step - 1)
    if axes == 1:
        x, kernel = lax.expand_dims(x, (1,)), lax.expand_dims(kernel, (0,))
        strides, gaps = (1, *strides), (1, *gaps)
    y = _of_places(x, kernel, strides, gaps, params)
    if axes == 1:
        y = lax.squeeze(y, (1,))
    # From (batch, *spatial, channels) to where each is wanted.
    order = [0] * (axes + 2)
    for source, place in zip((0, axes + 1, *range(1, axes + 1)), out_spec, strict=True):
        order[place] = source
    return [lax.transpose(y, order)]


def _of_places(x: Any, kernel: Any, strides: Any, gaps: Any, params: Any) -> jax.Array:
    """The sum of convolutions, one for each place along the axes where the kernel has gaps."""
    dtype = params["preferred_element_type"] or x.dtype
    if max(gaps) > 1:
        # So that a sum of several is rounded once.
        half = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
        wide = jnp.float32 if half else dtype
        x, kernel = (lax.convert_element_type(value, wide) for value in (x, kernel))
    sizes = [
        (x.shape[axis + 1] - (kernel.shape[axis] - 1) * gaps[axis] - 1) // strides[axis] + 1
        for axis in range(2)
    ]
    places = [range(kernel.shape[axis]) if gaps[axis] > 1 else (None,) for axis in range(2)]
    terms = []
    for at in itertools.product(*places):
        part, own = x, kernel
        for axis, place in enumerate(at):
            if place is not None:
                start, step = place * gaps[axis], strides[axis]
                stop = start + (sizes[axis] - 1) * step + 1
                part = lax.slice_in_dim(part, start, stop, axis=axis + 1)
                own = lax.slice_in_dim(own, place, place + 1, axis=axis)
        terms.append(
            lax.conv_general_dilated(
                part,
                own,
                strides,
                "VALID",
                dimension_numbers=_IMAGE,
                feature_group_count=params["feature_group_count"],
                precision=params["precision"],
                preferred_element_type=None if max(gaps) > 1 else dtype,
            )
        )
    return lax.convert_element_type(functools.reduce(lax.add, terms), dtype)
