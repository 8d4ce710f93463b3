"""Weights in 8 or 4 bits with a scale, and products with them.

How to read this file: ``quantize`` and ``dequantize`` are the format. ``quantized_dense`` is the
product, and ``choose_quantized_dense`` the rule that decides how it is computed: ``_digits`` reads
nothing but the small weights, the others make the wide array first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from .dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from .dtypes import at_least_float32, is_sharded, is_symbolic


class Format(NamedTuple):
    """How a number is stored.

    Attributes:
      largest: the absolute value that the largest of a channel is scaled to.
      stored: the dtype of the array.
      packed: how many numbers share an entry.
    """

    largest: float
    stored: np.dtype
    packed: int = 1


FORMATS = {
    "int8": Format(127.0, jnp.dtype(jnp.int8)),
    # JAX keeps an int4 in a byte, so two of them are packed by hand.
    "int4": Format(7.0, jnp.dtype(jnp.uint8), 2),
    # Its bits: XLA for CPU would convert whole arrays of a dtype that it does not compute with.
    "float8_e4m3fn": Format(448.0, jnp.dtype(jnp.uint8)),
}
METHODS = ("digits", "blocks", "dequantize")

# A digit is of -127 to 127, and the next one counts 1/254 of it: what is left after rounding is
# at most a half.
_BASE = 254.0
# How many digits hold the numbers of a dtype as exactly as a product of that dtype needs.
_DIGITS = {"float32": 3, "bfloat16": 2, "float16": 2}
# With more rows the digits' own arithmetic costs what their traffic saves (docs/notes/0027).
_MOST_ROWS = 8
# Channels whose wide weight is made at once. A loop uses its memory again and again, where a wide
# weight for each layer is memory that the system has to provide at each call.
_BLOCK = 512
# The sum of so many products of two digits still fits into an int32.
_MOST_INPUTS = (2**31 - 1) // 127**2


def quantize(
    weight: jax.Array, dtype: str = "int8", *, axis: int = -1, group_size: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """``weight ~ q * scale``, with a scale for each channel, or for each group of its inputs.

    Symmetric: ``scale`` is the largest absolute value over 127 (int8), 7 (int4) or 448
    (float8_e4m3fn), and ``q`` is rounded half to even. So ``|weight - q * scale| <= scale / 2`` for
    integers. A channel of zeros has a scale of 1.

    Args:
      weight: floating, of two axes or more.
      dtype: ``"int8"``, ``"int4"`` or ``"float8_e4m3fn"``.
      axis: that of the channels, which comes first in ``q``.
      group_size: how many neighbouring entries of the last of the other axes have a scale of their
        own; None for one scale for the whole channel.

    Returns:
      ``(q, scale)``: q (channels, *others); of int4 two to a byte, so that the last axis has half
      the size. scale (channels,), or (channels, *others but the last, groups), float32 at least.

    Raises:
      ValueError: for a last axis that ``group_size``, or for int4 2, does not divide.

    >>> import jax.numpy as jnp
    >>> q, scale = quantize(jnp.array([[1.0, 0.0], [-0.5, 0.0]]))
    >>> q.tolist(), [round(s, 5) for s in scale.tolist()]
    ([[127, -64], [0, 0]], [0.00787, 1.0])
    """
    form = FORMATS[dtype]
    wide = jnp.moveaxis(weight, axis, 0).astype(at_least_float32(weight.dtype))
    size = wide.shape[-1]
    if size % form.packed or (group_size is not None and size % group_size):
        raise ValueError(f"{group_size or form.packed} does not divide the last axis, {size}")
    grouped = wide if group_size is None else _in_groups(wide, size // group_size)
    over = tuple(range(1, grouped.ndim)) if group_size is None else (-1,)
    largest = jnp.max(jnp.abs(grouped), over)
    scale = largest / form.largest
    scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
    found = (grouped / jnp.expand_dims(scale, over)).reshape(wide.shape)
    found = jnp.clip(found, -form.largest, form.largest)
    if form.packed == 2:
        return _packed(jnp.round(found).astype(jnp.int8)), scale
    if dtype == "int8":
        return jnp.round(found).astype(form.stored), scale
    return lax.bitcast_convert_type(found.astype(dtype), form.stored), scale


def dequantize(q: jax.Array, scale: jax.Array, dtype: str = "int8", *, axis: int = -1) -> jax.Array:
    """``q * scale``, of the dtype of ``scale``: the inverse of ``quantize``, but for rounding.

    >>> import jax.numpy as jnp
    >>> dequantize(*quantize(jnp.array([[2.0, 7.0], [-1.1, 1.0]]), "int4"), "int4").tolist()
    [[2.0, 7.0], [-1.142857..., 1.0]]
    """
    wide = _values(q, dtype, scale.dtype)
    if scale.ndim == 1:
        wide = wide * jnp.expand_dims(scale, tuple(range(1, wide.ndim)))
    else:
        wide = (_in_groups(wide, scale.shape[-1]) * scale[..., None]).reshape(wide.shape)
    return jnp.moveaxis(wide, 0, axis)


def quantized_dense(
    x: jax.Array,
    q: jax.Array,
    scale: jax.Array,
    dtype: str = "int8",
    *,
    activations: str | None = None,
    method: str | None = None,
) -> jax.Array:
    """``x @ dequantize(q, scale)`` over the last axis of ``x``.

    The gradients of ``x`` and ``scale`` are those of the product with the dequantised weight; ``q``
    has none. With rounded activations that is the straight-through estimator.

    Args:
      x: (..., in), floating.
      q, scale, dtype: as ``quantize`` returns and takes them, for a weight (in, out).
      activations: ``"int8"`` to round each row of ``x`` to 255 levels up to its largest absolute
        value, and to multiply integers, for integer weights with a scale per channel; None for
        ``x`` as it is.
      method: ``"digits"``, ``"blocks"`` or ``"dequantize"``, in place of the choice by shapes and
        platform.

    Returns:
      (..., out), of the dtype of ``x``.

    Raises:
      ValueError: for another method, for ``"digits"`` where integers cannot do it, and for
        ``activations`` with weights for which they cannot.

    >>> import jax.numpy as jnp
    >>> q, scale = quantize(jnp.array([[1.0, 0.5], [-1.0, 0.25]]))
    >>> [round(y, 3) for y in quantized_dense(jnp.array([2.0, 1.0]), q, scale).tolist()]
    [1.0, 1.252]
    """
    digits = _digits_of(x, q, scale, dtype, activations)
    if activations is not None and (activations != "int8" or not digits):
        raise ValueError(f"activations={activations!r} needs integers with one scale a channel")
    check_method(method, METHODS if digits else METHODS[1:], "quantized_dense")
    cpu = choose_quantized_dense(x, q, digits, activations, "cpu")
    default = choose_quantized_dense(x, q, digits, activations, "gpu")
    record_choice("quantized_dense", cpu, default, method)
    methods = (method or cpu.method, method or default.method)
    return _product(x, q, scale, dtype=dtype, digits=digits, methods=methods)


def choose_quantized_dense(
    x: jax.Array, q: jax.Array, digits: int, activations: str | None, platform: str
) -> AlgorithmChoice:
    """How ``quantized_dense`` computes the product, by its shapes and the platform.

    Args:
      digits: of a number of ``x``, 0 where integers cannot do it.
    """
    if activations is not None:
        return AlgorithmChoice("digits", "activations are integers")
    if platform != "cpu":
        return AlgorithmChoice("dequantize", "XLA reads the small weights in the product")
    rows = x.shape[:-1]
    if is_sharded(x) or is_symbolic(*rows, *q.shape):
        return AlgorithmChoice("dequantize", "sizes of a device are not known here")
    if digits and math.prod(rows) <= _MOST_ROWS:
        return AlgorithmChoice("digits", f"at most {_MOST_ROWS} rows: bound by reading the weights")
    if q.shape[0] > _BLOCK:
        return AlgorithmChoice("blocks", f"the wide weight of {_BLOCK} channels stays in the cache")
    return AlgorithmChoice("dequantize", "the wide weight stays in the cache")


def _digits_of(
    x: jax.Array, q: jax.Array, scale: jax.Array, dtype: str, activations: str | None
) -> int:
    """How many digits a number of ``x`` has, 0 for none."""
    whole = scale.ndim == 1 and q.ndim == 2 and not dtype.startswith("float")
    if not whole or x.shape[-1] > _MOST_INPUTS:
        return 0
    return 1 if activations is not None else _DIGITS.get(str(x.dtype), 0)


@traced_once("dtype", "digits", "methods")
def _product(
    x: jax.Array,
    q: jax.Array,
    scale: jax.Array,
    *,
    dtype: str,
    digits: int,
    methods: tuple[str, str],
) -> jax.Array:
    exact = functools.partial(_dequantized, dtype=dtype)
    if set(methods) == {"dequantize"}:
        return exact(x, q, scale)
    ways = {
        "digits": functools.partial(_by_digits, dtype=dtype, digits=digits),
        "blocks": functools.partial(_by_blocks, dtype=dtype),
        "dequantize": exact,
    }

    @jax.custom_jvp
    def product(x: jax.Array, q: jax.Array, scale: jax.Array) -> jax.Array:
        on_cpu, elsewhere = (ways[method] for method in methods)
        if on_cpu is elsewhere:
            return on_cpu(x, q, scale)
        y: jax.Array = lax.platform_dependent(x, q, scale, cpu=on_cpu, default=elsewhere)
        return y

    @product.defjvp
    def product_jvp(
        primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        x, q, scale = primals
        _, tangent = jax.jvp(
            lambda x, scale: exact(x, q, scale), (x, scale), (tangents[0], tangents[2])
        )
        return product(x, q, scale), tangent

    return product(x, q, scale)


def _dequantized(x: jax.Array, q: jax.Array, scale: jax.Array, *, dtype: str) -> jax.Array:
    """The product with the wide weight."""
    contracted = (((x.ndim - 1,), (1,)), ((), ()))
    if scale.ndim > 1:
        return lax.dot_general(x, dequantize(q, scale, dtype, axis=0).astype(x.dtype), contracted)
    # All of these formats are exact in bfloat16, so only the outputs have to be scaled.
    wide = at_least_float32(x.dtype)
    y = lax.dot_general(x, _values(q, dtype, x.dtype), contracted, preferred_element_type=wide)
    return (y * _last_axis(scale.astype(wide), y)).astype(x.dtype)


def _by_digits(
    x: jax.Array, q: jax.Array, scale: jax.Array, *, dtype: str, digits: int
) -> jax.Array:
    """The product of integers: each row of ``x`` is as many rows of int8 as it has digits."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    count = rows.shape[0]
    # By their bits, whose order is that of absolute values, and NaN the largest of all: XLA for CPU
    # may leave NaN out of a maximum of floats, and a digit has none.
    bits = lax.bitcast_convert_type(rows, jnp.int32) & 0x7FFFFFFF
    largest = lax.bitcast_convert_type(jnp.max(bits, 1, keepdims=True), jnp.float32)
    largest = jnp.where(jnp.isfinite(largest), largest, jnp.full_like(largest, jnp.nan))
    unit = jnp.where(largest == 0, jnp.ones_like(largest), largest) / 127
    rest, found = rows / unit, []
    for _ in range(digits):
        digit = jnp.round(rest)
        found.append(digit.astype(jnp.int8))
        rest = (rest - digit) * _BASE
    # XLA for CPU multiplies a single row by a loop of its own, three times slower; and would drop
    # a row whose product is not used.
    padded = [*found, jnp.zeros_like(found[0])] if digits * count == 1 else found
    whole = _integer_product(jnp.concatenate(padded), q, dtype)
    if len(padded) > digits:
        whole = jnp.sum(whole, 0, keepdims=True, dtype=whole.dtype)
    parts = whole.astype(jnp.float32).reshape(digits, count, whole.shape[-1])
    y = parts[-1]
    for part in parts[-2::-1] if digits > 1 else ():
        y = part + y / _BASE
    y = y * unit
    y = y * _last_axis(scale.astype(jnp.float32), y)
    return y.reshape(*x.shape[:-1], y.shape[-1]).astype(x.dtype)


def _by_blocks(x: jax.Array, q: jax.Array, scale: jax.Array, *, dtype: str) -> jax.Array:
    """The product with one wide block of channels after the other."""
    rows = x.reshape(-1, x.shape[-1])
    y = _over_blocks(functools.partial(_dequantized, rows, dtype=dtype), q, scale)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _integer_product(x: jax.Array, q: jax.Array, dtype: str) -> jax.Array:
    """(rows, out) of int32 for rows of int8."""

    def product(x: jax.Array, q: jax.Array) -> jax.Array:
        # The weights on the left: XLA for CPU then reads them in their order.
        contracted = (((1,), (1,)), ((), ()))
        return lax.dot_general(q, x, contracted, preferred_element_type=jnp.dtype(jnp.int32)).T

    def of_halves(q: jax.Array) -> jax.Array:
        low, high = _halves(q)
        return product(x[:, : q.shape[1]], low) + product(x[:, q.shape[1] :], high)

    return product(x, q) if FORMATS[dtype].packed == 1 else _over_blocks(of_halves, q)


def _over_blocks(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """``function(*arrays)`` (rows, channels), for a block of channels after the other."""
    channels = arrays[0].shape[0]
    if is_symbolic(channels) or channels <= _BLOCK:
        return function(*arrays)

    def block(i: jax.Array, y: jax.Array) -> jax.Array:
        # The last one overlaps with the one before it: slices stay inside the array.
        start = jnp.minimum(i * _BLOCK, channels - _BLOCK)
        parts = [lax.dynamic_slice_in_dim(a, start, _BLOCK) for a in arrays]
        return lax.dynamic_update_slice_in_dim(y, function(*parts), start, 1)

    like = jax.eval_shape(function, *arrays)
    y: jax.Array = lax.fori_loop(0, -(-channels // _BLOCK), block, jnp.zeros_like(like))
    return y


def _packed(values: jax.Array) -> jax.Array:
    """Numbers of 4 bits, int8, two to a byte: the first half of the last axis in the low bits."""
    low, high = jnp.split(lax.bitcast_convert_type(values, jnp.uint8), 2, -1)
    packed: jax.Array = (low & jnp.uint8(15)) | (high << jnp.uint8(4))
    return packed


def _values(q: jax.Array, dtype: str, wide: DTypeLike) -> jax.Array:
    """The stored numbers as floats."""
    if FORMATS[dtype].packed == 2:
        return jnp.concatenate(_halves(q), -1).astype(wide)
    if dtype != "float8_e4m3fn":
        return q.astype(wide)
    found: jax.Array = lax.platform_dependent(
        q,
        cpu=lambda q: _by_bits(q).astype(wide),
        default=lambda q: lax.bitcast_convert_type(q, jnp.dtype(dtype)).astype(wide),
    )
    return found


def _by_bits(q: jax.Array) -> jax.Array:
    """Bits of float8_e4m3fn as float32, where XLA for CPU calls a function for each number."""
    bits = q.astype(jnp.uint32)
    # The exponent's bias is 7 there and 127 here; without an exponent, 2 ** -6 is too much.
    size = lax.bitcast_convert_type(
        ((bits & 0x7F) << 20) + jnp.uint32(120 << 23), jnp.dtype(jnp.float32)
    )
    size = jnp.where((bits & 0x78) == 0, 2 * size - 2.0**-6, size)
    sign = (bits & 0x80) << 24
    return lax.bitcast_convert_type(
        lax.bitcast_convert_type(size, jnp.uint32) | sign, jnp.dtype(jnp.float32)
    )


def _halves(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    signed = lax.bitcast_convert_type(q, jnp.int8)
    four = jnp.int8(4)
    # Shifted to the top first, so that the sign comes along.
    return lax.shift_right_arithmetic(signed << four, four * jnp.ones_like(signed)), (
        lax.shift_right_arithmetic(signed, four * jnp.ones_like(signed))
    )


def _in_groups(wide: jax.Array, groups: int) -> jax.Array:
    return wide.reshape(*wide.shape[:-1], groups, wide.shape[-1] // groups)


def _last_axis(values: jax.Array, y: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(values, y.shape, (y.ndim - 1,))
