"""Low-rank adaptation: a trained product of two thin matrices beside each frozen weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ..base.arguments import AboveZero, Positive
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.patterns import Patterns, each_pattern
from ..base.types import Initializer
from ..combinators.transparent import Parts, drawn_beside, made_from, with_lazy_weights
from ..core.dense import spread_features
from ..core.dtypes import at_least_float32
from ..core.weights import Weight, array_of, lazy, static

# As in peft: uniform up to 1 / sqrt(rows).
_FIRST = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@factory
def lora(
    layer: LayerOrFunction,
    pattern: Patterns = "**/*kernel",
    *,
    rank: Positive,
    alpha: AboveZero | None = None,
    rank_stabilized: bool = False,
    init: Initializer = _FIRST,
) -> Layer:
    """The layer with a low-rank matrix added to each weight, for fine-tuning.

    ``kernel' = kernel + alpha / rank * a @ b`` (Hu et al., 2021, arXiv:2106.09685), with the kernel
    as a matrix of all its axes by the last. As ``b`` starts as zeros, the layer computes what it
    did. ``Dense``, attention and ``Embedding`` never make the sum: they add ``(x @ a) @ b`` to
    their output. Where the kernel is not differentiated, its gradient is not computed.

    Inside ``repeat`` and ``ensemble`` each copy has matrices of its own. Paths stay as they are,
    so that parameters of the layer without LoRA are those of ``init`` but for the matrices.
    ``merge`` adds them up.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, one or a tuple: ``"**/query_kernel"``, ``"**/embedding"``; by
        default all kernels.
      rank: of the matrices. Above the smaller side of a kernel it gives no further freedom, and
        takes memory: leave such kernels out by ``pattern``.
      alpha: the product counts ``alpha / rank``; by default once.
      rank_stabilized: it counts ``alpha / sqrt(rank)`` (Kalajdzievski, 2023, arXiv:2312.03732).
      init: of ``a``, as a matrix (rows, rank).

    The parameters are those of ``layer``, and beside each kernel ``kernel_lora_a`` (rows, rank) and
    ``kernel_lora_b`` (rank, last axis). To train these alone, ``train_step(frozen=)`` takes
    patterns for all others.

    Raises:
      LayerError: for a pattern that fits no parameter, and one of fewer than two axes or of
        integers.

    >>> import jax, jlayers as jl
    >>> model = jl.transforms.lora(jl.serial(jl.Dense(3)), rank=2)
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 4)))
    >>> {path: leaf.shape for path, leaf in params["dense"].items()}
    {'bias': (3,), 'kernel': (4, 3), 'kernel_lora_a': (4, 2), 'kernel_lora_b': (2, 3)}
    """
    scale = scale_of(rank, alpha, rank_stabilized)

    def again(new: Layer) -> Layer:
        given: dict[str, Any] = {"alpha": alpha, "rank_stabilized": rank_stabilized, "init": init}
        return lora(new, pattern, rank=rank, **given)

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        again,
        lambda kernel, lora_a, lora_b: LowRank(kernel, lora_a, lora_b, scale),
        params=("lora_a", "lora_b"),
        parts=lambda spec: Parts(matrices(spec, "lora", rank, init)),
    )


@factory
def dora(
    layer: LayerOrFunction,
    pattern: Patterns = "**/*kernel",
    *,
    rank: Positive,
    alpha: AboveZero | None = None,
    rank_stabilized: bool = False,
    init: Initializer = _FIRST,
) -> Layer:
    """``lora`` with the lengths of the columns as parameters of their own.

    ``kernel' = norm * w / |w|`` with ``w = kernel + alpha / rank * a @ b`` and the length of each
    column over all axes but the last (Liu et al., 2024, arXiv:2402.09353). ``kernel_dora_norm``
    starts as the lengths of the kernel. As in the paper, no gradient passes through ``|w|``.

    Args:
      layer, pattern, rank, alpha, rank_stabilized, init: as for ``lora``.

    The parameters are those of ``layer``, and beside each kernel ``kernel_dora_a``,
    ``kernel_dora_b`` and ``kernel_dora_norm``, of the last axis.

    Raises:
      LayerError: as for ``lora``.

    >>> import jax, jlayers as jl
    >>> layer = jl.transforms.dora(jl.Dense(3, bias=False), rank=1)
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> {path: leaf.shape for path, leaf in jl.flatten(params).items()}
    {'kernel': (4, 3), 'kernel_dora_a': (4, 1), 'kernel_dora_b': (1, 3), 'kernel_dora_norm': (3,)}
    """
    scale = scale_of(rank, alpha, rank_stabilized)

    def again(new: Layer) -> Layer:
        given: dict[str, Any] = {"alpha": alpha, "rank_stabilized": rank_stabilized, "init": init}
        return dora(new, pattern, rank=rank, **given)

    def parts(spec: ParamSpec) -> Parts:
        norm = made_from(spec, _lengths, spec.shape_of_one[-1:])
        return Parts({**matrices(spec, "dora", rank, init), "dora_norm": norm})

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        again,
        lambda kernel, dora_a, dora_b, dora_norm: Decomposed(
            LowRank(kernel, dora_a, dora_b, scale), dora_norm
        ),
        params=("dora_a", "dora_b", "dora_norm"),
        parts=parts,
    )


def scale_of(rank: int, alpha: float | None, rank_stabilized: bool) -> float:
    """What the product of the matrices counts."""
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if rank_stabilized else rank)


def matrices(weight: ParamSpec, name: str, rank: int, init: Initializer) -> dict[str, ParamSpec]:
    """The two matrices of each copy of a weight."""
    *others, last = weight.shape_of_one
    sizes = {f"{name}_a": (init, (math.prod(others), rank))}
    sizes[f"{name}_b"] = (initializers.zeros, (rank, last))
    return {name: drawn_beside(weight, name, *how) for name, how in sizes.items()}


@lazy
class LowRank(Weight):
    """``kernel + scale * a @ b``."""

    a: jax.Array
    b: jax.Array
    scale: float = static()

    def made(self) -> jax.Array:
        kernel = array_of(self.kernel)
        wide = at_least_float32(kernel.dtype)
        added = self.a.astype(wide) @ self.b.astype(wide)
        made: jax.Array = kernel.astype(wide) + self.scale * added.reshape(kernel.shape)
        return made

    def product(self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        low = dense(x, self.a.astype(self.dtype))
        added = dense(low, self.b.astype(self.dtype))
        return dense(x, self.kernel.astype(self.dtype)) + self.scale * added

    def rows(self, ids: jax.Array, lookup: Callable[[Any, jax.Array], jax.Array]) -> jax.Array:
        added = lookup(self.a, ids) @ self.b
        return (lookup(self.kernel, ids) + self.scale * added).astype(self.dtype)


@lazy
class Decomposed(Weight):
    """``norm * kernel / |kernel|`` for each column, whose length is taken for a constant."""

    norm: jax.Array

    def made(self) -> jax.Array:
        kernel = array_of(self.kernel)
        made: jax.Array = kernel * spread_features(self._factor(kernel), kernel)
        return made

    def product(self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        y = dense(x, self.kernel.astype(self.dtype))
        factor = self._factor(lax.stop_gradient(array_of(self.kernel)))
        return y * spread_features(factor, y)

    def _factor(self, kernel: jax.Array) -> jax.Array:
        length = lax.stop_gradient(_lengths(kernel.astype(at_least_float32(kernel.dtype))))
        # A column of zeros has no direction, and stays zero.
        return self.norm.astype(length.dtype) / jnp.where(length == 0, 1, length)


def _lengths(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(kernel), range(kernel.ndim - 1)))
