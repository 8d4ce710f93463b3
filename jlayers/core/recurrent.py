"""Recurrences over time: one scan, in which only the recurrent product stays.

The products with the input of all steps are one matrix product before the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .dense import dense

Carry = Any


def _scan(
    step: Callable[[Carry, jax.Array], tuple[Carry, jax.Array]],
    carry: Carry,
    projected: jax.Array,
    reverse: bool,
) -> tuple[jax.Array, Carry]:
    """Runs ``step`` over the time axis of ``projected``, (batch, time, ...)."""
    carry, outputs = lax.scan(step, carry, jnp.swapaxes(projected, 0, 1), reverse=reverse)
    return jnp.swapaxes(outputs, 0, 1), carry


def simple_rnn(
    x: jax.Array,
    hidden: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """``h' = activation(x W + h U + b)`` (Elman, 1990).

    Args:
      x: (batch, time, in).
      hidden: (batch, H), before the first step.
      kernel: (in, H). recurrent_kernel: (H, H). bias: (H,), or None.
      activation: elementwise.
      reverse: from the last step to the first; outputs stay in the order of ``x``.

    Returns:
      (outputs (batch, time, H), hidden (batch, H) after the last step taken).
    """

    def step(h: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = activation(z + dense(h, recurrent_kernel))
        return h, h

    return _scan(step, hidden, dense(x, kernel, bias), reverse)


def lstm(
    x: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate of Gers et al., 2000).

    With ``i, f, g, o = split(x W + h U + b, 4)``::

        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Args:
      x: (batch, time, in).
      carry: (h, c), each (batch, H), before the first step.
      kernel: (in, 4 H). recurrent_kernel: (H, 4 H). bias: (4 H,), or None. Gate order i, f, g, o.
      reverse: from the last step to the first; outputs stay in the order of ``x``.

    Returns:
      (outputs (batch, time, H), (h, c) after the last step taken).
    """

    def step(carry: Carry, z: jax.Array) -> tuple[Carry, jax.Array]:
        h, c = carry
        i, f, g, o = jnp.split(z + dense(h, recurrent_kernel), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return _scan(step, carry, dense(x, kernel, bias), reverse)


def gru(
    x: jax.Array,
    hidden: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gated recurrent unit, reset gate after the product (Cho et al., 2014, as cuDNN has it).

    With ``xr, xz, xn = split(x W + b, 3)`` and ``hr, hz, hn = split(h U, 3)``::

        r  = sigmoid(xr + hr)
        z  = sigmoid(xz + hz)
        n  = tanh(xn + r (hn + recurrent_bias))
        h' = (1 - z) n + z h

    Args:
      x: (batch, time, in).
      hidden: (batch, H), before the first step.
      kernel: (in, 3 H). recurrent_kernel: (H, 3 H). bias: (3 H,), or None. Gate order r, z, n.
      recurrent_bias: (H,), of the candidate alone (those of r and z would only add to ``bias``),
        or None.
      reverse: from the last step to the first; outputs stay in the order of ``x``.

    Returns:
      (outputs (batch, time, H), hidden (batch, H) after the last step taken).
    """

    def step(h: jax.Array, projected: jax.Array) -> tuple[jax.Array, jax.Array]:
        xr, xz, xn = jnp.split(projected, 3, axis=-1)
        hr, hz, hn = jnp.split(dense(h, recurrent_kernel), 3, axis=-1)
        if recurrent_bias is not None:
            hn = hn + jnp.broadcast_to(recurrent_bias, hn.shape)
        r = jax.nn.sigmoid(xr + hr)
        z = jax.nn.sigmoid(xz + hz)
        n = jnp.tanh(xn + r * hn)
        h = (1 - z) * n + z * h
        return h, h

    return _scan(step, hidden, dense(x, kernel, bias), reverse)
