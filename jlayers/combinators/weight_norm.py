"""Weight normalisation: the length of a kernel is a parameter beside its direction."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..base.arguments import FeatureAxes
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.paths import flatten, matches, unflatten
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State
from ..core.dtypes import at_least_float32
from ..core.norm import inverse_root
from .transparent import check_no_copies, made_from, traced, weights_of, with_changed_weights


@factory
def weight_norm(
    layer: LayerOrFunction, pattern: str = "**/*kernel", *, feature_axes: FeatureAxes = -1
) -> Layer:
    """The layer with kernels whose lengths are parameters of their own.

    ``kernel' = kernel_norm * kernel / |kernel|`` (Salimans & Kingma, 2016, arXiv:1602.07868). At
    first ``kernel_norm`` is the length of the kernel, so that the layer computes what it did.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, by default of all kernels.
      feature_axes: the axes of a kernel that have a length for each entry, by default that of the
        outputs; ``()`` for one length of the whole kernel.

    The parameters are those of ``layer``, and beside each kernel ``kernel_norm``, of the sizes of
    ``feature_axes``.

    Raises:
      LayerError: for a pattern that fits no parameter, one of fewer than two axes, and around
        ``repeat`` or ``ensemble``, whose first axis is that of copies.

    >>> import jax, jlayers as jl
    >>> layer = jl.weight_norm(jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> {path: leaf.shape for path, leaf in jl.flatten(params).items()}
    {'bias': (3,), 'kernel': (4, 3), 'kernel_norm': (3,)}
    """
    inner = lift(layer)
    check_no_copies(inner, "weight_norm")
    axes = feature_axes if isinstance(feature_axes, tuple) else (feature_axes,)

    def others(rank: int) -> tuple[int, ...]:
        kept = {axis % rank for axis in axes}
        return tuple(axis for axis in range(rank) if axis not in kept)

    def change(params: Params, state: State, _: bool) -> tuple[Params, State, State]:
        leaves = flatten(params)
        for path in [path for path in leaves if matches(path, pattern)]:
            norm = leaves.pop(f"{path}_norm")
            leaves[path] = _with_length(leaves[path], norm, others(leaves[path].ndim))
        return unflatten(leaves), state, {}

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        norms = {}
        for path, spec in weights_of(found, pattern).items():
            over = others(len(spec.shape))
            shape = tuple(n for axis, n in enumerate(spec.shape) if axis not in over)
            norms[f"{path}_norm"] = made_from(spec, functools.partial(_length, axes=over), shape)
        specs = {path: jax.ShapeDtypeStruct(s.shape, s.dtype) for path, s in norms.items()}
        params = unflatten({**flatten(found.params), **specs})
        return dataclasses.replace(found, params=params, own_parameters=norms), y

    def again(new: Layer) -> Layer:
        return weight_norm(new, pattern, feature_axes=feature_axes)

    return with_changed_weights(inner, change, abstract, again)


def _length(kernel: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axes))


def _with_length(kernel: jax.Array, norm: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    wide = kernel.astype(at_least_float32(kernel.dtype))
    squared = jnp.sum(jnp.square(wide), axes, keepdims=True)
    # A kernel of zeros has no direction, and stays zero.
    least = float(np.finfo(wide.dtype).tiny)
    factor = jnp.expand_dims(norm.astype(wide.dtype), axes)
    return (wide * (factor * inverse_root(jnp.maximum(squared, least)))).astype(kernel.dtype)
