"""The cells of SimpleRNN, LSTM, GRU and ConvLSTM with all their options, for ``stepwise``.

How to read this file: each function takes the parameters of one cell and returns its ``StepCell``.
Functions that the cells share are at the end. An option whose parameter is None is off. ``clip``
bounds the absolute value of the inputs of gates and candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..conv.conv import conv
from ..dense import add_bias, matrix_product
from ..dtypes import at_least_float32
from ..norm import normalize
from .chunking import Carry
from .stepwise import StepCell

# Added to the variance in layer norms, as LayerNorm does by default.
_EPSILON = 1e-5
# What GRU projects: that of the gates r and z, and that of the candidate.
_Parts = tuple[jax.Array, jax.Array]


def simple_rnn_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    scale: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array],
    clip: float | None = None,
) -> StepCell[jax.Array]:
    """``h' = activation(x W + h U + b)``; with a ``scale``, layer norm of ``x W + h U``."""

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        total = _layer_norm(projected + matrix_product(h_in, recurrent_kernel), scale)
        return (activation(_clip(_add_bias(total, bias), clip)),)

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
) -> StepCell[jax.Array]:
    """The LSTM of ``jlayers.LSTM``; gates i, f, g, o, or i, g, o where they are coupled."""
    peepholes = None
    if peephole is not None:
        peepholes = jnp.split(peephole, 2 if coupled else 3)

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        recurrent = _layer_norm(matrix_product(h_in, recurrent_kernel), recurrent_scale)
        gates = jnp.split(projected + recurrent, 3 if coupled else 4, axis=-1)
        i, *f, g, o = gates
        if peepholes is not None:
            i = i + _broadcast(peepholes[0], c) * c
            f = [gate + _broadcast(peepholes[1], c) * c for gate in f]
        # f is empty where the gates are coupled.
        c = _new_cell(i, f[0] if f else None, g, c, clip)
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        if peepholes is not None:
            o = o + _broadcast(peepholes[-1], c) * c
        h = _sigmoid(o, clip) * jnp.tanh(_layer_norm(c, cell_scale, cell_bias))
        return (h if projection_kernel is None else matrix_product(h, projection_kernel)), c

    return StepCell(
        lambda x: _add_bias(_layer_norm(matrix_product(x, kernel), kernel_scale), bias), step
    )


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
) -> StepCell[_Parts]:
    """The GRU of ``jlayers.GRU``; gates r, z, n."""
    # r and z share a product; the candidate has its own, since r may act on h before it.
    split = 2 * recurrent_kernel.shape[0]

    def parts(values: jax.Array | None) -> list[jax.Array] | tuple[None, None]:
        """The columns of the gates, and those of the candidate."""
        return (None, None) if values is None else jnp.split(values, [split], axis=-1)

    gate_kernel, candidate_kernel = jnp.split(recurrent_kernel, [split], axis=-1)
    gate_scale, candidate_scale = parts(recurrent_scale)

    def project(x: jax.Array) -> _Parts:
        products = jnp.split(matrix_product(x, kernel), [split], axis=-1)
        gates, candidate = (
            _add_bias(_layer_norm(y, scale), b)
            for y, scale, b in zip(products, parts(kernel_scale), parts(bias), strict=True)
        )
        return gates, candidate

    def step(projected: _Parts, h_in: jax.Array, carry: Carry) -> Carry:
        (h,) = carry
        gates, candidate = projected
        gates = gates + _layer_norm(matrix_product(h_in, gate_kernel), gate_scale)
        r, z = jnp.split(_sigmoid(gates, clip), 2, axis=-1)
        product = matrix_product(h_in if reset_after else r * h_in, candidate_kernel)
        product = _add_bias(_layer_norm(product, candidate_scale), recurrent_bias)
        n = jnp.tanh(_clip(candidate + (r * product if reset_after else product), clip))
        return (n + z * (h - n),)

    return StepCell(project, step)


def conv_lstm_cell(
    kernel: jax.Array, recurrent_kernel: jax.Array, bias: jax.Array | None = None
) -> StepCell[jax.Array]:
    """An LSTM whose products are convolutions, padding SAME (Shi et al., 2015); gates i, f, g, o.

    Args:
      kernel: (*kernel_size, in, 4 F). recurrent_kernel: (*kernel_size, F, 4 F). bias: (4 F,).
    """
    ones = (1,) * (kernel.ndim - 2)

    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel, strides=ones, padding="SAME", dilation=ones)

    def project(x: jax.Array) -> jax.Array:
        # Merged with the batch leading, so that a batch sharded over devices stays so.
        x = jnp.swapaxes(x, 0, 1)
        y = convolved(x.reshape(-1, *x.shape[2:]), kernel)
        return _add_bias(jnp.swapaxes(y.reshape(*x.shape[:2], *y.shape[1:]), 0, 1), bias)

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        i, f, g, o = jnp.split(projected + convolved(h_in, recurrent_kernel), 4, axis=-1)
        c = _new_cell(i, f, g, c, None)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return StepCell(project, step)


def _new_cell(
    i: jax.Array, f: jax.Array | None, g: jax.Array, c: jax.Array, clip: float | None
) -> jax.Array:
    """``sigmoid(f) c + sigmoid(i) tanh(g)``; without ``f``, ``1 - sigmoid(i)`` in its place."""
    i = _sigmoid(i, clip)
    forget = 1 - i if f is None else _sigmoid(f, clip)
    return forget * c + i * jnp.tanh(_clip(g, clip))


def _sigmoid(values: jax.Array, clip: float | None) -> jax.Array:
    return jax.nn.sigmoid(_clip(values, clip))


def _clip(values: jax.Array, clip: float | None) -> jax.Array:
    return values if clip is None else jnp.clip(values, -clip, clip)


def _add_bias(values: jax.Array, bias: jax.Array | None) -> jax.Array:
    return values if bias is None else add_bias(values, bias)


def _layer_norm(
    values: jax.Array, scale: jax.Array | None, bias: jax.Array | None = None
) -> jax.Array:
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


def _broadcast(row: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(row, like.shape)
