"""Fractionally strided convolutions, of any rank, channels last.

How to read this file: ``conv_transpose`` makes the padding explicit, ``_convolve_transposed`` picks
the programs, ``choose_conv_transpose`` is the rule. ``_direct`` is XLA's own, over the dilated
input with its zeros. ``_phases`` computes the same without zeros: the outputs ``phase, phase +
stride, ...`` are a small ordinary convolution for each phase (``_phase`` says which), and
``interleave`` puts them together. ``_kernel_gradient`` is that of an ordinary strided convolution.
docs/notes/0009-compiled-cores.md has the measurements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import BilinearRule, bilinear_op
from ..dense import add_bias
from ..dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from ..dtypes import is_sharded, is_symbolic
from ..padding import Amounts, Padding, for_each_axis
from ..windows import interleave, pad_or_crop
from .algorithms import algorithm
from .conv import choose_conv, convolve
from .geometry import Geometry, channels_last
from .on_mesh import by_element, on_mesh, with_gaps

# With fewer output channels, interleaving the phases costs more than the product with zeros
# (0.66 to 0.85x of XLA's own).
_MIN_FEATURES = 8
# With more input channels, the product of one phase loses as much as the zeros cost (0.94 to 1x).
_MAX_INPUTS = 128


@traced_once("strides", "padding", "dilation", "groups", "method")
def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int = 1,
    method: str | None = None,
) -> jax.Array:
    """Fractionally strided convolution, as ``lax.conv_transpose``, with groups.

    ``x`` is dilated, with ``strides - 1`` zeros between its steps, and then cross-correlated with
    the kernel at stride 1 (Dumoulin & Visin, 2016, arXiv:1603.07285).

    Args:
      x: (batch, *spatial, in).
      kernel: (*kernel_size, in / groups, out).
      bias: (out,), or None.
      strides, dilation: one int for each spatial axis.
      padding: ``"SAME"`` for spatial * strides; ``"VALID"`` for
        spatial * strides + max(kernel_size - strides, 0), with the dilated kernel's size;
        ``"CAUSAL"`` for spatial * strides, none of which needs a later step of the first spatial
        axis; or for each spatial axis one of these or the (low, high) padding of the dilated input.
      groups: how many groups the channels are split into.
      method: ``"direct"`` (XLA's own) or ``"phases"`` (a small convolution for each position
        between two steps of the input); by default what ``choose_conv_transpose`` says for the
        platform that the program is compiled for.

    Returns:
      (batch, *spatial', out).

    Raises:
      ValueError: for another method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, kernel = jnp.array([1.0, 2.0]).reshape(1, 2, 1), jnp.ones((2, 1, 1))
    >>> y = jl.core.conv_transpose(x, kernel, strides=(2,), padding="SAME", dilation=(1,))
    >>> y.ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    extents = [d * (k - 1) + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    pads = transposed_amounts(extents, strides, padding)
    geometry = Geometry(tuple(strides), pads, tuple(dilation), groups)
    check_method(method, ("direct", "phases"), "conv_transpose")
    cpu, default = (
        choose_conv_transpose(x.shape, kernel.shape, geometry, platform)
        for platform in ("cpu", "gpu")
    )
    if is_sharded(x):
        cpu = AlgorithmChoice("direct", "sharded over devices: XLA's own convolution")
    record_choice("conv_transpose", cpu, default, method)
    y = _convolve_transposed(x, kernel, geometry, method, cpu.method)
    return y if bias is None else add_bias(y, bias)


def _convolve_transposed(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, method: str | None, cpu_method: str
) -> jax.Array:
    if all(stride == 1 for stride in geometry.strides) and method is None:
        return convolve(x, kernel, geometry, None)
    if method is None and is_sharded(x):
        ordinary = geometry._replace(strides=(1,) * len(geometry.strides))
        return on_mesh(
            lambda x, kernel: _direct(x, kernel, geometry),
            lambda x, kernel: by_element(with_gaps(x, geometry.strides), kernel, ordinary),
            geometry.groups,
        )(x, kernel)
    if method is None and is_symbolic(*x.shape[1:-1]):
        return _direct(x, kernel, geometry)
    xla = BilinearRule(lambda x, kernel: _direct(x, kernel, geometry))
    phases = BilinearRule(lambda x, kernel: _phases(x, kernel, geometry))
    if method is not None:
        return bilinear_op({"direct": xla, "phases": phases}[method])(x, kernel)
    if geometry.groups > 1 or x.ndim == 5:
        # Each phase chooses its own algorithm, gradients included.
        return bilinear_op(phases, xla.value)(x, kernel)
    # Whichever program computes the value, XLA's gradient of the input is a strided convolution and
    # fast, and its gradient of the kernel is not: 15 to 70 times slower than ours.
    value = xla.value if cpu_method == "direct" else phases.value
    cpu = BilinearRule(
        value,
        for_lhs=xla.value,
        vjp_rhs=lambda x, kernel, ct: _kernel_gradient(x, kernel, ct, geometry),
    )
    return bilinear_op(cpu, xla.value)(x, kernel)


def choose_conv_transpose(
    x: Sequence[int], kernel: Sequence[int], geometry: Geometry, platform: str
) -> AlgorithmChoice:
    """The algorithm for shapes ``x`` and ``kernel``, with the reason."""
    if platform != "cpu":
        return AlgorithmChoice("direct", "XLA's own convolution on accelerators")
    if is_symbolic(*x[1:-1]):
        return AlgorithmChoice("direct", "sizes that are not known yet")
    if all(stride == 1 for stride in geometry.strides):
        return AlgorithmChoice("direct", "stride 1: an ordinary convolution")
    if geometry.groups > 1:
        return AlgorithmChoice("phases", "groups: every phase is a grouped convolution of its own")
    if len(x) == 5:
        return AlgorithmChoice("phases", "3-D: every phase is a convolution by planes")
    overlap = any(k > s for k, s in zip(kernel, geometry.strides, strict=False))
    if overlap and kernel[-1] >= _MIN_FEATURES and x[-1] <= _MAX_INPUTS:
        reason = "windows overlap: no product with the zeros between the inputs"
        return AlgorithmChoice("phases", reason)
    reason = "little to gain by phases; the kernel's gradient is that of a strided convolution"
    return AlgorithmChoice("direct", reason)


def _direct(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's own, over the input with the zeros in it."""
    out_shape = _output_shape(x, kernel, geometry)
    edges, pads = [], []
    axes = zip(kernel.shape, geometry.dilation, geometry.padding, out_shape, strict=False)
    for k, dilation, (low, high), out in axes:
        most = extent = dilation * (k - 1)
        if not is_symbolic(out):
            most = min(most, max(out - 1, 0))
        # Padding that is negative, here or in a gradient (geometry.py), crops or pads the output.
        plain = 0 <= low <= most and 0 <= high <= most
        pads.append((low, high) if plain else (extent, extent))
        edges.append((0, 0) if plain else (low - extent, high - extent))
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1,) * len(geometry.strides),
        padding=pads,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=channels_last(x.ndim - 2),
        feature_group_count=geometry.groups,
    )
    return pad_or_crop(y, edges)


def _output_shape(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> list[int]:
    strides, padding, dilation, _ = geometry
    sides = zip(x.shape[1:-1], kernel.shape, strides, dilation, padding, strict=False)
    return [(n - 1) * s + 1 + sum(pads) - d * (k - 1) for n, k, s, d, pads in sides]


class _Phase(NamedTuple):
    """Along one axis, the ordinary convolution that gives the outputs ``phase, phase + s, ...``.

    Attributes:
      elements: those of the kernel that meet an input, and not a zero between two inputs.
      padding, dilation: of the convolution of the input with these elements.
      size: how many outputs there are.
    """

    elements: slice
    padding: tuple[int, int]
    dilation: int
    size: int


def _phase(phase: int, n: int, k: int, s: int, d: int, low: int, out: int) -> _Phase | None:
    """One phase of an axis, or None where no kernel element meets an input.

    Output o is the sum over kernel elements j of kernel[j] times input (o + d j - low) / s, for the
    j that make it an integer: all those that are congruent to the first modulo s / gcd(s, d).

    Args:
      phase: from 0 up to the stride.
      n, k, s, d: the sizes of input and kernel, stride and dilation.
      low: the padding before the dilated input.
      out: the size of the output.
    """
    elements = [j for j in range(k) if (phase + d * j - low) % s == 0]
    size = len(range(phase, out, s))
    if not elements or not size:
        return None
    step = s // math.gcd(s, d)
    first = (phase + d * elements[0] - low) // s
    extent = (d * step // s) * (len(elements) - 1)
    return _Phase(
        slice(elements[0], None, step),
        (-first, first + size - 1 + extent - (n - 1)),
        d * step // s,
        size,
    )


def _phases(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A small convolution for each position between two inputs, and none with zeros."""
    rank = x.ndim - 2
    strides, padding, dilation, groups = geometry
    out_shape = _output_shape(x, kernel, geometry)
    axes = [
        [
            _phase(p, x.shape[1 + a], kernel.shape[a], s, d, padding[a][0], out_shape[a])
            for p in range(s)
        ]
        for a, (s, d) in enumerate(zip(strides, dilation, strict=True))
    ]
    # All phases are padded to the size of the largest, so that they can be interleaved.
    largest = [-(-n // s) for n, s in zip(out_shape, strides, strict=True)]
    parts = []
    for position in itertools.product(*axes):
        if any(phase is None for phase in position):
            parts.append(jnp.zeros((x.shape[0], *largest, kernel.shape[-1]), x.dtype))
            continue
        phases = [phase for phase in position if phase is not None]
        y = convolve(
            x,
            kernel[tuple(phase.elements for phase in phases)],
            Geometry(
                (1,) * rank,
                tuple(phase.padding for phase in phases),
                tuple(phase.dilation for phase in phases),
                groups,
            ),
            None,
        )
        missing = [(0, n - phase.size, 0) for n, phase in zip(largest, phases, strict=True)]
        parts.append(lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *missing, (0, 0, 0)]))
    # Up to a stride too many outputs, where the phases were padded.
    y = interleave(parts, strides)
    return y[(slice(None), *(slice(n) for n in out_shape))]


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    """That of the strided convolution which takes ``ct`` to ``x``, with the kernel flipped."""
    extents = [d * (k - 1) for k, d in zip(kernel.shape, geometry.dilation, strict=False)]
    lows = [extent - pads[0] for extent, pads in zip(extents, geometry.padding, strict=True)]
    sides = zip(lows, x.shape[1:-1], geometry.strides, extents, ct.shape[1:-1], strict=True)
    padding = tuple((low, (n - 1) * s + 1 + extent - low - m) for low, n, s, extent, m in sides)
    strided = Geometry(geometry.strides, padding, geometry.dilation)
    # Inputs and features change places. An array, for its gradient varies over devices as it does.
    flipped = jnp.swapaxes(kernel, -1, -2)
    method = choose_conv(ct.shape, flipped.shape, strided, "cpu").method
    gradient = algorithm(method, ct.shape, flipped.shape, strided).gradient_rhs(ct, flipped, x)
    return jnp.swapaxes(lax.rev(gradient, tuple(range(x.ndim - 2))), -1, -2)


def transposed_amounts(extents: Sequence[int], strides: Sequence[int], padding: Padding) -> Amounts:
    """(low, high) of the dilated input, for each axis."""
    axes = zip(extents, strides, for_each_axis(padding, len(extents)), strict=True)
    return tuple(
        transposed_padding(k, s, own) if isinstance(own, str) else (own[0], own[1])
        for k, s, own in axes
    )


def transposed_padding(size: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) for a kernel of ``size``, dilation included, by names of ``lax.conv_transpose``.

    ``"CAUSAL"`` ends ``stride`` outputs after the last input, and none is before the first.
    """
    if padding == "CAUSAL":
        return size - 1, stride - 1
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    elif padding != "VALID":
        raise ValueError(f"unknown padding {padding!r} of a transposed convolution")
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low
