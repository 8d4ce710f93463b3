"""ConvLSTM: an LSTM over images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import ConvPadding, Fraction, Positive, Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import lstm_cell
from .activations import Activation, check_elementwise, check_functions
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .images import Convolution
from .lstm import forget_one
from .rnn import short_form


@factory
def ConvLSTMCell(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: ConvPadding = "SAME",
    dilation: Sizes = 1,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
) -> Layer:
    """A step of an LSTM whose products are convolutions of images, for ``RNN``.

    With ``i, f, g, o = split(conv(x, kernel) + conv(h, recurrent_kernel) + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Shi et al., 2015, arXiv:1506.04214; without peepholes, as in Keras).

    Args:
      features: channels F of the output.
      kernel_size: an int for all spatial axes, or one for each; of both convolutions.
      strides, padding, dilation: of the convolution of x, as for ``Conv``. That of h has none of
        the first and the last, and the padding ``"SAME"``.
      bias: whether to add one.
      activation: elementwise, instead of both tanh.
      recurrent_activation: elementwise, instead of the sigmoids.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, in), floating, and the carry {"h", "c"}, each (batch, *spatial', F).
      y: (h', {"h": h', "c": c'}), of the dtype of ``x``.
      params: kernel (*kernel_size, in, 4 F), recurrent_kernel (*kernel_size, F, 4 F), bias (4 F,).

    Raises:
      LayerError: for a kernel larger than the padded input, an activation that is not elementwise.

    >>> import jlayers as jl
    >>> layer = jl.RNN(jl.ConvLSTMCell(8, 3, strides=2))
    >>> jl.out_spec(layer, jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 8, 8, 8)
    """
    image = Convolution(kernel_size, strides, padding, dilation)
    activations: dict[str, Any] = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    check_functions(**activations)

    def parameters(x: Spec) -> Parameters:
        check_elementwise(image.output(x, features), **activations)
        size = image.kernel_sizes(x)
        return {
            "kernel": (kernel_init, (*size, x.shape[-1], 4 * features)),
            "recurrent_kernel": (recurrent_init, (*size, features, 4 * features)),
            "bias": (bias_init, (4 * features,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        return dict.fromkeys(("h", "c"), image.output(x, features))

    return Cell.of(
        CellDefinition(
            name="conv_lstm",
            parameters=parameters,
            carry=carry,
            bind=lambda params, _: lstm_cell(
                **params,
                **activations,
                products=image.products(params["kernel"].ndim - 2),
            ),
            check=image.check("x[..., None] for images without a channel axis; LSTM for vectors"),
        )
    )


@factory
def ConvLSTM(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: ConvPadding = "SAME",
    dilation: Sizes = 1,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
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
      y: (batch, time, *spatial', F), or (batch, *spatial', F) without ``return_sequences``; of the
      dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ConvLSTM(8, 3), jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 16, 16, 8)
    """
    return short_form(ConvLSTMCell, locals())
