"""Convolution, depthwise and grouped included, its transpose, and the separable pair."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..row import Row
from .op import Op, Weights, normal, spread


class Geometry(NamedTuple):
    """A convolution with a number for each spatial axis."""

    rank: int
    channels: int
    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[int, ...]  # on both sides
    bias: bool

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return tuple((pad, pad) for pad in self.padding)

    @property
    def same(self) -> bool:
        """Whether this is what ``"SAME"`` means everywhere."""
        axes = zip(self.kernel, self.dilation, self.padding, strict=True)
        return set(self.strides) == {1} and all(d * (k - 1) == 2 * p for k, d, p in axes)

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels and self.groups > 1


def geometry(row: Row) -> Geometry:
    """The geometry of a row; padding "SAME" or "VALID" (transposed rows) counts as none."""
    rank, options = len(row.x) - 2, row.options
    padding = options.get("padding", 0)
    numbers = {
        "padding": 0 if isinstance(padding, str) else padding,
        **{name: options.get(name, 1) for name in ("kernel", "strides", "dilation")},
    }
    axes = {name: spread(value, rank) for name, value in numbers.items()}
    groups, bias = options.get("groups", 1), options.get("bias", True)
    return Geometry(rank, row.x[-1], row["features"], groups=groups, bias=bias, **axes)


def _weights(row: Row, rng: np.random.Generator) -> Weights:
    g = geometry(row)
    shape = (*g.kernel, g.channels // g.groups, g.features)
    weights = {"kernel": normal(rng, shape, math.prod(shape[:-1]))}
    return {**weights, "bias": normal(rng, (g.features,))} if g.bias else weights


def shifted_products(
    x: Any, kernel: Any, strides: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> Any:
    """The convolution of a padded ``x`` as a sum over the positions in the kernel."""
    axes = list(zip(x.shape[1:-1], kernel.shape, dilation, strides, strict=False))
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in axes]
    spans = [s * (size - 1) + 1 for size, (_, _, _, s) in zip(sizes, axes, strict=True)]
    positions = np.array(list(np.ndindex(*kernel.shape[:-2])), np.int32) * np.array(
        dilation, np.int32
    )
    starts = np.pad(positions, ((0, 0), (1, 1)))
    kernels = kernel.reshape(len(positions), kernel.shape[-2], groups, -1)

    @jax.checkpoint  # otherwise every patch would be stored for the gradient
    def add(y: Any, at: Any) -> Any:
        start, kernel = at
        patch = lax.dynamic_slice(x, tuple(start), (x.shape[0], *spans, x.shape[-1]))
        patch = patch[(slice(None), *(slice(None, None, s) for s in strides))]
        patch = patch.reshape(*patch.shape[:-1], groups, -1)
        return y + jnp.einsum("b...gi,igo->b...go", patch, kernel), None

    zeros = jnp.zeros((x.shape[0], *sizes, groups, kernels.shape[-1]), x.dtype)
    y, _ = lax.scan(add, zeros, (starts, kernels))
    return y.reshape(*y.shape[:-2], -1)


def _reference(row: Row, weights: Weights, x: Any) -> Any:
    g = geometry(row)
    x = jnp.pad(x, ((0, 0), *g.pairs, (0, 0)))
    y = shifted_products(x, weights["kernel"], g.strides, g.dilation, g.groups)
    return y + weights["bias"] if g.bias else y


def _flops(row: Row) -> float:
    g = geometry(row)
    axes = zip(row.x[1:-1], g.kernel, g.strides, g.dilation, g.padding, strict=True)
    outputs = math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in axes)
    return 2 * row.x[0] * outputs * math.prod(g.kernel) * g.channels // g.groups * g.features


CONV = Op(_weights, _reference, _flops)


# Transposed: padding is "SAME" or "VALID" as in ``lax.conv_transpose``.


def _transposed_padding(row: Row) -> list[tuple[int, int]]:
    g = geometry(row)
    pairs = []
    for k, s in zip(g.kernel, g.strides, strict=True):
        total = k + s - 2 + (max(k - s, 0) if row["padding"] == "VALID" else 0)
        low = k - 1 if row["padding"] == "VALID" or s > k - 1 else -(-total // 2)
        pairs.append((low, total - low))
    return pairs


def _transposed_reference(row: Row, weights: Weights, x: Any) -> Any:
    g = geometry(row)
    pairs = zip(_transposed_padding(row), g.strides, strict=True)
    dilated = [(low, high, s - 1) for (low, high), s in pairs]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *dilated, (0, 0, 0)))
    ones = (1,) * g.rank
    return shifted_products(x, weights["kernel"], ones, ones, g.groups) + weights["bias"]


CONV_TRANSPOSE = Op(
    _weights,
    _transposed_reference,
    lambda row: 2 * math.prod(row.x) * math.prod(geometry(row).kernel) * row["features"],
)


# Separable: one depthwise convolution, then one over the channels.


def separable_parts(row: Row) -> tuple[Row, Row]:
    """The depthwise and the pointwise convolution."""
    channels = row.x[-1]
    first = {**row.options, "features": channels, "groups": channels, "bias": False}
    depthwise = Row(row.name, row.group, "conv", row.x, first, row.dtype)
    g = geometry(depthwise)
    axes = zip(row.x[1:-1], g.kernel, g.strides, g.padding, strict=True)
    sizes = [(n + 2 * p - k) // s + 1 for n, k, s, p in axes]
    between = (row.x[0], *sizes, channels)
    second = {"features": row["features"], "kernel": 1}
    return depthwise, Row(row.name, row.group, "conv", between, second, row.dtype)


def _separable_reference(row: Row, weights: Weights, x: Any) -> Any:
    for part, own in zip(separable_parts(row), weights, strict=True):
        x = _reference(part, own, x)
    return x


SEPARABLE = Op(
    lambda row, rng: tuple(_weights(part, rng) for part in separable_parts(row)),
    _separable_reference,
    lambda row: sum(map(_flops, separable_parts(row))),
)
