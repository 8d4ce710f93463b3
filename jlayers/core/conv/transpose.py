"""Fractionally strided convolutions, of any rank, channels last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import Bilinear, bilinear, product
from ..dense import add_bias
from ..dispatch import Choice, check_method, record
from ..sharding import is_spread
from ..windows import Pads, interleave
from .algorithms import algorithm
from .conv import choose_conv, convolve
from .geometry import Geometry, channels_last

# Fewer channels out: putting the phases together costs more than the product with zeros.
_WIDE = 8
# More channels in: the product of one phase loses as much as the zeros cost.
_DEEP = 128


def conv_transpose(
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
      method: ``"direct"`` (XLA's own) or ``"phases"`` (a small convolution for each position
        between two steps of the input); by default what ``choose_conv_transpose`` says for the
        platform that the program is compiled for.

    Returns:
      (batch, *spatial', out).

    Raises:
      ValueError: for another method.
    """
    if isinstance(padding, str):
        padding = [
            transposed_padding(dilate * (size - 1) + 1, stride, padding)
            for size, stride, dilate in zip(kernel.shape, strides, dilation, strict=False)
        ]
    how = Geometry(tuple(strides), tuple(map(tuple, padding)), tuple(dilation), groups)  # type: ignore[arg-type]
    check_method(method, ("direct", "phases"), "conv_transpose")
    on_cpu, elsewhere = (
        choose_conv_transpose(x.shape, kernel.shape, how, p) for p in ("cpu", "gpu")
    )
    if is_spread(x):
        on_cpu = Choice("direct", "spread over devices: XLA's own convolution")
    record("conv_transpose", on_cpu, elsewhere, method)
    y = _run(x, kernel, how, method, on_cpu.method)
    return y if bias is None else add_bias(y, bias)


def _run(
    x: jax.Array, kernel: jax.Array, how: Geometry, method: str | None, on_cpu: str
) -> jax.Array:
    if all(stride == 1 for stride in how.strides) and method is None:
        return convolve(x, kernel, how, None)
    if is_spread(x) and method is None:
        return _direct(x, kernel, how)
    xla = bilinear(lambda x, kernel: _direct(x, kernel, how))
    phases = bilinear(lambda x, kernel: _phases(x, kernel, how))
    if method is not None:
        return product({"direct": xla, "phases": phases}[method])(x, kernel)
    if how.groups > 1 or x.ndim == 5:
        # Each phase chooses for itself, gradients included.
        return product(phases, xla)(x, kernel)
    value = xla.value if on_cpu == "direct" else phases.value
    ours = Bilinear(value, xla.left, lambda x, k, ct: _kernel_gradient(x, k, ct, how))
    return product(ours, xla)(x, kernel)


def choose_conv_transpose(
    x: Sequence[int], kernel: Sequence[int], how: Geometry, platform: str
) -> Choice:
    """The algorithm for shapes ``x`` and ``kernel``, with the reason."""
    if platform != "cpu":
        return Choice("direct", "XLA's own convolution on accelerators")
    if all(stride == 1 for stride in how.strides):
        return Choice("direct", "stride 1: an ordinary convolution")
    if how.groups > 1:
        return Choice("phases", "groups: every phase is a grouped convolution of its own")
    if len(x) == 5:
        return Choice("phases", "3-D: every phase is a convolution by planes")
    overlap = any(k > s for k, s in zip(kernel, how.strides, strict=False))
    if overlap and kernel[-1] >= _WIDE and x[-1] <= _DEEP:
        return Choice("phases", "windows overlap: no product with the zeros between the inputs")
    return Choice(
        "direct", "little to gain by phases; the kernel's gradient is that of a strided convolution"
    )


def _direct(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """XLA's own, over the input with the zeros in it."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1,) * len(how.strides),
        padding=how.padding,
        lhs_dilation=how.strides,
        rhs_dilation=how.dilation,
        dimension_numbers=channels_last(x.ndim - 2),
        feature_group_count=how.groups,
    )


def _out_size(x: jax.Array, kernel: jax.Array, how: Geometry) -> list[int]:
    return [
        (n - 1) * s + 1 + low + high - d * (k - 1)
        for n, k, s, d, (low, high) in zip(
            x.shape[1:-1], kernel.shape, how.strides, how.dilation, how.padding, strict=False
        )
    ]


class _Phase(NamedTuple):
    """One axis of the outputs ``phase, phase + stride, ...``: a plain convolution of the input."""

    taps: slice
    padding: tuple[int, int]
    dilation: int
    size: int


def _phase(phase: int, n: int, k: int, s: int, d: int, low: int, out: int) -> _Phase | None:
    """Output o sees input (o + d j - low) / s through tap j, where that is whole."""
    taps = [j for j in range(k) if (phase + d * j - low) % s == 0]
    size = len(range(phase, out, s))
    if not taps or not size:
        return None
    step = s // math.gcd(s, d)
    first = (phase + d * taps[0] - low) // s
    reach = (d * step // s) * (len(taps) - 1)
    return _Phase(
        slice(taps[0], None, step),
        (-first, first + size - 1 + reach - (n - 1)),
        d * step // s,
        size,
    )


def _phases(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Each position between two steps of the input sees its own taps, and no zeros."""
    rank = x.ndim - 2
    out = _out_size(x, kernel, how)
    axes = [
        [
            _phase(p, x.shape[1 + a], kernel.shape[a], s, d, how.padding[a][0], out[a])
            for p in range(s)
        ]
        for a, (s, d) in enumerate(zip(how.strides, how.dilation, strict=True))
    ]
    most = [-(-n // s) for n, s in zip(out, how.strides, strict=True)]
    parts = []
    for position in itertools.product(*axes):
        if any(axis is None for axis in position):
            parts.append(jnp.zeros((x.shape[0], *most, kernel.shape[-1]), x.dtype))
            continue
        found = [axis for axis in position if axis is not None]
        y = convolve(
            x,
            kernel[tuple(axis.taps for axis in found)],
            Geometry(
                (1,) * rank,
                tuple(axis.padding for axis in found),
                tuple(axis.dilation for axis in found),
                how.groups,
            ),
            None,
        )
        short = [(0, m - axis.size, 0) for m, axis in zip(most, found, strict=True)]
        parts.append(lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *short, (0, 0, 0)]))
    y = interleave(parts, how.strides)
    return y[(slice(None), *(slice(n) for n in out))]


def _kernel_gradient(x: jax.Array, kernel: jax.Array, ct: jax.Array, how: Geometry) -> jax.Array:
    """That of the strided convolution which takes ``ct`` to ``x``, its kernel turned round."""
    reach = [d * (k - 1) for k, d in zip(kernel.shape, how.dilation, strict=False)]
    low = [r - pads[0] for r, pads in zip(reach, how.padding, strict=True)]
    padding = tuple(
        (left, (n - 1) * s + 1 + r - left - m)
        for left, n, s, r, m in zip(
            low, x.shape[1:-1], how.strides, reach, ct.shape[1:-1], strict=True
        )
    )
    strided = Geometry(how.strides, padding, how.dilation)
    turned = jax.ShapeDtypeStruct((*kernel.shape[:-2], kernel.shape[-1], x.shape[-1]), kernel.dtype)
    chosen = choose_conv(ct.shape, turned.shape, strided, "cpu").method
    found = algorithm(chosen, strided).right(ct, turned, x)  # type: ignore[arg-type]
    return jnp.swapaxes(lax.rev(found, tuple(range(x.ndim - 2))), -1, -2)


def transposed_padding(size: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) for a kernel of ``size``, dilation counted in, as in ``lax.conv_transpose``."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low
