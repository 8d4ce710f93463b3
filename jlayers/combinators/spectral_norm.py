"""Spectral normalisation: kernels divided by their largest singular values."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ..base.arguments import AboveZero, Positive
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.patterns import Patterns, each_pattern
from ..core.dtypes import at_least_float32
from ..core.weights import Weight, array_of, as_matrix, lazy
from .transparent import Parts, made_from, with_lazy_weights

# As PyTorch and Equinox do it: the first estimate is good before any training.
_FIRST_STEPS = 15


@factory
def spectral_norm(
    layer: LayerOrFunction,
    pattern: Patterns = "**/*kernel",
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
      pattern: paths of parameters, one or a tuple, by default of all kernels.
      steps: of power iteration, in each call in training.
      epsilon: the least length that a vector is divided by.

    State:
      that of ``layer``; and for each kernel ``kernel_u``, of the last axis, and ``kernel_v``, of
      the product of all others. They start from 15 steps of the initial kernel.

    Raises:
      LayerError: for a pattern that fits no parameter, and for one of fewer than two axes.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.spectral_norm(jl.Dense(3, bias=False))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> y, _ = layer.apply(params, state, jnp.eye(4))
    >>> round(float(jnp.linalg.norm(y, 2)), 2)
    1.0
    """

    def parts(spec: ParamSpec) -> Parts:
        *others, last = spec.shape_of_one
        sizes = {"u": last, "v": math.prod(others)}
        first = functools.partial(_first, epsilon=epsilon)
        made = {
            name: made_from(spec, functools.partial(first, which=i), (size,))
            for i, (name, size) in enumerate(sizes.items())
        }
        return Parts(state=made)

    def update(kernel: jax.Array | Weight, u: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
        def of_one(kernel: jax.Array | Weight, *pair: jax.Array) -> tuple[jax.Array, jax.Array]:
            matrix = _matrix(lax.stop_gradient(array_of(kernel)))
            return _iterated(matrix, *_as_wide(matrix, *pair), steps, epsilon)

        # All copies at once: they have a vector each.
        for _ in range(u.ndim - 1):
            of_one = jax.vmap(of_one)
        new_u, new_v = of_one(kernel, u, v)
        return {"u": new_u.astype(u.dtype), "v": new_v.astype(v.dtype)}

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: spectral_norm(new, pattern, steps=steps, epsilon=epsilon),
        Spectral,
        state=("u", "v"),
        parts=parts,
        update=update,
    )


@lazy
class Spectral(Weight):
    """``kernel / (v kernel u)``."""

    u: jax.Array
    v: jax.Array

    def made(self) -> jax.Array:
        kernel = array_of(self.kernel)
        matrix = _matrix(kernel)
        u, v = _as_wide(matrix, self.u, self.v)
        largest = v @ matrix @ u
        # A kernel of zeros stays zero.
        largest = jnp.where(largest == 0, 1, largest)
        return (matrix / largest).reshape(kernel.shape)


def _matrix(kernel: jax.Array) -> jax.Array:
    return as_matrix(kernel.astype(at_least_float32(kernel.dtype)))


def _as_wide(matrix: jax.Array, u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return u.astype(matrix.dtype), v.astype(matrix.dtype)


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
