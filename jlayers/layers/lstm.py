"""LSTM: long short-term memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from .. import core
from ..factory import factory
from ..layer import Layer
from ..parameters import Initializer
from .recurrent import recurrent


def _forget_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Zeros, and ones for the forget gate (Jozefowicz et al., 2015), in the order i, f, g, o."""
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1)


@factory
def LSTM(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = _forget_one,
    method: str | None = None,
) -> Layer:
    """Long short-term memory over a whole sequence, from ``h = c = 0``.

    With ``i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Hochreiter & Schmidhuber, 1997; Gers et al., 2000). The forget gate's bias starts at 1. The
    order of the gates is that of Keras and PyTorch.

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, H), or (batch, H) without
      ``return_sequences``; of the dtype of ``x``.
      params: kernel (in, 4 H), recurrent_kernel (H, 4 H), bias (4 H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LSTM(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return recurrent(
        core.lstm,
        4,
        features,
        carries=("h", "c"),
        return_sequences=return_sequences,
        reverse=reverse,
        bias=bias,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        method=method,
    )
