"""The cells of SelectiveSSM and of Mamba's block around it (Gu & Dao, 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..conv.conv import conv
from ..dense import add_bias, affine
from .chunking import Carry
from .context import one_step, with_context
from .selective import SelectiveWeights, select, selective_scan, selective_step
from .stepwise import ScanOptions, StepCell


def selective_cell(weights: SelectiveWeights) -> StepCell[jax.Array]:
    """The selective state space alone; carry (y, state)."""

    def step(u: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        return _step(u, weights, carry[1], carry[0])

    return StepCell(lambda x: x, step)


def selective(
    weights: SelectiveWeights, x: jax.Array, state: jax.Array, options: ScanOptions
) -> tuple[jax.Array, jax.Array]:
    """(outputs, the last state) of (batch, time, D), without resets."""
    at = select(x, weights)
    outputs, state = selective_scan(
        at, _rates(weights), state, reverse=options.reverse, mask=options.mask
    )
    return _skipped(outputs, at.value, weights), state


class BlockWeights(NamedTuple):
    """in_kernel (in, 2 D), conv_kernel (k, 1, D), out_kernel (D, features), biases or None."""

    in_kernel: jax.Array
    conv_kernel: jax.Array
    out_kernel: jax.Array
    in_bias: jax.Array | None
    conv_bias: jax.Array | None
    out_bias: jax.Array | None
    inner: SelectiveWeights
    activation: Callable[[jax.Array], jax.Array]


def mamba_cell(weights: BlockWeights) -> StepCell[jax.Array]:
    """The block; carry (y, state), and with a kernel of several steps the ones before."""

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        y, state, *context = carry
        u, gate = jnp.split(projected, 2, axis=-1)
        steps = u[:, None]
        if context:
            steps, context[0] = one_step(u, context[0])
        kernel = jnp.broadcast_to(weights.conv_kernel[None, :, 0], steps.shape)
        u = _activated(jnp.sum(steps * kernel, 1), weights)
        inner, state = _step(u, weights.inner, state, u)
        return _out(inner, gate, weights).astype(y.dtype), state, *context

    return StepCell(lambda x: affine(x, weights.in_kernel, weights.in_bias), step)


def mamba(
    weights: BlockWeights, x: jax.Array, carry: Carry, options: ScanOptions
) -> tuple[jax.Array, Carry]:
    """(outputs, carry without y) of (batch, time, in), without resets."""
    _, state, *context = carry
    u, gate = jnp.split(affine(x, weights.in_kernel, weights.in_bias), 2, axis=-1)
    width = u.shape[-1]
    if context:
        windows = with_context(u, context[0], options)
        u, context[0] = windows.steps, windows.context
    u = conv(u, weights.conv_kernel, strides=(1,), padding="VALID", dilation=(1,), groups=width)
    u = windows.restore(u) if context else u
    inner, state = selective(weights.inner, _activated(u, weights), state, options)
    return _out(inner.astype(x.dtype), gate, weights), (state, *context)


def _rates(weights: SelectiveWeights) -> jax.Array:
    return -jnp.exp(weights.log_decay)


def _step(
    u: jax.Array, weights: SelectiveWeights, state: jax.Array, like: jax.Array
) -> tuple[jax.Array, jax.Array]:
    at = select(u, weights)
    y, state = selective_step(at, _rates(weights), state)
    return _skipped(y, at.value, weights).astype(like.dtype), state


def _skipped(y: jax.Array, value: jax.Array, weights: SelectiveWeights) -> jax.Array:
    return y + jnp.broadcast_to(weights.skip, value.shape) * value


def _activated(u: jax.Array, weights: BlockWeights) -> jax.Array:
    return weights.activation(u if weights.conv_bias is None else add_bias(u, weights.conv_bias))


def _out(inner: jax.Array, gate: jax.Array, weights: BlockWeights) -> jax.Array:
    return affine(inner * weights.activation(gate), weights.out_kernel, weights.out_bias)
