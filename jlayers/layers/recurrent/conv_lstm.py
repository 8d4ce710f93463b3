"""ConvLSTM: an LSTM over images."""

from __future__ import annotations

from typing import Any

from jax.nn import initializers

from ...base import arguments
from ...base.arguments import Fraction, Positive, Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import conv_lstm_cell
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .lstm import forget_one
from .rnn import short_form


@factory
def ConvLSTMCell(
    features: Positive,
    kernel_size: Sizes,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
) -> Layer:
    """A step of an LSTM whose products are convolutions of images, for ``RNN``.

    With ``i, f, g, o = split(conv(x, kernel) + conv(h, recurrent_kernel) + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Shi et al., 2015, arXiv:1506.04214; without peepholes, as in Keras). The padding is ``"SAME"``.

    Args:
      features: channels F of the output.
      kernel_size: an int for all spatial axes, or one for each.
      bias: whether to add one.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, in), floating, and the carry {"h", "c"}, each (batch, *spatial, F).
      y: (h', {"h": h', "c": c'}), of the dtype of ``x``.
      params: kernel (*kernel_size, in, 4 F), recurrent_kernel (*kernel_size, F, 4 F), bias (4 F,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.ConvLSTMCell(8, 3)), jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 16, 16, 8)
    """

    def check(x: Any, leading: str) -> None:
        axes, before = f"({leading}, *spatial, channels)", leading.count(",") + 1
        # A tuple fixes how many axes an image has; an int fits any number.
        rank = before + len(kernel_size) + 1 if isinstance(kernel_size, tuple) else None
        hint = "x[..., None] for images without a channel axis; LSTM for vectors"
        arguments.one_array(x, axes, rank=rank, least_rank=before + 2, lower=hint)
        arguments.floating(x)
        arguments.not_empty(x, axes)

    def parameters(x: Spec) -> Parameters:
        size = arguments.spread("kernel_size", kernel_size, len(x.shape) - 2)
        return {
            "kernel": (kernel_init, (*size, x.shape[-1], 4 * features)),
            "recurrent_kernel": (recurrent_init, (*size, features, 4 * features)),
            "bias": (bias_init, (4 * features,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        # Padding SAME and no strides, so that h has the size of x and meets it in a sum.
        return dict.fromkeys(("h", "c"), Spec((*x.shape[:-1], features), x.dtype))

    return Cell.of(
        CellDefinition(
            name="conv_lstm",
            parameters=parameters,
            carry=carry,
            bind=lambda params, _: conv_lstm_cell(**params),
            check=check,
        )
    )


@factory
def ConvLSTM(
    features: Positive,
    kernel_size: Sizes,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
    method: str | None = None,
) -> Layer:
    """An LSTM over a sequence of images: ``RNN(ConvLSTMCell(features, kernel_size))``, see both.

    Shapes:
      x: (batch, time, *spatial, in), floating, or ``(x, resets)``.
      y: (batch, time, *spatial, F), or (batch, *spatial, F) without ``return_sequences``; of the
      dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ConvLSTM(8, 3), jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 16, 16, 8)
    """
    return short_form(ConvLSTMCell, locals())
