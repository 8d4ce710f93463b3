"""Cells whose gates depend on the input and at most elementwise on the state: IndRNN, SRU, QRNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..conv.conv import conv
from ..dense import add_bias, affine, matrix_product
from ..dtypes import at_least_float32
from .chunking import Carry
from .context import one_step, with_context
from .gates import on_mesh
from .linear import linear_recurrence_read
from .stepwise import ScanOptions, StepCell

_Function = Callable[[jax.Array], jax.Array]


def ind_rnn_cell(
    kernel: jax.Array,
    recurrent_scale: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: _Function,
) -> StepCell[jax.Array]:
    """``h' = activation(x W + u * h + b)``; u: (H,)."""

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        return (activation(projected + jnp.broadcast_to(recurrent_scale, h_in.shape) * h_in),)

    return StepCell(lambda x: affine(x, kernel, bias), step)


class SRUInput(NamedTuple):
    """What an SRU computes from the input alone, each (..., H)."""

    candidate: jax.Array
    forget: jax.Array
    reset: jax.Array
    skip: jax.Array


def sru_cell(
    kernel: jax.Array,
    bias: jax.Array | None = None,
    peephole: jax.Array | None = None,
    *,
    features: int,
    activation: _Function | None = None,
) -> StepCell[SRUInput]:
    """The SRU of ``jlayers.SRU``, in float32 at least; carry (h, c)."""
    count = kernel.shape[-1] // features
    axis, (kernel,) = on_mesh(features, kernel)

    def project(x: jax.Array) -> SRUInput:
        wide = at_least_float32(x.dtype)
        candidate, *gates = axis.split(matrix_product(x, kernel).astype(wide), count)
        # Without a fourth part of the kernel the input is as wide as the state.
        forget, reset, skip = (*gates, x.astype(wide))[:3]
        if bias is not None:
            b_f, b_r = jnp.split(bias.astype(wide), 2)
            forget, reset = add_bias(forget, b_f), add_bias(reset, b_r)
        return SRUInput(candidate, forget, reset, skip)

    def step(at: SRUInput, h_in: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        forget, reset = at.forget, at.reset
        if peephole is not None:
            v_f, v_r = (jnp.broadcast_to(v, c.shape) for v in jnp.split(peephole, 2))
            forget, reset = forget + v_f * c, reset + v_r * c
        f = jax.nn.sigmoid(forget)
        c = at.candidate + f * (c - at.candidate)
        return _highway(c, reset, at.skip, activation), c

    return StepCell(project, step)


def sru(
    cell: StepCell[SRUInput],
    x: jax.Array,
    carry: Carry,
    options: ScanOptions,
    activation: _Function | None,
) -> tuple[jax.Array, Carry]:
    """A cell without peepholes over (batch, time, in), all steps at once."""
    at = cell.project(x)
    coefficients = jax.nn.sigmoid(at.forget), jax.nn.sigmoid(-at.forget) * at.candidate

    def read(c: jax.Array) -> jax.Array:
        return _highway(c, at.reset, at.skip, activation)

    return linear_recurrence_read(coefficients, read, carry, options)


def _highway(
    c: jax.Array, reset: jax.Array, skip: jax.Array, activation: _Function | None
) -> jax.Array:
    seen = c if activation is None else activation(c)
    return skip + jax.nn.sigmoid(reset) * (seen - skip)


class QRNNWeights(NamedTuple):
    """kernel (window, in, P H), bias (P H,) or None, and the activation of the candidate."""

    kernel: jax.Array
    bias: jax.Array | None
    activation: _Function


def qrnn_cell(weights: QRNNWeights, pooling: str) -> StepCell[jax.Array]:
    """The QRNN of ``jlayers.QRNN``; carry (h, c), and with a window the steps before."""
    window = weights.kernel.shape[0]

    def step(x: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        _, c, *context = carry
        steps = x[:, None]
        if context:
            steps, context[0] = one_step(x, context[0])
        flat = steps.reshape(x.shape[0], window * x.shape[-1])
        product = matrix_product(flat, weights.kernel.reshape(flat.shape[-1], -1))
        decay, update, out = _pooled(product, weights, pooling)
        c = decay * c + update
        return _output(c, out), c, *context

    return StepCell(lambda x: x, step)


def qrnn(
    weights: QRNNWeights, pooling: str, x: jax.Array, carry: Carry, options: ScanOptions
) -> tuple[jax.Array, Carry]:
    """A QRNN over (batch, time, in), all steps at once; without resets."""
    h, c, *context = carry
    windows = with_context(x, context[0], options) if context else None
    steps = x if windows is None else windows.steps
    product = conv(steps, weights.kernel, strides=(1,), padding="VALID", dilation=(1,))
    if windows is not None:
        product, context[0] = windows.restore(product), windows.context
    decay, update, out = _pooled(product, weights, pooling)
    outputs, after = linear_recurrence_read(
        (decay, update), lambda states: _output(states, out), (h, c), options
    )
    return outputs, (*after, *context)


def _pooled(
    product: jax.Array, weights: QRNNWeights, pooling: str
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(decay, update, output gate) of z, f, o, i, as many as there are."""
    if weights.bias is not None:
        product = add_bias(product, weights.bias)
    wide = product.astype(at_least_float32(product.dtype))
    z, f, *gates = jnp.split(wide, len(pooling) + 1, axis=-1)
    z = weights.activation(z)
    share = jax.nn.sigmoid(gates[1]) if pooling == "ifo" else jax.nn.sigmoid(-f)
    return jax.nn.sigmoid(f), share * z, gates[0] if gates else None


def _output(c: jax.Array, out: jax.Array | None) -> jax.Array:
    return c if out is None else jax.nn.sigmoid(out) * c
