"""Weight normalisation: the length of a kernel is a parameter beside its direction."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..base.arguments import FeatureAxes
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.patterns import Patterns, each_pattern
from ..core.dtypes import at_least_float32
from ..core.norm import inverse_root
from ..core.weights import Weight, array_of, lazy, static
from .transparent import Parts, made_from, with_lazy_weights


@factory
def weight_norm(
    layer: LayerOrFunction, pattern: Patterns = "**/*kernel", *, feature_axes: FeatureAxes = -1
) -> Layer:
    """The layer with kernels whose lengths are parameters of their own.

    ``kernel' = kernel_norm * kernel / |kernel|`` (Salimans & Kingma, 2016, arXiv:1602.07868). At
    first ``kernel_norm`` is the length of the kernel, so that the layer computes what it did.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, one or a tuple, by default of all kernels.
      feature_axes: the axes of a kernel that have a length for each entry, by default that of the
        outputs; ``()`` for one length of the whole kernel.

    The parameters are those of ``layer``, and beside each kernel ``kernel_norm``, of the sizes of
    ``feature_axes``.

    Raises:
      LayerError: for a pattern that fits no parameter, and for one of fewer than two axes.

    >>> import jax, jlayers as jl
    >>> layer = jl.weight_norm(jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> {path: leaf.shape for path, leaf in jl.flatten(params).items()}
    {'bias': (3,), 'kernel': (4, 3), 'kernel_norm': (3,)}
    """
    axes = feature_axes if isinstance(feature_axes, tuple) else (feature_axes,)

    def parts(spec: ParamSpec) -> Parts:
        shape = spec.shape_of_one
        over = _others(axes, len(shape))
        kept = tuple(size for axis, size in enumerate(shape) if axis not in over)
        return Parts({"norm": made_from(spec, functools.partial(_length, axes=over), kept)})

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: weight_norm(new, pattern, feature_axes=feature_axes),
        lambda kernel, norm: Normalized(kernel, norm, axes),
        params=("norm",),
        parts=parts,
    )


@lazy
class Normalized(Weight):
    """``norm * kernel / |kernel|``, with a length for each entry of the axes."""

    norm: jax.Array
    axes: tuple[int, ...] = static()

    def made(self) -> jax.Array:
        kernel = array_of(self.kernel)
        return _with_length(kernel, self.norm, _others(self.axes, kernel.ndim))


def _others(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    kept = {axis % rank for axis in axes}
    return tuple(axis for axis in range(rank) if axis not in kept)


def _length(kernel: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axes))


def _with_length(kernel: jax.Array, norm: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    wide = kernel.astype(at_least_float32(kernel.dtype))
    squared = jnp.sum(jnp.square(wide), axes, keepdims=True)
    # A kernel of zeros has no direction, and stays zero.
    least = float(np.finfo(wide.dtype).tiny)
    factor = jnp.expand_dims(norm.astype(wide.dtype), axes)
    return (wide * (factor * inverse_root(jnp.maximum(squared, least)))).astype(kernel.dtype)
