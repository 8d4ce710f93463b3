"""Convolutions of any rank, channels last, by the algorithm that is fastest where they run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax

from ..custom_gradient import product
from ..dense import add_bias
from ..dispatch import Choice, check_method, record
from ..sharding import is_spread
from ..windows import Pads, explicit_padding
from .algorithms import algorithm
from .geometry import Geometry, direct

# How often a pixel may be laid out: more of that costs more than the product gains.
_SEEN_AGAIN = 3
# Numbers in what is laid out: more of them leave the cache, and come from fresh pages at each call.
_LAID_OUT = 3 << 20


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Sequence[int],
    padding: Pads,
    dilation: Sequence[int],
    groups: int = 1,
    method: str | None = None,
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
      method: ``"direct"`` (XLA's own), ``"matmul"`` (one tap), ``"patches"`` (what each output
        sees, laid out), ``"shifted"`` (one channel a group), ``"blocks"`` (groups), ``"planes"``
        (3-D); by default what ``choose_conv`` says for the platform that the program is compiled
        for.

    Returns:
      (batch, *spatial', out).

    Raises:
      ValueError: for a method that cannot compute this convolution.
    """
    extents = [d * (k - 1) + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    pads = explicit_padding(x, extents, strides, padding)
    how = Geometry(tuple(strides), pads, tuple(dilation), groups)
    y = convolve(x, kernel, how, method)
    return y if bias is None else add_bias(y, bias)


def convolve(x: jax.Array, kernel: jax.Array, how: Geometry, method: str | None) -> jax.Array:
    """``conv`` for explicit padding, without bias."""
    check_method(method, _possible(x, kernel, how), "conv")
    on_cpu, elsewhere = (choose_conv(x.shape, kernel.shape, how, p) for p in ("cpu", "gpu"))
    if is_spread(x):
        on_cpu = Choice("direct", "spread over devices: XLA's own convolution")
    record("conv", on_cpu, elsewhere, method)
    if method is not None:
        return (
            direct(x, kernel, how)
            if method == "direct"
            else product(algorithm(method, how))(x, kernel)
        )
    if on_cpu.method == "direct":
        return direct(x, kernel, how)
    return product(algorithm(on_cpu.method, how), algorithm("direct", how))(x, kernel)


def choose_conv(x: Sequence[int], kernel: Sequence[int], how: Geometry, platform: str) -> Choice:
    """The algorithm for shapes ``x`` and ``kernel``, with the reason."""
    rank = len(x) - 2
    if platform != "cpu":
        return Choice("direct", "XLA's own convolution on accelerators")
    if 0 in x or 0 in kernel:
        return Choice("direct", "nothing to compute")
    if how.groups == 1 and all(k == 1 for k in kernel[:rank]):
        return Choice("matmul", "a kernel of one tap is a matrix product")
    if how.groups > 1 and kernel[-2] == 1:
        return Choice("shifted", "one channel a group: a sum of shifted images")
    if how.groups > 1:
        return Choice("blocks", f"{how.groups} groups, put together into dense convolutions")
    strided = rank == 2 and max(how.strides) > 1 and max(how.dilation) == 1
    again = math.prod(kernel[:rank]) / math.prod(how.strides)
    if strided and again <= _SEEN_AGAIN and again * math.prod(x) <= _LAID_OUT:
        return Choice("patches", "strides: pixels are seen few times, so windows are laid out")
    if rank == 3:
        return Choice("planes", "3-D: taps along the first axis as channels of a 2-D convolution")
    return Choice("direct", f"dense {rank}-D: XLA's own runs near the matrix product's speed")


def _possible(x: jax.Array, kernel: jax.Array, how: Geometry) -> list[str]:
    """The methods that can compute this convolution."""
    conditions = {
        "direct": True,
        "matmul": how.groups == 1 and all(k == 1 for k in kernel.shape[:-2]),
        "patches": how.groups == 1,
        "shifted": how.groups > 1 and kernel.shape[-2] == 1,
        "blocks": how.groups > 1,
        "planes": how.groups == 1 and x.ndim == 5,
    }
    return [method for method, possible in conditions.items() if possible]
