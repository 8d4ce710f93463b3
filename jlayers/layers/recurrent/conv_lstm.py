"""ConvLSTM: an LSTM over images."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.specs import Params
from .base import Wanted, recurrent
from .lstm import forget_one

IMAGES = "(batch, time, *spatial, channels)"


@factory
def ConvLSTM(
    features: int,
    kernel_size: int | tuple[int, ...],
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
    method: str | None = None,
) -> Layer:
    """An LSTM whose products are convolutions, over a sequence of images, from ``h = c = 0``.

    With ``i, f, g, o = split(conv(x, kernel) + conv(h, recurrent_kernel) + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Shi et al., 2015, arXiv:1506.04214; without peepholes, as in Keras). The padding in space is
    ``"SAME"``. Padding in time is no step: it leaves h and c.

    Args:
      features: channels F of the output.
      kernel_size: an int for all spatial axes, or one for each.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      zoneout: in training each value of h and c stays as it was with this probability; else the
        new one is the mean of both cases (Krueger et al., 2017).
      recurrent_dropout: in training each value of h is dropped with this probability where it
        meets the recurrent kernel, the same ones in all steps (Gal & Ghahramani, 2016).
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them.

    Shapes:
      x: (batch, time, *spatial, in), floating; or ``(x, resets)`` with bools (batch, time): before
      a step where they are True, in the order in which steps are taken, h and c are zeros again.
      y: (batch, time, *spatial, F), or (batch, *spatial, F) without ``return_sequences``; of the
      dtype of ``x``.
      params: kernel (*kernel_size, in, 4 F), recurrent_kernel (*kernel_size, F, 4 F), bias (4 F,).

    Raises:
      LayerError: for ``train=True`` without a key, with zoneout or dropout.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ConvLSTM(8, 3), jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 16, 16, 8)
    """
    features = arguments.positive("features", features)
    kernel_size = arguments.positive_sizes("kernel_size", kernel_size)
    bias = arguments.flag("bias", bias)

    def check(x: Any) -> None:
        rank = len(kernel_size) + 3 if isinstance(kernel_size, tuple) else None
        hint = "x[..., None] for images without a channel axis; LSTM for vectors"
        arguments.one_array(x, IMAGES, rank=rank, least_rank=4, lower=hint)
        arguments.floating(x)
        arguments.not_empty(x, IMAGES)

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        size = arguments.spread("kernel_size", kernel_size, len(x.shape) - 3)
        return {
            "kernel": (kernel_init, (*size, x.shape[-1], 4 * features)),
            "recurrent_kernel": (recurrent_init, (*size, features, 4 * features)),
            "bias": (bias_init, (4 * features,)) if bias else None,
        }

    def carries(x: Any) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (x.shape[0], *x.shape[2:-1], features)
        return dict.fromkeys(("h", "c"), jax.ShapeDtypeStruct(shape, x.dtype))

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        cell = core.conv_lstm_cell(**cast_like(params, x))
        return core.stepwise(cell, x, carry, course, method=method, name="conv_lstm")

    return recurrent(
        run,
        parameters,
        carries,
        return_sequences=return_sequences,
        reverse=reverse,
        check=check,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
    )
