"""Convolutions of any rank, channels last."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax

from .dense import add_bias

Pads = str | Sequence[tuple[int, int]]


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank + 1))
    image = (0, rank + 1, *spatial)
    kernel = (rank + 1, rank, *range(rank))
    return lax.ConvDimensionNumbers(image, kernel, image)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Sequence[int],
    padding: Pads,
    dilation: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation: ``y[p] = sum_k x[strides * p + dilation * k] kernel[k] + bias``.

    Args:
      x: (batch, *spatial, in).
      kernel: (*kernel_size, in / groups, out).
      bias: (out,), or None.
      strides, dilation: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, ``"CAUSAL"`` (on the first spatial axis alone, the others
        VALID), or a (low, high) for each spatial axis.
      groups: how many groups the channels are split into.

    Returns:
      (batch, *spatial', out).
    """
    rank = x.ndim - 2
    if padding == "CAUSAL":
        left = dilation[0] * (kernel.shape[0] - 1)
        padding = ((left, 0), *(((0, 0),) * (rank - 1)))
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=tuple(strides),
        padding=padding,
        rhs_dilation=tuple(dilation),
        dimension_numbers=_channels_last(rank),
        feature_group_count=groups,
    )
    return y if bias is None else add_bias(y, bias)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Sequence[int],
    padding: Pads,
    dilation: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """Fractionally strided convolution, as ``lax.conv_transpose``, with groups.

    ``x`` is spread out with ``strides - 1`` zeros between its steps and then cross-correlated
    with the kernel at stride 1 (Dumoulin & Visin, 2016, arXiv:1603.07285).

    Args:
      x: (batch, *spatial, in).
      kernel: (*kernel_size, in / groups, out).
      bias: (out,), or None.
      strides, dilation: one int for each spatial axis.
      padding: ``"SAME"`` for spatial * strides; ``"VALID"`` for
        spatial * strides + max(kernel_size - strides, 0), with the dilated kernel's size;
        or the (low, high) padding of the spread-out input, for each spatial axis.
      groups: how many groups the channels are split into.

    Returns:
      (batch, *spatial', out).
    """
    if isinstance(padding, str):
        padding = [
            _transposed_padding(dilate * (size - 1) + 1, stride, padding)
            for size, stride, dilate in zip(kernel.shape, strides, dilation, strict=False)
        ]
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1,) * len(strides),
        padding=padding,
        lhs_dilation=tuple(strides),
        rhs_dilation=tuple(dilation),
        dimension_numbers=_channels_last(x.ndim - 2),
        feature_group_count=groups,
    )
    return y if bias is None else add_bias(y, bias)


def _transposed_padding(size: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) for a kernel of ``size``, dilation counted in, as in ``lax.conv_transpose``."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low
