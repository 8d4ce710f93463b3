"""SimpleRNN: the plain recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import initializers

from .. import checks, core
from ..errors import LayerError, doing
from ..factory import factory
from ..layer import Layer
from ..parameters import Initializer
from ..specs import show, specs_of
from .recurrent import recurrent


@factory
def SimpleRNN(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``h' = activation(x @ kernel + h @ recurrent_kernel + bias)``, from ``h = 0`` (Elman, 1990).

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      activation: elementwise.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, H), or (batch, H) without
      ``return_sequences``; of the dtype of ``x``.
      params: kernel (in, H), recurrent_kernel (H, H), bias (H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SimpleRNN(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    checks.function("activation", activation, "x")

    def elementwise(hidden: jax.ShapeDtypeStruct) -> None:
        with doing("activation"):
            y = jax.eval_shape(activation, hidden)
        if specs_of(y) != hidden:
            raise LayerError("activation is not elementwise", expected=show(hidden), got=show(y))

    return recurrent(
        functools.partial(core.simple_rnn, activation=activation),
        1,
        features,
        return_sequences=return_sequences,
        reverse=reverse,
        bias=bias,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        method=method,
        check=elementwise,
    )
