"""What the state space layers share: their initial values, and the parameters of the selective."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.types import Initializer, Params
from ...core.recurrent.selective import SelectiveWeights
from .cell import Parameters

# What stays in float32 at least: a slow decay would round to none.
SELECTIVE_FLOAT32 = ("log_decay", "step_bias", "skip")


def selective_parameters(
    width: int, state_size: int, step_rank: int | None, kernel_init: Initializer
) -> Parameters:
    """Of the selective state space of ``width`` features."""
    rank = step_rank or -(-width // 16)
    return {
        "select_kernel": (kernel_init, (width, rank + 2 * state_size)),
        "step_kernel": (_step_kernel, (rank, width)),
        "step_bias": (step_sizes, (width,)),
        "log_decay": (_one_to_n, (width, state_size)),
        "skip": (initializers.ones, (width,)),
    }


def selective_weights(params: Params) -> SelectiveWeights:
    return SelectiveWeights(*(params[name] for name in SelectiveWeights._fields))


def log_steps(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Logarithms of steps between 0.001 and 0.1, uniform."""
    low, high = np.log(0.001), np.log(0.1)
    return jax.random.uniform(key, shape, dtype, float(low), float(high))


def step_sizes(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """What softplus takes to steps between 0.001 and 0.1."""
    size = jnp.exp(log_steps(key, shape, dtype))
    return size + jnp.log(-jnp.expm1(-size))


def _step_kernel(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    bound = float(shape[0]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _one_to_n(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The logarithms of 1, 2, ..., N, in each row (S4D-Real)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


def hippo(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of HiPPO-N with 2 ``size`` states: one eigenvalue of each pair, and their eigenvectors."""
    order = np.arange(2 * size)
    root = np.sqrt(2.0 * order + 1)
    # HiPPO-LegS and a matrix of rank 1: its normal part.
    legs = -(np.tril(root[:, None] * root, -1) + np.diag(order + 1.0))
    normal = legs + np.outer(root, root) / 2
    # Skew-symmetric but for its diagonal, -1/2.
    values, vectors = np.linalg.eigh(-1j * (normal - np.diag(np.diag(normal))))
    return np.mean(np.diag(normal)) + 1j * values[size:], vectors[:, size:]
