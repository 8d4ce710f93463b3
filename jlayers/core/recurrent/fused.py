"""SimpleRNN, LSTM and GRU as single functions, with the custom gradient of ``recurrence``.

How to read this file: each function gives ``recurrence`` the elementwise part of its step, which
takes sigmoids as (tanh(v / 2) + 1) / 2, so that all gates share one call of tanh.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dispatch import traced_once
from .chunking import Carry, Cell
from .scan import Weights, recurrence


@traced_once("activation", "reverse", "method")
def simple_rnn(
    x: jax.Array,
    carry: tuple[jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array]]:
    """``h' = activation(x W + h U + b)`` (Elman, 1990).

    Args:
      x: (batch, time, in).
      carry: (h,), (batch, H), before the first step.
      kernel: (in, H). recurrent_kernel: (H, H). bias: (H,), or None.
      activation: elementwise.
      reverse: from the last step to the first; outputs stay in the order of ``x``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster.
      mask: bools (batch, time): a step where it is False is skipped.

    Returns:
      (outputs (batch, time, H), (h,) after the last step that was not skipped).
    """

    def step(gates: jax.Array, carry: Carry) -> Carry:
        return (activation(gates),)

    outputs, (h,) = recurrence(
        Cell(step, summed=True),
        x,
        carry,
        Weights(kernel, recurrent_kernel, bias, None),
        reverse=reverse,
        method=method,
        name="simple_rnn",
        mask=mask,
    )
    return outputs, (h,)


@traced_once("reverse", "method")
def lstm(
    x: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate of Gers et al., 2000).

    With ``i, f, g, o = split(x W + h U + b, 4)``::

        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Args:
      x: (batch, time, in).
      carry: (h, c), each (batch, H), before the first step.
      kernel: (in, 4 H). recurrent_kernel: (H, 4 H). bias: (4 H,), or None. Gate order i, f, g, o.
      reverse, method, mask: as in ``simple_rnn``.

    Returns:
      (outputs (batch, time, H), (h, c) after the last step that was not skipped).
    """
    outputs, (h, c) = recurrence(
        Cell(_lstm_step, summed=True),
        x,
        carry,
        Weights(kernel, recurrent_kernel, bias, None),
        reverse=reverse,
        method=method,
        name="lstm",
        mask=mask,
    )
    return outputs, (h, c)


def _lstm_step(gates: jax.Array, carry: Carry) -> Carry:
    _, c = carry
    i, f, g, o = jnp.split(_squash(gates, 4, tanh_at=2), 4, axis=-1)
    c = 0.5 * ((f + 1) * c + (i + 1) * g)
    return 0.5 * (o + 1) * jnp.tanh(c), c


def _squash(gates: jax.Array, count: int, tanh_at: int | None = None) -> jax.Array:
    """tanh(v / 2) = 2 sigmoid(v) - 1 of all gates, but tanh(v) of the one at ``tanh_at``."""
    half = np.full((count, gates.shape[-1] // count), 0.5)
    if tanh_at is not None:
        half[tanh_at] = 1
    scaled = gates * jnp.broadcast_to(jnp.asarray(half.ravel(), gates.dtype), gates.shape)
    # Without the barrier XLA recomputes the tanh in each fusion that uses it.
    squashed: jax.Array = lax.optimization_barrier(jnp.tanh(scaled))
    return squashed


@traced_once("reverse", "method")
def gru(
    x: jax.Array,
    carry: tuple[jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    *,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array]]:
    """Gated recurrent unit, reset gate after the product (Cho et al., 2014, as in cuDNN).

    With ``xr, xz, xn = split(x W + b, 3)`` and ``hr, hz, hn = split(h U, 3)``::

        r  = sigmoid(xr + hr)
        z  = sigmoid(xz + hz)
        n  = tanh(xn + r (hn + recurrent_bias))
        h' = (1 - z) n + z h

    Args:
      x: (batch, time, in).
      carry: (h,), (batch, H), before the first step.
      kernel: (in, 3 H). recurrent_kernel: (H, 3 H). bias: (3 H,), or None. Gate order r, z, n.
      recurrent_bias: (H,), of the candidate (those of r and z would only add to ``bias``), or None.
      reverse, method, mask: as in ``simple_rnn``.

    Returns:
      (outputs (batch, time, H), (h,) after the last step that was not skipped).
    """
    if recurrent_bias is not None:
        others = jnp.zeros_like(recurrent_bias, shape=(2 * recurrent_bias.shape[0],))
        recurrent_bias = jnp.concatenate([others, recurrent_bias])
    outputs, (h,) = recurrence(
        Cell(_gru_step, summed=False),
        x,
        carry,
        Weights(kernel, recurrent_kernel, bias, recurrent_bias),
        reverse=reverse,
        method=method,
        name="gru",
        mask=mask,
    )
    return outputs, (h,)


def _gru_step(gates: tuple[jax.Array, jax.Array], carry: Carry) -> Carry:
    (h,) = carry
    projected, recurrent = gates
    split = 2 * h.shape[-1]
    r, z = jnp.split(_squash(projected[..., :split] + recurrent[..., :split], 2), 2, axis=-1)
    n = jnp.tanh(projected[..., split:] + 0.5 * (r + 1) * recurrent[..., split:])
    z = 0.5 * (z + 1)
    return (n + z * (h - n),)
