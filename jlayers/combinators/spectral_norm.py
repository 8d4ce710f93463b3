"""Spectral normalisation: kernels divided by their largest singular values."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ..base.arguments import AboveZero, Positive
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.paths import flatten, matches, unflatten
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State
from ..core.dtypes import at_least_float32
from .transparent import check_no_copies, made_from, traced, weights_of, with_changed_weights

# As PyTorch and Equinox do it: the first estimate is good before any training.
_FIRST_STEPS = 15


@factory
def spectral_norm(
    layer: LayerOrFunction,
    pattern: str = "**/*kernel",
    *,
    steps: Positive = 1,
    epsilon: AboveZero = 1e-12,
) -> Layer:
    """The layer with kernels whose largest singular value is about 1.

    ``kernel' = kernel / (v kernel u)``, with the kernel as a matrix of all its axes by the last,
    and vectors u and v in the state (Miyato et al., 2018, arXiv:1802.05957). Each call with
    ``train=True`` moves them by ``steps`` of power iteration; no gradient passes through that.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, by default of all kernels.
      steps: of power iteration, in each call in training.
      epsilon: the least length that a vector is divided by.

    State:
      that of ``layer``; and for each kernel ``kernel_u``, of the last axis, and ``kernel_v``, of
      the product of all others. They start from 15 steps of the initial kernel.

    Raises:
      LayerError: for a pattern that fits no parameter, one of fewer than two axes, and around
        ``repeat`` or ``ensemble``, whose first axis is that of copies.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.spectral_norm(jl.Dense(3, bias=False))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> y, _ = layer.apply(params, state, jnp.eye(4))
    >>> round(float(jnp.linalg.norm(y, 2)), 2)
    1.0
    """
    inner = lift(layer)
    check_no_copies(inner, "spectral_norm")

    def change(params: Params, state: State, train: bool) -> tuple[Params, State, State]:
        leaves, rest, own = flatten(params), flatten(state), {}
        for path in [path for path in leaves if matches(path, pattern)]:
            u, v = rest.pop(f"{path}_u"), rest.pop(f"{path}_v")
            kernel = leaves[path]
            wide = kernel.astype(at_least_float32(kernel.dtype))
            matrix = wide.reshape(-1, wide.shape[-1])
            pair = (u.astype(matrix.dtype), v.astype(matrix.dtype))
            if train:
                pair = _iterated(lax.stop_gradient(matrix), *pair, steps, epsilon)
            own[f"{path}_u"], own[f"{path}_v"] = pair[0].astype(u.dtype), pair[1].astype(v.dtype)
            largest = pair[1] @ matrix @ pair[0]
            # A kernel of zeros stays zero.
            largest = jnp.where(largest == 0, 1, largest)
            leaves[path] = (wide / largest).astype(kernel.dtype)
        return unflatten(leaves), unflatten(rest), own

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        vectors = {}
        for path, spec in weights_of(found, pattern).items():
            rows = math.prod(spec.shape[:-1])
            for i, (name, size) in enumerate((("u", spec.shape[-1]), ("v", rows))):
                vectors[f"{path}_{name}"] = made_from(
                    spec, functools.partial(_first, epsilon=epsilon, which=i), (size,)
                )
        specs = {path: jax.ShapeDtypeStruct(s.shape, s.dtype) for path, s in vectors.items()}
        state = unflatten({**flatten(found.state), **specs})
        return dataclasses.replace(found, state=state, own_variables=vectors), y

    def again(new: Layer) -> Layer:
        return spectral_norm(new, pattern, steps=steps, epsilon=epsilon)

    return with_changed_weights(inner, change, abstract, again)


def _first(kernel: jax.Array, epsilon: float, which: int) -> jax.Array:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    # Drawn from nothing: the kernel itself is random.
    v = _unit(jnp.cos(jnp.arange(1, len(matrix) + 1, dtype=matrix.dtype)), epsilon)
    u = jnp.zeros(matrix.shape[1], matrix.dtype)
    return _iterated(matrix, u, v, _FIRST_STEPS, epsilon)[which]


def _iterated(
    matrix: jax.Array, u: jax.Array, v: jax.Array, steps: int, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    for _ in range(steps):
        u = _unit(v @ matrix, epsilon)
        v = _unit(matrix @ u, epsilon)
    return u, v


def _unit(vector: jax.Array, epsilon: float) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), epsilon)
