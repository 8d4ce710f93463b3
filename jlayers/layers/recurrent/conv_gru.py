"""ConvGRU: a GRU over images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import ConvPadding, Fraction, Positive, Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import gru_cell
from .activations import Activation, check_elementwise, check_functions
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .images import Convolution
from .rnn import short_form


@factory
def ConvGRUCell(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: ConvPadding = "SAME",
    dilation: Sizes = 1,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    reset_after: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of a GRU whose products are convolutions of images, for ``RNN``.

    As ``GRUCell``, with ``xr, xz, xn = split(conv(x, kernel) + bias, 3)`` and likewise for h
    (Ballas et al., 2016, arXiv:1511.06432, which has the reset gate before the product:
    ``reset_after=False``).

    Args:
      features: channels F of the output.
      kernel_size: an int for all spatial axes, or one for each; of both convolutions.
      strides, padding, dilation: of the convolution of x, as for ``Conv``. That of h has none of
        the first and the last, and the padding ``"SAME"``.
      bias: whether to add biases.
      activation: elementwise, instead of tanh.
      recurrent_activation: elementwise, instead of the sigmoids.
      reset_after: False for the reset gate before the product, as for ``GRUCell``.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, in), floating, and the carry {"h"}, each (batch, *spatial', F).
      y: (h', {"h": h'}), of the dtype of ``x``.
      params: kernel (*kernel_size, in, 3 F), recurrent_kernel (*kernel_size, F, 3 F), bias (3 F,),
      recurrent_bias (F,).

    Raises:
      LayerError: for a kernel larger than the padded input, an activation that is not elementwise.

    >>> import jlayers as jl
    >>> layer = jl.RNN(jl.ConvGRUCell(8, 3, strides=2))
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
            "kernel": (kernel_init, (*size, x.shape[-1], 3 * features)),
            "recurrent_kernel": (recurrent_init, (*size, features, 3 * features)),
            "bias": (bias_init, (3 * features,)) if bias else None,
            # Only this one is not simply added to bias: see GRUCell.
            "recurrent_bias": (bias_init, (features,)) if bias and reset_after else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        return dict.fromkeys(("h",), image.output(x, features))

    return Cell.of(
        CellDefinition(
            name="conv_gru",
            parameters=parameters,
            carry=carry,
            bind=lambda params, _: gru_cell(
                **params,
                **activations,
                reset_after=reset_after,
                products=image.products(params["kernel"].ndim - 2),
            ),
            check=image.check("x[..., None] for images without a channel axis; GRU for vectors"),
        )
    )


@factory
def ConvGRU(
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
    reset_after: bool = True,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """A GRU over a sequence of images: ``RNN(ConvGRUCell(features, kernel_size))``, see both.

    Shapes:
      x: (batch, time, *spatial, in), floating, or ``(x, resets)``.
      y: (batch, time, *spatial', F), or (batch, *spatial', F) without ``return_sequences``; of the
      dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ConvGRU(8, 3), jl.spec((4, 10, 16, 16, 3))).shape
    (4, 10, 16, 16, 8)
    """
    return short_form(ConvGRUCell, locals())
