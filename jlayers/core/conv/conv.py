"""Convolutions of any rank, channels last, by the algorithm that is fastest where they run.

How to read this file: ``conv`` makes the padding explicit and adds the bias, ``convolve`` picks the
algorithm, ``choose_conv`` is the rule. The algorithms are in ``algorithms.py``; the tables that the
rule is made of are in docs/notes/0009-compiled-cores.md and docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..custom_gradient import bilinear_op
from ..dense import add_bias
from ..dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from ..dtypes import is_sharded
from ..padding import Padding, apart, extend, modes_of
from ..windows import explicit_padding
from .algorithms import algorithm, is_small
from .geometry import Geometry, direct, output_sizes
from .on_mesh import by_element, on_mesh
from .rows import takes_rows

# How often a pixel may be copied into patches, kernel elements / strides: beyond that, copying
# costs more than the product gains (0.6x for 7x7 with stride 2, 1.0 to 1.9x up to 3).
_MAX_COPIES = 3
# Of a kernel, for a single output to be one product: of 3 it is level or slower.
_MIN_ELEMENTS = 16
# Numbers in all patches: more of them leave the cache, and come from fresh pages at each call
# (14 MB were 1.2x in one run and 0.7x in another).
_MAX_PATCH_NUMBERS = 3 << 20
# Smaller convolutions, of some 0.2 ms, are not worth the longer program.
_MIN_PRODUCTS_FOR_ROWS = 1 << 24


@traced_once("strides", "padding", "dilation", "groups", "method")
def conv(
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
    """Cross-correlation: ``y[p] = sum_k x[strides * p + dilation * k] kernel[k] + bias``.

    Args:
      x: (batch, *spatial, in).
      kernel: (*kernel_size, in / groups, out).
      bias: (out,), or None.
      strides, dilation: one int for each spatial axis.
      padding: a name as for the layer, or for each spatial axis a name or a (low, high);
        ``"CAUSAL"`` and ``"REVERSE_CAUSAL"`` for all pad the first spatial axis, the others VALID.
      groups: how many groups the channels are split into.
      method: ``"direct"`` (XLA's own), ``"matmul"`` (kernels of one element), ``"patches"``
        (im2col), ``"shifted"`` (one channel a group), ``"blocks"`` (groups), ``"planes"`` (3-D),
        ``"rows"`` (dense, 1-D and 2-D: XLA's own in other shapes); by default what ``choose_conv``
        says for the platform that the program is compiled for.

    Returns:
      (batch, *spatial', out).

    Raises:
      ValueError: for a method that cannot compute this convolution.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    >>> kernel = jnp.array([-1.0, 1.0]).reshape(2, 1, 1)
    >>> y = jl.core.conv(x, kernel, strides=(1,), padding="VALID", dilation=(1,))
    >>> y.ravel().tolist()
    [1.0, 2.0]
    """
    extents = [d * (k - 1) + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    pads = explicit_padding(x, extents, strides, padding)
    modes = modes_of(padding, len(pads))
    around, pads = apart(pads, modes)
    x = extend(x, around, modes)
    geometry = Geometry(tuple(strides), pads, tuple(dilation), groups)
    y = convolve(x, kernel, geometry, method)
    return y if bias is None else add_bias(y, bias)


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry, method: str | None) -> jax.Array:
    """``conv`` for explicit padding, without bias."""
    check_method(method, _possible_methods(x, kernel, geometry), "conv")
    if is_sharded(x) and method is None:
        choice = AlgorithmChoice("direct", "sharded over devices: XLA's own convolution")
        record_choice("conv", choice, choice, None)
        if 0 in x.shape or 0 in kernel.shape:
            return direct(x, kernel, geometry)
        return on_mesh(
            lambda x, kernel: direct(x, kernel, geometry),
            lambda x, kernel: by_element(x, kernel, geometry),
            geometry.groups,
        )(x, kernel)
    cpu, default = (
        choose_conv(x.shape, kernel.shape, geometry, platform) for platform in ("cpu", "gpu")
    )
    if cpu.method == "rows" and not (
        jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize <= 4
    ):
        cpu = AlgorithmChoice("direct", f"XLA's own, for {x.dtype}")
    record_choice("conv", cpu, default, method)
    # Of no images or pixels, whichever method is asked for: most forms divide by their number.
    if 0 in x.shape or 0 in kernel.shape:
        return direct(x, kernel, geometry)
    rule = algorithm(method or cpu.method, x.shape, kernel.shape, geometry)
    # Where the platforms have the same programs, there is no branch.
    if method is not None or (cpu.method == default.method and not any(rule[1:])):
        return bilinear_op(rule)(x, kernel)
    return bilinear_op(rule, lambda x, kernel: direct(x, kernel, geometry))(x, kernel)


def choose_conv(
    x: Sequence[int], kernel: Sequence[int], geometry: Geometry, platform: str
) -> AlgorithmChoice:
    """The algorithm for shapes ``x`` and ``kernel``, with the reason."""
    rank = len(x) - 2
    if 0 in x or 0 in kernel:
        return AlgorithmChoice("direct", "nothing to compute")
    if not all(isinstance(n, int) for n in x[1:]):
        return AlgorithmChoice("direct", "sizes that are not known yet")
    one_element = geometry.groups == 1 and all(k == 1 for k in kernel[:rank])
    # With strides, a convolution leaves out pixels that a product would have to copy from.
    if one_element and (platform == "cpu" or set(geometry.strides) == {1}):
        return AlgorithmChoice("matmul", "a kernel of one element is a matrix product")
    if platform != "cpu":
        return AlgorithmChoice("direct", "XLA's own convolution on accelerators")
    if geometry.groups > 1 and kernel[-2] == 1:
        return AlgorithmChoice("shifted", "one channel a group: a sum of shifted images")
    if geometry.groups > 1:
        reason = f"{geometry.groups} groups, put together into dense convolutions"
        return AlgorithmChoice("blocks", reason)
    if rank < 3 and is_small(x[1:-1], kernel):
        reason = "an image smaller than the kernel, for which XLA has no fast convolution"
        return AlgorithmChoice("patches", reason)
    elements = math.prod(kernel[:rank])
    if elements >= _MIN_ELEMENTS and set(output_sizes(x[1:-1], kernel, geometry)) == {1}:
        return AlgorithmChoice("patches", "one output: a matrix product with the kernel as it lies")
    strided = rank == 2 and max(geometry.strides) > 1 and max(geometry.dilation) == 1
    copies = elements / math.prod(geometry.strides)
    few_copies = strided and isinstance(x[0], int) and copies <= _MAX_COPIES
    if few_copies and copies * math.prod(x) <= _MAX_PATCH_NUMBERS:
        reason = "strides: a pixel is in few patches, so patches are laid out"
        return AlgorithmChoice("patches", reason)
    if rank == 3:
        reason = "3-D: the kernel's first axis as channels of a 2-D convolution"
        return AlgorithmChoice("planes", reason)
    outputs = output_sizes(x[1:-1], kernel, geometry)
    products = math.prod(kernel) * math.prod(outputs) * (x[0] if isinstance(x[0], int) else 1)
    if takes_rows(x, kernel, geometry) and products >= _MIN_PRODUCTS_FOR_ROWS:
        reason = f"dense {rank}-D: XLA's own, in forms for its faster library and for loops"
        return AlgorithmChoice("rows", reason)
    reason = f"dense {rank}-D: XLA's own runs near the matrix product's speed"
    return AlgorithmChoice("direct", reason)


def _possible_methods(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> list[str]:
    """The methods that can compute this convolution."""
    conditions = {
        "direct": True,
        "matmul": geometry.groups == 1 and all(k == 1 for k in kernel.shape[:-2]),
        "patches": geometry.groups == 1,
        "shifted": geometry.groups > 1 and kernel.shape[-2] == 1,
        "blocks": geometry.groups > 1,
        "planes": geometry.groups == 1 and x.ndim == 5,
        "rows": takes_rows(x.shape, kernel.shape, geometry),
    }
    return [method for method, possible in conditions.items() if possible]
