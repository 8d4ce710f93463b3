"""The cells of SimpleRNN, LSTM, GRU and MGU with all their options, for ``stepwise``.

How to read this file: each function takes the parameters of one cell and returns its ``StepCell``.
Functions that the cells share are at the end. An option whose parameter is None is off. ``clip``
bounds the absolute value of the inputs of gates and candidates. With ``convolutions`` for its
products a cell is one over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..conv.conv import conv
from ..dense import add_bias, matrix_product
from ..dtypes import at_least_float32
from ..norm import normalize
from ..windows import Padding
from .chunking import Carry
from .gates import on_mesh
from .stepwise import Gates, StepCell

# Added to the variance in layer norms, as LayerNorm does by default.
_EPSILON = 1e-5
# What GRU projects: that of the gates r and z, and that of the candidate.
_Parts = tuple[jax.Array, jax.Array]
_Function = Callable[[jax.Array], jax.Array]

# What their ``gates`` give by name.
LSTM_GATES = ("input_gate", "forget_gate", "candidate", "output_gate", "cell")
GRU_GATES = ("reset_gate", "update_gate", "candidate")


class Products(NamedTuple):
    """``of_input(x, kernel)``, for (time, batch, ...), and ``of_state(h, kernel)``."""

    of_input: Callable[[jax.Array, jax.Array], jax.Array]
    of_state: Callable[[jax.Array, jax.Array], jax.Array]


_MATRIX = Products(matrix_product, matrix_product)


def simple_rnn_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    scale: jax.Array | None = None,
    *,
    activation: _Function,
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
    activation: _Function = jnp.tanh,
    recurrent_activation: _Function = jax.nn.sigmoid,
    products: Products = _MATRIX,
) -> StepCell[jax.Array]:
    """The LSTM of ``jlayers.LSTM``; gates i, f, g, o, or i, g, o where they are coupled."""
    count = 3 if coupled else 4
    # A layer norm is over all gates, and a convolution has one axis of them.
    axis, (kernel, recurrent_kernel, bias) = on_mesh(
        kernel.shape[-1] // count, kernel, recurrent_kernel, bias,
        may=kernel_scale is None and products is _MATRIX,
    )  # fmt: skip
    peepholes = None if peephole is None else jnp.split(peephole, count - 1)

    def gates(projected: jax.Array, h_in: jax.Array, carry: Carry) -> tuple[Carry, Gates]:
        _, c = carry
        recurrent = _layer_norm(products.of_state(h_in, recurrent_kernel), recurrent_scale)
        i, *f, g, o = axis.split(projected + recurrent, count)
        if peepholes is not None:
            i = i + _broadcast(peepholes[0], c) * c
            f = [gate + _broadcast(peepholes[1], c) * c for gate in f]
        i = recurrent_activation(_clip(i, clip))
        # f is empty where the gates are coupled.
        forget = recurrent_activation(_clip(f[0], clip)) if f else 1 - i
        kept = forget * c
        candidate = activation(_clip(g, clip))
        c = kept + i * candidate
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        if peepholes is not None:
            o = o + _broadcast(peepholes[-1], c) * c
        seen = activation(_layer_norm(c, cell_scale, cell_bias))
        o = recurrent_activation(_clip(o, clip))
        h = o * seen
        h = h if projection_kernel is None else matrix_product(h, projection_kernel)
        return (h, c), dict(zip(LSTM_GATES, (i, forget, candidate, o, c), strict=True))

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        return gates(projected, h_in, carry)[0]

    def project(x: jax.Array) -> jax.Array:
        return _add_bias(_layer_norm(products.of_input(x, kernel), kernel_scale), bias)

    return StepCell(project, step, gates)


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
    activation: _Function = jnp.tanh,
    recurrent_activation: _Function = jax.nn.sigmoid,
    products: Products = _MATRIX,
) -> StepCell[_Parts]:
    """The GRU of ``jlayers.GRU``; gates r, z, n."""
    axis, (kernel, recurrent_kernel, bias) = on_mesh(
        kernel.shape[-1] // 3, kernel, recurrent_kernel, bias,
        may=kernel_scale is None and products is _MATRIX,
    )  # fmt: skip

    def parts(values: jax.Array | None) -> tuple[jax.Array, jax.Array] | tuple[None, None]:
        """The columns of the gates, and those of the candidate."""
        return (None, None) if values is None else axis.without_last(values)

    # r and z share a product; the candidate has its own, since r may act on h before it.
    gate_kernel, candidate_kernel = axis.without_last(recurrent_kernel)
    gate_scale, candidate_scale = parts(recurrent_scale)

    def project(x: jax.Array) -> _Parts:
        both = axis.without_last(products.of_input(x, kernel))
        gates, candidate = (
            _add_bias(_layer_norm(y, scale), b)
            for y, scale, b in zip(both, parts(kernel_scale), parts(bias), strict=True)
        )
        return gates, candidate

    def gates(projected: _Parts, h_in: jax.Array, carry: Carry) -> tuple[Carry, Gates]:
        (h,) = carry
        both, candidate = projected
        both = both + _layer_norm(products.of_state(h_in, gate_kernel), gate_scale)
        r, z = axis.split(recurrent_activation(_clip(both, clip)), 2)
        product = products.of_state(h_in if reset_after else r * h_in, candidate_kernel)
        product = _add_bias(_layer_norm(product, candidate_scale), recurrent_bias)
        n = activation(_clip(candidate + (r * product if reset_after else product), clip))
        return (n + z * (h - n),), dict(zip(GRU_GATES, (r, z, n), strict=True))

    def step(projected: _Parts, h_in: jax.Array, carry: Carry) -> Carry:
        return gates(projected, h_in, carry)[0]

    return StepCell(project, step, gates)


def mgu_cell(
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    *,
    reset_gate: bool = True,
    activation: _Function = jnp.tanh,
    recurrent_activation: _Function = jax.nn.sigmoid,
) -> StepCell[jax.Array]:
    """The minimal gated unit of ``jlayers.MGU``; gates f, n."""

    axis, (kernel, recurrent_kernel, bias) = on_mesh(
        kernel.shape[-1] // 2, kernel, recurrent_kernel, bias
    )

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        (h,) = carry
        recurrent = axis.split(matrix_product(h_in, recurrent_kernel), 2)
        of_input = axis.split(projected, 2)
        f = recurrent_activation(of_input[0] + recurrent[0])
        candidate = _add_bias(recurrent[1], recurrent_bias)
        n = activation(of_input[1] + (f * candidate if reset_gate else candidate))
        return (n + f * (h - n),)

    return StepCell(lambda x: _add_bias(matrix_product(x, kernel), bias), step)


def convolutions(strides: Sequence[int], padding: Padding, dilation: Sequence[int]) -> Products:
    """Convolutions with kernels (*kernel_size, in, out); that of the state keeps its size.

    Args:
      strides, padding, dilation: of the convolution of the input, as for ``core.conv``.
    """
    ones = (1,) * len(strides)

    def of_input(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # Merged with the batch leading, so that a batch sharded over devices stays so.
        x = jnp.swapaxes(x, 0, 1)
        merged = x.reshape(-1, *x.shape[2:])
        y = conv(merged, kernel, strides=strides, padding=padding, dilation=dilation)
        return jnp.swapaxes(y.reshape(*x.shape[:2], *y.shape[1:]), 0, 1)

    def of_state(h: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(h, kernel, strides=ones, padding="SAME", dilation=ones)

    return Products(of_input, of_state)


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
