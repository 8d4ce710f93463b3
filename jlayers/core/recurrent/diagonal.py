"""Diagonal state spaces with complex rates that do not depend on the input (S5)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dtypes import at_least_float32
from .chunking import Carry
from .linear import linear_recurrence_read
from .stepwise import ScanOptions, StepCell


class DiagonalWeights(NamedTuple):
    """log_decay, frequency, log_step: (P,); write (P, H, 2), read (F, P, 2); skip (F,) or None.

    All are float32 at least; the last axis of two has real and imaginary parts.
    """

    log_decay: jax.Array
    frequency: jax.Array
    log_step: jax.Array
    write: jax.Array
    read: jax.Array
    skip: jax.Array | None


def diagonal_cell(weights: DiagonalWeights) -> StepCell[tuple[jax.Array, jax.Array]]:
    """``s' = exp(a d) s + (exp(a d) - 1) / a B x``, ``y = 2 Re(C s') + D x``.

    With ``a = -exp(log_decay) + i frequency`` and ``d = exp(log_step)``; carry (y, state), the
    state (batch, P, 2).
    """

    def project(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _update(x, weights), x

    def step(at: tuple[jax.Array, jax.Array], h_in: jax.Array, carry: Carry) -> Carry:
        update, x = at
        y, state = carry
        decay = jnp.broadcast_to(_decay(weights), update.shape)
        after = decay * _complex(state) + update
        return _output(after, x, weights).astype(y.dtype), _pair(after)

    return StepCell(project, step)


def diagonal(
    weights: DiagonalWeights, x: jax.Array, carry: Carry, options: ScanOptions
) -> tuple[jax.Array, Carry]:
    """The cell over (batch, time, H), all steps at once."""
    update = _update(x, weights)
    # Of one row where all rows have the same steps.
    decay = jnp.broadcast_to(_decay(weights), (1, *update.shape[1:]))
    if options.mask is not None or options.resets is not None:
        # By a sum, which has the sharding of the update.
        decay = jnp.broadcast_to(decay, update.shape) + jnp.zeros_like(update)
    if options.initial:
        initial = (options.initial[0], _complex(options.initial[1]))
        options = options._replace(initial=initial)
    outputs, (y, state) = linear_recurrence_read(
        (decay, update),
        lambda states: _output(states, x, weights),
        (carry[0], _complex(carry[1])),
        options,
    )
    return outputs, (y, _pair(state))


def _decay(weights: DiagonalWeights) -> jax.Array:
    # Strict promotion knows no product of a real and a complex array.
    step = jnp.exp(weights.log_step)
    return jnp.exp(lax.complex(-jnp.exp(weights.log_decay) * step, weights.frequency * step))


def _rate(weights: DiagonalWeights) -> jax.Array:
    return lax.complex(-jnp.exp(weights.log_decay), weights.frequency)


def _update(x: jax.Array, weights: DiagonalWeights) -> jax.Array:
    """The input held during a step (zero-order hold), (..., P)."""
    wide = x.astype(at_least_float32(x.dtype))
    product = jnp.einsum("...h,phc->...pc", wide, weights.write)
    scale = (_decay(weights) - 1) / _rate(weights)
    return _complex(product) * jnp.broadcast_to(scale, product.shape[:-1])


def _output(states: jax.Array, x: jax.Array, weights: DiagonalWeights) -> jax.Array:
    # Twice the real part: each state is one of a conjugate pair.
    y = 2 * jnp.einsum("...pc,fpc->...f", _pair(states.conj()), weights.read)
    if weights.skip is None:
        return y
    return y + jnp.broadcast_to(weights.skip, y.shape) * x.astype(y.dtype)


def _complex(pair: jax.Array) -> jax.Array:
    return lax.complex(pair[..., 0], pair[..., 1])


def _pair(values: jax.Array) -> jax.Array:
    return jnp.stack([values.real, values.imag], -1)
