"""SimpleRNN: the plain recurrence, and what all recurrent layers share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import initializers

from .. import checks, core
from ..errors import LayerError, doing
from ..factory import factory
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params, show, specs_of


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
) -> Layer:
    """``h' = activation(x @ kernel + h @ recurrent_kernel + bias)``, from ``h = 0`` (Elman, 1990).

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      activation: elementwise.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, H), or (batch, H) without
      ``return_sequences``; of the dtype of ``x``.
      params: kernel (in, H), recurrent_kernel (H, H), bias (H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SimpleRNN(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    features = checks.positive("features", features)
    return_sequences = checks.flag("return_sequences", return_sequences)
    reverse = checks.flag("reverse", reverse)
    bias = checks.flag("bias", bias)
    checks.function("activation", activation, "x")

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        check_steps(x)
        hidden = jax.ShapeDtypeStruct((x.shape[0], features), x.dtype)
        with doing("activation"):
            y = jax.eval_shape(activation, hidden)
        if specs_of(y) != hidden:
            raise LayerError("activation is not elementwise", expected=show(hidden), got=show(y))
        return initialize(
            key,
            x,
            kernel=(kernel_init, (x.shape[-1], features)),
            recurrent_kernel=(recurrent_init, (features, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        outputs, last = core.simple_rnn(
            x,
            start(x, features),
            **cast_like(params, x),
            activation=activation,
            reverse=reverse,
        )
        return outputs if return_sequences else last

    return stateless(init, apply)


def check_steps(x: jax.ShapeDtypeStruct) -> None:
    """The input of a recurrent layer: (batch, time, features), floating."""
    checks.one_array(
        x,
        "(batch, time, features)",
        rank=3,
        lower="Reshape((time, features)) before it; Embedding for ids",
    )
    checks.floating(x)
    checks.not_empty(x, "(batch, time, features)")


def start(x: jax.Array, features: int) -> jax.Array:
    """The hidden state before the first step: zeros (batch, features)."""
    # Made of a slice, so that they are spread over devices as the batch is: a scan insists on it.
    zeros = jnp.zeros_like(x[:, 0, :1])
    return jnp.broadcast_to(zeros, (x.shape[0], features))
