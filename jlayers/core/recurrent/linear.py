"""Linear recurrences, ``h' = a h + b`` elementwise, and the cells that are one.

As ``a`` and ``b`` depend on the input alone, a cell here is a projection to ``(a, b)``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..dense import affine
from ..dtypes import at_least_float32
from .chunking import Carry
from .gates import on_mesh
from .linear_scan import linear_scan
from .stepwise import ScanOptions, StepCell, expand

# The power of the gate in an RG-LRU: "c" in the paper.
_SHARPNESS = 8.0
Coefficients = tuple[jax.Array, jax.Array]


def linear_recurrence(
    decay: jax.Array, update: jax.Array, h: jax.Array, options: ScanOptions
) -> tuple[jax.Array, jax.Array]:
    """``h' = decay * h + update`` for each of the steps.

    Args:
      decay, update: (batch, time, H).
      h: (batch, H), before the first step.
      options: which steps there are; without dropout and zoneout.

    Returns:
      (h after each step, (batch, time, H), and after the last one that was not skipped).
    """
    if options.resets is not None:
        resets = expand(options.resets, decay.shape)
        initial = jnp.broadcast_to(options.initial[0][:, None], decay.shape)
        # The state before a reset has no part in the step: its decay is 0.
        update = jnp.where(resets, decay * initial + update, update)
        decay = jnp.where(resets, jnp.zeros_like(decay), decay)
    if options.mask is not None:
        # A skipped step is the identity, h' = 1 h + 0.
        valid = expand(options.mask, decay.shape)
        update = jnp.where(valid, update, jnp.zeros_like(update))
        decay = jnp.where(valid, decay, jnp.ones_like(decay))
    outputs = linear_scan(decay, update, h, reverse=options.reverse)
    return outputs, outputs[:, 0 if options.reverse else -1]


def linear_recurrence_read(
    coefficients: Coefficients,
    read: Callable[[jax.Array], jax.Array],
    carry: Carry,
    options: ScanOptions,
) -> tuple[jax.Array, Carry]:
    """``c' = decay * c + update``, and of it the output ``y = read(c')``.

    Args:
      coefficients: (decay, update), (batch, time, H).
      read: from (batch, time, H), for all steps at once.
      carry: (y, c) before the first step, each (batch, H).
      options: as for ``linear_recurrence``, with ``initial`` for y and c.

    Returns:
      (the outputs, (y, c) after the last step that was not skipped).
    """
    y, c = carry
    states, last = linear_recurrence(
        *coefficients, c, options._replace(initial=options.initial[1:])
    )
    outputs = read(states)
    return outputs, (last_valid(outputs, y, options), last)


def last_valid(outputs: jax.Array, before: jax.Array, options: ScanOptions) -> jax.Array:
    """Of (batch, time, ...) the last step to run, or ``before`` in a row where there is none."""
    mask = options.mask
    if mask is None:
        return (outputs[:, 0] if options.reverse else outputs[:, -1]).astype(before.dtype)
    # argmax gives the first of equal ones.
    steps = mask.shape[1]
    place = jnp.argmax(mask, 1) if options.reverse else steps - 1 - jnp.argmax(mask[:, ::-1], 1)
    at = place.reshape(-1, *(1,) * (outputs.ndim - 1))
    found = jnp.take_along_axis(outputs, at, 1)[:, 0].astype(before.dtype)
    return jnp.where(expand(jnp.any(mask, 1), before.shape), found, before)


def min_gru_cell(
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array] | None = None,
) -> StepCell[Coefficients]:
    """``h' = (1 - z) h + z n`` with ``sigmoid^-1(z), n = split(x W + b, 2)``.

    In float32 at least: in bfloat16 ``1 - z`` would be 1 for all small z.
    """

    axis, (kernel, bias) = on_mesh(kernel.shape[-1] // 2, kernel, bias)

    def project(x: jax.Array) -> Coefficients:
        z, n = axis.split(_widen(affine(x, kernel, bias)), 2)
        n = n if activation is None else activation(n)
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * n

    return StepCell(project, _step)


def min_lstm_cell(
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array] | None = None,
) -> StepCell[Coefficients]:
    """``h' = (f h + i n) / (f + i)``, ``sigmoid^-1(f), sigmoid^-1(i), n = split(x W + b, 3)``.

    In float32 at least, as ``min_gru_cell``.
    """

    axis, (kernel, bias) = on_mesh(kernel.shape[-1] // 3, kernel, bias)

    def project(x: jax.Array) -> Coefficients:
        f, i, n = axis.split(_widen(affine(x, kernel, bias)), 3)
        n = n if activation is None else activation(n)
        # f / (f + i) is the sigmoid of log f - log i, also where both are near zero.
        ratio = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
        return jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio) * n

    return StepCell(project, _step)


def rg_lru_cell(
    decay: jax.Array, gate_kernel: jax.Array, gate_bias: jax.Array | None = None
) -> StepCell[Coefficients]:
    """The real-gated linear recurrent unit (De et al., 2024), in float32 at least.

    With ``r, i = split(sigmoid(u W + b), 2)`` and ``a = sigmoid(decay) ** (8 r)``::

        h' = a h + sqrt(1 - a ** 2) (i u)

    Args:
      decay: (H,), float32 or wider. gate_kernel: (H, 2 H). gate_bias: (2 H,), or None.
    """

    axis, (gate_kernel, gate_bias) = on_mesh(decay.shape[0], gate_kernel, gate_bias)

    def project(u: jax.Array) -> Coefficients:
        gates = _widen(affine(u, gate_kernel, gate_bias))
        r, i = axis.split(jax.nn.sigmoid(gates), 2)
        log_a = _SHARPNESS * r * jnp.broadcast_to(jax.nn.log_sigmoid(decay), r.shape)
        # 1 - a ** 2 to full precision; above zero, where the root has a slope.
        rest = jnp.maximum(-jnp.expm1(2 * log_a), float(np.finfo(r.dtype).tiny))
        return jnp.exp(log_a), jnp.sqrt(rest) * i * _widen(u)

    return StepCell(project, _step)


def _step(coefficients: Coefficients, _: jax.Array, carry: Carry) -> Carry:
    decay, update = coefficients
    return (decay * carry[0] + update,)


def _widen(values: jax.Array) -> jax.Array:
    return values.astype(at_least_float32(values.dtype))
