"""Selective state spaces (S6, Gu & Dao, 2023): diagonal recurrences whose steps the input sets.

How to read this file: ``select`` computes from the input how far and into what each step moves the
state, ``selective_step`` takes one step, ``selective_scan`` all of them: chunk by chunk, so that
the states of no more than a chunk, (steps, batch, D, N), are in memory, in the gradient as well.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dense import add_bias, matrix_product
from ..dispatch import compiled_when_eager
from ..dtypes import at_least_float32, is_symbolic
from .stepwise import expand

# Steps whose states are in memory at once. Each is N times as large as the output of a step.
_CHUNK = 32


class SelectiveWeights(NamedTuple):
    """select_kernel (D, R + 2 N), step_kernel (R, D), step_bias (D,), log_decay (D, N), skip (D,).

    The last three are float32 at least.
    """

    select_kernel: jax.Array
    step_kernel: jax.Array
    step_bias: jax.Array
    log_decay: jax.Array
    skip: jax.Array


class Selected(NamedTuple):
    """What the recurrence reads of each step, in float32 at least.

    Attributes:
      size: (..., D), how far the step goes in time; zero for a step that is skipped.
      write: (..., N), how the input enters the state.
      read: (..., N), how the state enters the output.
      value: (..., D), the input.
    """

    size: jax.Array
    write: jax.Array
    read: jax.Array
    value: jax.Array


def select(u: jax.Array, weights: SelectiveWeights) -> Selected:
    """Of the input (..., D)."""
    rank = weights.step_kernel.shape[0]
    state = weights.log_decay.shape[1]
    chosen = matrix_product(u, weights.select_kernel)
    low, write, read = jnp.split(chosen, [rank, rank + state], axis=-1)
    size = _widen(matrix_product(low, weights.step_kernel))
    size = jax.nn.softplus(add_bias(size, weights.step_bias))
    return Selected(size, _widen(write), _widen(read), _widen(u))


def selective_step(at: Selected, rates: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(output (batch, D) without the skip, the state (batch, D, N) after a step)."""
    decay, update = _coefficients(at, rates)
    state = decay * state + update
    return _read(state, at.read), state


@compiled_when_eager("reverse")
def selective_scan(
    at: Selected,
    rates: jax.Array,
    state: jax.Array,
    *,
    reverse: bool = False,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """``selective_step`` for each of the steps.

    Args:
      at: of (batch, time, ...).
      rates: (D, N), below zero.
      state: (batch, D, N), before the first step.
      reverse: from the last step to the first.
      mask: bools (batch, time): a step where it is False is skipped.

    Returns:
      (outputs (batch, time, D) without the skip, the state after the last step).
    """
    if mask is not None:
        # A step of no size is the identity: its decay is 1, its update 0.
        valid = expand(mask, at.size.shape)
        at = at._replace(size=jnp.where(valid, at.size, jnp.zeros_like(at.size)))
    steps = at.size.shape[1]
    at = Selected(*(_in_order(jnp.swapaxes(part, 0, 1), reverse) for part in at))
    if is_symbolic(steps):
        state, outputs = _one_by_one(rates, state, at)
    elif steps <= _CHUNK:
        state, outputs = _chunk(rates, state, at)
    else:
        left = -steps % _CHUNK
        # Zeros: steps of no size.
        whole = (jnp.pad(part, ((0, left), (0, 0), (0, 0))) for part in at)
        count = (steps + left) // _CHUNK
        chunks = Selected(*(part.reshape(count, _CHUNK, *part.shape[1:]) for part in whole))
        # In a scan XLA cannot merge the two computations, so that it need not be prevented.
        take = jax.checkpoint(functools.partial(_chunk, rates), prevent_cse=False)
        state, outputs = lax.scan(take, state, chunks)
        outputs = outputs.reshape(count * _CHUNK, *outputs.shape[2:])[:steps]
    return jnp.swapaxes(_in_order(outputs, reverse), 0, 1), state


def _chunk(rates: jax.Array, state: jax.Array, at: Selected) -> tuple[jax.Array, jax.Array]:
    """Of (steps, batch, ...). On CPU a step at a time stays in cache; elsewhere all at once."""
    return lax.platform_dependent(  # type: ignore[no-any-return]
        rates, state, at, cpu=_one_by_one, default=_all_at_once
    )


def _one_by_one(rates: jax.Array, state: jax.Array, at: Selected) -> tuple[jax.Array, jax.Array]:
    def step(state: jax.Array, at: Selected) -> tuple[jax.Array, jax.Array]:
        y, state = selective_step(at, rates, state)
        return state, y

    return lax.scan(step, state, at)


def _all_at_once(rates: jax.Array, state: jax.Array, at: Selected) -> tuple[jax.Array, jax.Array]:
    decay, update = _coefficients(at, rates)
    update = update.at[0].add(decay[0] * state)
    _, states = lax.associative_scan(
        lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decay, update), axis=0
    )
    return states[-1], _read(states, at.read)


def _coefficients(at: Selected, rates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """decay and update, (..., D, N)."""
    size = at.size[..., None]
    decay = jnp.exp(size * rates.reshape((1,) * (at.size.ndim - 1) + rates.shape))
    return decay, (size * at.value[..., None]) * at.write[..., None, :]


def _read(state: jax.Array, read: jax.Array) -> jax.Array:
    return jnp.einsum("...dn,...n->...d", state, read)


def _in_order(values: jax.Array, reverse: bool) -> jax.Array:
    return jnp.flip(values, 0) if reverse else values


def _widen(values: jax.Array) -> jax.Array:
    return values.astype(at_least_float32(values.dtype))
