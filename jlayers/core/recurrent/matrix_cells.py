"""The cells whose state is a matrix: linear attention, mLSTM, the gated delta rule; and sLSTM.

How to read this file: of each cell there is a function from the input to ``MatrixSteps``, and one
from what the recurrence gives to the output; ``MatrixCell`` makes of both a step and a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..conv.conv import conv
from ..dense import add_bias, affine, matrix_product
from ..dtypes import at_least_float32
from .chunking import Carry
from .context import one_step, with_context
from .gates import on_mesh
from .linear import last_valid
from .matrix import MatrixState, MatrixSteps, matrix_scan, matrix_step
from .stepwise import ScanOptions, StepCell


class MatrixCell(NamedTuple):
    """A cell over ``matrix_scan``; its carry is (y, matrix), and then m or a context, or neither.

    Attributes:
      project: ``project(x)``, what of each step needs the input alone.
      steps: ``steps(projected) -> MatrixSteps``, of any leading axes.
      output: ``output(projected, y, m)``, the output from what the recurrence gives.
      conv_kernel: (k, 1, D), of a depthwise causal convolution of the first of two parts that are
        projected; or None.
    """

    project: Callable[[jax.Array], Any]
    steps: Callable[[Any], MatrixSteps]
    output: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
    conv_kernel: jax.Array | None = None

    def step_cell(self) -> StepCell[Any]:
        def step(projected: Any, h_in: jax.Array, carry: Carry) -> Carry:
            y, matrix, *rest = carry
            if self.conv_kernel is not None:
                mixed, others = projected
                steps, rest[0] = one_step(mixed, rest[0])
                kernel = jnp.broadcast_to(self.conv_kernel[None, :, 0], steps.shape)
                projected = jnp.sum(steps * kernel, 1), others
            largest = rest[0] if rest and self.conv_kernel is None else None
            at = self.steps(projected)
            (read, largest), state = matrix_step(at, MatrixState(matrix, largest))
            if largest is not None:
                rest = [largest]
            return self.output(projected, read, largest).astype(y.dtype), state.matrix, *rest

        return StepCell(self.project, step)

    def run(self, x: jax.Array, carry: Carry, options: ScanOptions) -> tuple[jax.Array, Carry]:
        """(batch, time, in), all steps at once; without resets."""
        y, matrix, *rest = carry
        projected = self.project(x)
        if self.conv_kernel is not None:
            mixed, others = projected
            windows = with_context(mixed, rest[0], options)
            one = {"strides": (1,), "dilation": (1,), "padding": "VALID"}
            groups = mixed.shape[-1]
            mixed = conv(windows.steps, self.conv_kernel, groups=groups, **one)  # type: ignore[arg-type]
            projected, rest = (windows.restore(mixed), others), [windows.context]
        largest = rest[0] if rest and self.conv_kernel is None else None
        at = self.steps(projected)
        (read, largest), state = matrix_scan(
            at, MatrixState(matrix, largest), reverse=options.reverse, mask=options.mask
        )
        outputs = self.output(projected, read, largest)
        if state.largest is not None:
            rest = [state.largest]
        return outputs, (last_valid(outputs, y, options), state.matrix, *rest)


class LinearAttentionWeights(NamedTuple):
    """Kernels (in, heads * size), biases or None; out_kernel (heads * size, F)."""

    query_kernel: jax.Array
    key_kernel: jax.Array
    value_kernel: jax.Array
    out_kernel: jax.Array
    query_bias: jax.Array | None
    key_bias: jax.Array | None
    value_bias: jax.Array | None
    out_bias: jax.Array | None


def linear_attention_cell(
    weights: LinearAttentionWeights,
    heads: int,
    feature_map: Callable[[jax.Array], jax.Array],
    epsilon: float,
) -> MatrixCell:
    """``phi(q) sum(phi(k) v') / (phi(q) sum(phi(k)))``; the matrix has a last column for phi(k)."""

    def project(x: jax.Array) -> tuple[jax.Array, ...]:
        return (
            affine(x, weights.query_kernel, weights.query_bias),
            affine(x, weights.key_kernel, weights.key_bias),
            affine(x, weights.value_kernel, weights.value_bias),
        )

    def steps(projected: tuple[jax.Array, ...]) -> MatrixSteps:
        query, key, value = (_heads(part, heads) for part in projected)
        ones = jnp.ones_like(value[..., :1])
        value = jnp.concatenate([value, ones], -1)
        return MatrixSteps(feature_map(query), feature_map(key), value)

    def output(
        projected: tuple[jax.Array, ...], read: jax.Array, largest: jax.Array | None
    ) -> jax.Array:
        y = _merged(read[..., :-1] / (read[..., -1:] + epsilon)).astype(projected[0].dtype)
        return affine(y, weights.out_kernel, weights.out_bias)

    return MatrixCell(project, steps, output)


def mlstm_cell(
    kernel: jax.Array,
    gate_kernel: jax.Array,
    bias: jax.Array | None = None,
    gate_bias: jax.Array | None = None,
    *,
    heads: int,
) -> MatrixCell:
    """The mLSTM of ``jlayers.MLSTM``; the matrix has a last column for the normaliser."""

    def project(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        gates = matrix_product(x, gate_kernel).astype(at_least_float32(x.dtype))
        return affine(x, kernel, bias), gates if gate_bias is None else add_bias(gates, gate_bias)

    def steps(projected: tuple[jax.Array, jax.Array]) -> MatrixSteps:
        query, key, value, _ = (_heads(p, heads) for p in jnp.split(projected[0], 4, axis=-1))
        write, forget = jnp.split(projected[1], 2, axis=-1)
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
        key = key / np.sqrt(key.shape[-1]).astype(key.dtype)
        return MatrixSteps(query, key, value, jax.nn.log_sigmoid(forget), write)

    def output(
        projected: tuple[jax.Array, jax.Array], read: jax.Array, largest: jax.Array | None
    ) -> jax.Array:
        assert largest is not None
        # 1 in the units of the state, which was divided by exp(m). Bounded, as infinity would make
        # the gradient NaN; h is zero long before.
        most = float(np.log(np.finfo(read.dtype).max)) / 2
        least = jnp.exp(jnp.minimum(-largest, most))[..., None]
        h = read[..., :-1] / jnp.maximum(jnp.abs(read[..., -1:]), least)
        gate = jnp.split(projected[0], 4, axis=-1)[3]
        return jax.nn.sigmoid(gate) * _merged(h).astype(gate.dtype)

    return MatrixCell(project, steps, output)


class DeltaWeights(NamedTuple):
    """As in ``jlayers.GatedDeltaNet``; conv_kernel is None for no convolution."""

    kernel: jax.Array
    conv_kernel: jax.Array | None
    write_kernel: jax.Array
    decay_kernel: jax.Array
    step_bias: jax.Array
    log_decay: jax.Array
    gate_kernel: jax.Array
    scale: jax.Array
    out_kernel: jax.Array


def gated_delta_cell(weights: DeltaWeights, heads: int, size: int, epsilon: float) -> MatrixCell:
    """The gated delta rule; carry (y, matrix), with the convolution (y, matrix, context)."""

    def project(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        wide = at_least_float32(x.dtype)
        beta = jax.nn.sigmoid(matrix_product(x, weights.write_kernel).astype(wide))
        step = matrix_product(x, weights.decay_kernel).astype(wide)
        step = jax.nn.softplus(add_bias(step, weights.step_bias))
        log_decay = -jnp.broadcast_to(jnp.exp(weights.log_decay), step.shape) * step
        others = beta, log_decay, matrix_product(x, weights.gate_kernel)
        return matrix_product(x, weights.kernel), others

    def steps(projected: tuple[jax.Array, tuple[jax.Array, ...]]) -> MatrixSteps:
        mixed, (beta, log_decay, _) = projected
        mixed = mixed if weights.conv_kernel is None else jax.nn.silu(mixed)
        parts = jnp.split(mixed, [heads * size, 2 * heads * size], axis=-1)
        query, key, value = (_heads(part, heads) for part in parts)
        query = _unit(query) / np.sqrt(size).astype(query.dtype)
        return MatrixSteps(query, _unit(key), value, log_decay, beta=beta)

    def output(
        projected: tuple[jax.Array, tuple[jax.Array, ...]],
        read: jax.Array,
        largest: jax.Array | None,
    ) -> jax.Array:
        gate = projected[1][2]
        square = jnp.mean(jnp.square(read), -1, keepdims=True)
        y = read * jax.lax.rsqrt(square + epsilon)
        y = y * jnp.broadcast_to(weights.scale.astype(y.dtype), y.shape)
        return matrix_product(_merged(y).astype(gate.dtype) * jax.nn.silu(gate), weights.out_kernel)

    return MatrixCell(project, steps, output, weights.conv_kernel)


class Mamba2Weights(NamedTuple):
    """As in ``jlayers.Mamba2``."""

    in_kernel: jax.Array
    conv_kernel: jax.Array
    step_bias: jax.Array
    log_decay: jax.Array
    skip: jax.Array
    scale: jax.Array
    out_kernel: jax.Array
    in_bias: jax.Array | None
    conv_bias: jax.Array | None
    out_bias: jax.Array | None


def mamba2_cell(weights: Mamba2Weights, state_size: int, groups: int, epsilon: float) -> MatrixCell:
    """Mamba-2's block; carry (y, matrix (batch, heads, N, P), context)."""
    heads, width = weights.step_bias.shape[0], weights.scale.shape[0]
    # The input, and then what writes and what reads.
    parts = [width, width + groups * state_size]

    def project(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        y = affine(x, weights.in_kernel, weights.in_bias)
        gate, mixed, step = jnp.split(y, [width, y.shape[-1] - heads], axis=-1)
        step = add_bias(step.astype(at_least_float32(x.dtype)), weights.step_bias)
        return mixed, (jax.nn.softplus(step), gate)

    def convolved(mixed: jax.Array) -> list[jax.Array]:
        if weights.conv_bias is not None:
            mixed = add_bias(mixed, weights.conv_bias)
        return jnp.split(jax.nn.silu(mixed), parts, axis=-1)

    def steps(projected: tuple[jax.Array, tuple[jax.Array, ...]]) -> MatrixSteps:
        mixed, (step, _) = projected
        value, write, read = convolved(mixed)
        # Neighbouring heads share those of a group.
        key, query = (
            jnp.repeat(_heads(part, groups), heads // groups, axis=-2) for part in (write, read)
        )
        rates = jnp.broadcast_to(-jnp.exp(weights.log_decay), step.shape)
        return MatrixSteps(query, key, _heads(value, heads) * step[..., None], rates * step)

    def output(
        projected: tuple[jax.Array, tuple[jax.Array, ...]],
        read: jax.Array,
        largest: jax.Array | None,
    ) -> jax.Array:
        mixed, (_, gate) = projected
        value = _heads(convolved(mixed)[0], heads)
        y = _merged(read + jnp.broadcast_to(weights.skip[:, None], value.shape) * value)
        y = _heads(y * jax.nn.silu(gate.astype(y.dtype)), groups)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + epsilon)
        y = _merged(y) * jnp.broadcast_to(weights.scale.astype(y.dtype), gate.shape)
        return affine(y.astype(gate.dtype), weights.out_kernel, weights.out_bias)

    return MatrixCell(project, steps, output, weights.conv_kernel)


def slstm_cell(
    kernel: jax.Array, recurrent_kernel: jax.Array, bias: jax.Array | None = None
) -> StepCell[jax.Array]:
    """The sLSTM of ``jlayers.SLSTM``; recurrent_kernel (heads, K, 4 K); carry (h, c, n, m)."""
    heads, size, _ = recurrent_kernel.shape
    axis, (kernel, bias) = on_mesh(heads * size, kernel, bias)

    def project(x: jax.Array) -> jax.Array:
        return affine(x, kernel, bias)

    def step(projected: jax.Array, h_in: jax.Array, carry: Carry) -> Carry:
        h, c, n, m = carry
        per_head = h_in.reshape(h.shape[0], heads, size)
        recurrent = jnp.einsum("bhk,hkn->bhn", per_head, recurrent_kernel)
        # (batch, 4, heads, size), in the order of the kernel's columns.
        recurrent = recurrent.reshape(h.shape[0], heads, 4, size).swapaxes(1, 2)
        gates = projected + recurrent.reshape(projected.shape)
        i, f, g, o = axis.split(gates.astype(c.dtype), 4)
        # Before the first step there is no largest exponent so far.
        kept = jnp.where(n == 0, i, m + jax.nn.log_sigmoid(f))
        new_m = jnp.maximum(kept, i)
        share, i = jnp.exp(kept - new_m), jnp.exp(i - new_m)
        c = share * c + i * jnp.tanh(g)
        n = share * n + i
        return (jax.nn.sigmoid(o) * c / n).astype(h.dtype), c, n, new_m

    return StepCell(project, step)


def _heads(values: jax.Array, heads: int) -> jax.Array:
    """(..., heads, size) of (..., heads * size), in float32 at least."""
    wide = values.astype(at_least_float32(values.dtype))
    return wide.reshape(*values.shape[:-1], heads, values.shape[-1] // heads)


def _merged(values: jax.Array) -> jax.Array:
    heads, size = values.shape[-2:]
    return values.reshape(*values.shape[:-2], heads * size)


def _unit(values: jax.Array) -> jax.Array:
    """Of length 1, as far as it is well above 0.001."""
    square = jnp.sum(jnp.square(values), -1, keepdims=True)
    return values * jax.lax.rsqrt(square + 1e-6)
