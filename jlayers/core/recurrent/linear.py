"""Linear recurrences, ``h' = a h + b`` value by value: all steps at once, an associative scan."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dense import affine
from ..dtypes import at_least_float32
from .stepwise import Course, spread

# The power of the gate in an RG-LRU: "c" in the paper.
_SHARPNESS = 8.0


def linear_recurrence(
    decay: jax.Array, given: jax.Array, h: jax.Array, course: Course
) -> tuple[jax.Array, jax.Array]:
    """``h' = decay * h + given`` for each of the steps.

    Args:
      decay, given: (batch, time, H).
      h: (batch, H), before the first step.
      course: which steps there are; no dropout, no zoneout.

    Returns:
      (h after each step, (batch, time, H), and after the last one taken).
    """
    if course.resets is not None:
        begins = spread(course.resets, decay.shape)
        first = jnp.broadcast_to(course.first[0][:, None], decay.shape)
        given = jnp.where(begins, decay * first + given, given)
        decay = jnp.where(begins, jnp.zeros_like(decay), decay)
    if course.mask is not None:
        valid = spread(course.mask, decay.shape)
        given = jnp.where(valid, given, jnp.zeros_like(given))
        decay = jnp.where(valid, decay, jnp.ones_like(decay))
    begin, end = (-1, 0) if course.reverse else (0, -1)
    given = given.at[:, begin].add(decay[:, begin] * h)
    _, outputs = lax.associative_scan(_joined, (decay, given), reverse=course.reverse, axis=1)
    return outputs, outputs[:, end]


def min_gru(
    x: jax.Array,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    course: Course,
) -> tuple[jax.Array, jax.Array]:
    """``h' = (1 - z) h + z n`` with ``sigmoid^-1(z), n = split(x W + b, 2)``.

    In float32 at least: in bfloat16 ``1 - z`` would be 1 for all small z.
    """
    z, n = jnp.split(_wide(affine(x, kernel, bias)), 2, axis=-1)
    return linear_recurrence(jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * n, h, course)


def rg_lru(
    u: jax.Array,
    h: jax.Array,
    decay: jax.Array,
    gate_kernel: jax.Array,
    gate_bias: jax.Array | None = None,
    *,
    course: Course,
) -> tuple[jax.Array, jax.Array]:
    """The real-gated linear recurrent unit (De et al., 2024), in float32 at least.

    With ``r, i = split(sigmoid(u W + b), 2)`` and ``a = sigmoid(decay) ** (8 r)``::

        h' = a h + sqrt(1 - a ** 2) (i u)

    Args:
      u: (batch, time, H). h: (batch, H), float32 or wider.
      decay: (H,), float32 or wider. gate_kernel: (H, 2 H). gate_bias: (2 H,), or None.
    """
    r, i = jnp.split(jax.nn.sigmoid(_wide(affine(u, gate_kernel, gate_bias))), 2, axis=-1)
    logarithm = _SHARPNESS * r * jnp.broadcast_to(jax.nn.log_sigmoid(decay), r.shape)
    # 1 - a ** 2 to full precision; above zero, where the root has a slope.
    left = jnp.maximum(-jnp.expm1(2 * logarithm), float(np.finfo(r.dtype).tiny))
    return linear_recurrence(jnp.exp(logarithm), jnp.sqrt(left) * i * _wide(u), h, course)


def _joined(
    first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Two runs of steps as one."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def _wide(values: jax.Array) -> jax.Array:
    return values.astype(at_least_float32(values.dtype))
