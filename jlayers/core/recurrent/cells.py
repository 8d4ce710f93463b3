"""The cells of SimpleRNN, LSTM, GRU and ConvLSTM with all their options, for ``stepwise``.

An option whose parameter is None is off. ``clip`` bounds what goes into the activations of gates
and candidates, by its absolute value. Layer norms add 1e-5 to the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..conv.conv import conv
from ..dense import add_bias, matrix_product
from ..dtypes import at_least_float32
from ..norm import normalize
from .chunking import Carry
from .stepwise import StepCell

_EPSILON = 1e-5


def simple_rnn_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    scale: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array],
    clip: float | None = None,
) -> StepCell:
    """``h' = activation(x W + h U + b)``; with a ``scale``, layer norm of ``x W + h U``."""

    def step(projected: jax.Array, seen: jax.Array, carry: Carry) -> Carry:
        total = _scaled(projected + matrix_product(seen, recurrent_kernel), scale)
        return (activation(_bounded(_biased(total, bias), clip)),)

    return StepCell(lambda x: matrix_product(x, kernel), step)


def lstm_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    peephole: jax.Array | None = None,
    projection_kernel: jax.Array | None = None,
    kernel_scale: jax.Array | None = None,
    recurrent_scale: jax.Array | None = None,
    cell_scale: jax.Array | None = None,
    cell_bias: jax.Array | None = None,
    *,
    coupled: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
) -> StepCell:
    """The LSTM of ``jlayers.LSTM``; gates i, f, g, o, or i, g, o where they are coupled."""
    peepholes = None
    if peephole is not None:
        peepholes = jnp.split(peephole, 2 if coupled else 3)

    def step(projected: jax.Array, seen: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        recurrent = _scaled(matrix_product(seen, recurrent_kernel), recurrent_scale)
        gates = jnp.split(projected + recurrent, 3 if coupled else 4, axis=-1)
        i, *f, g, o = gates
        if peepholes is not None:
            i = i + _rows(peepholes[0], c) * c
            f = [gate + _rows(peepholes[1], c) * c for gate in f]
        c = _new_cell(i, f[0] if f else None, g, c, clip)
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        if peepholes is not None:
            o = o + _rows(peepholes[-1], c) * c
        h = _squashed(o, clip) * jnp.tanh(_scaled(c, cell_scale, cell_bias))
        return (h if projection_kernel is None else matrix_product(h, projection_kernel)), c

    return StepCell(lambda x: _biased(_scaled(matrix_product(x, kernel), kernel_scale), bias), step)


def gru_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    kernel_scale: jax.Array | None = None,
    recurrent_scale: jax.Array | None = None,
    *,
    reset_after: bool = True,
    clip: float | None = None,
) -> StepCell:
    """The GRU of ``jlayers.GRU``; gates r, z, n."""
    split = 2 * recurrent_kernel.shape[0]

    def apart(values: jax.Array | None) -> list[Any]:
        """The gates' and the candidate's."""
        return [None, None] if values is None else jnp.split(values, [split], axis=-1)

    gate_kernel, candidate_kernel = apart(recurrent_kernel)
    gate_scale, candidate_scale = apart(recurrent_scale)

    def project(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = apart(matrix_product(x, kernel)), apart(kernel_scale), apart(bias)
        gates, candidate = (
            _biased(_scaled(y, scale), b) for y, scale, b in zip(*both, strict=True)
        )
        return gates, candidate

    def step(projected: tuple[jax.Array, jax.Array], seen: jax.Array, carry: Carry) -> Carry:
        (h,) = carry
        gates, candidate = projected
        gates = gates + _scaled(matrix_product(seen, gate_kernel), gate_scale)
        r, z = jnp.split(_squashed(gates, clip), 2, axis=-1)
        product = matrix_product(seen if reset_after else r * seen, candidate_kernel)
        product = _biased(_scaled(product, candidate_scale), recurrent_bias)
        n = jnp.tanh(_bounded(candidate + (r * product if reset_after else product), clip))
        return (n + z * (h - n),)

    return StepCell(project, step)


def conv_lstm_cell(
    kernel: jax.Array, recurrent_kernel: jax.Array, bias: jax.Array | None = None
) -> StepCell:
    """An LSTM whose products are convolutions, padding SAME (Shi et al., 2015); gates i, f, g, o.

    Args:
      kernel: (*kernel_size, in, 4 F). recurrent_kernel: (*kernel_size, F, 4 F). bias: (4 F,).
    """
    ones = (1,) * (kernel.ndim - 2)

    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel, strides=ones, padding="SAME", dilation=ones)

    def project(x: jax.Array) -> jax.Array:
        # The batch goes first, so that it may be spread over devices.
        x = jnp.swapaxes(x, 0, 1)
        y = convolved(x.reshape(-1, *x.shape[2:]), kernel)
        return _biased(jnp.swapaxes(y.reshape(*x.shape[:2], *y.shape[1:]), 0, 1), bias)

    def step(projected: jax.Array, seen: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        i, f, g, o = jnp.split(projected + convolved(seen, recurrent_kernel), 4, axis=-1)
        c = _new_cell(i, f, g, c, None)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return StepCell(project, step)


def _new_cell(
    i: jax.Array, f: jax.Array | None, g: jax.Array, c: jax.Array, clip: float | None
) -> jax.Array:
    """``f c + i g`` of what goes into the activations; without ``f`` it is ``1 - i``."""
    i = _squashed(i, clip)
    forget = 1 - i if f is None else _squashed(f, clip)
    return forget * c + i * jnp.tanh(_bounded(g, clip))


def _squashed(values: jax.Array, clip: float | None) -> jax.Array:
    return jax.nn.sigmoid(_bounded(values, clip))


def _bounded(values: jax.Array, clip: float | None) -> jax.Array:
    return values if clip is None else jnp.clip(values, -clip, clip)


def _biased(values: jax.Array, bias: jax.Array | None) -> jax.Array:
    return values if bias is None else add_bias(values, bias)


def _scaled(values: jax.Array, scale: jax.Array | None, bias: jax.Array | None = None) -> jax.Array:
    """Layer norm over the last axis, if there is a scale."""
    if scale is None:
        return values
    wide = values.astype(at_least_float32(values.dtype))
    mean = jnp.mean(wide, -1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - jnp.broadcast_to(mean, wide.shape)), -1, keepdims=True)
    scale, bias = (
        None if row is None else row.reshape((1,) * (values.ndim - 1) + (-1,))
        for row in (scale, bias)
    )
    return normalize(values, mean, variance, scale, bias, _EPSILON)


def _rows(row: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(row, like.shape)
