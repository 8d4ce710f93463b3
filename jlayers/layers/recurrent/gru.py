"""GRU: the gated recurrent unit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import AboveZero, Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import GRU_GATES, gru_cell
from ...core.recurrent.fused import gru
from .activations import Activation, check_elementwise, check_functions
from .cell import Cell, CellDefinition, Parameters, fused_scan, rows
from .rnn import short_form


@factory
def GRUCell(
    features: Positive,
    *,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    reset_after: bool = True,
    layer_norm: bool = False,
    clip: AboveZero | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of the gated recurrent unit (Cho et al., 2014), for ``RNN``.

    With ``xr, xz, xn = split(x @ kernel + bias, 3)`` and
    ``hr, hz, hn = split(h @ recurrent_kernel, 3)``::

        r  = sigmoid(xr + hr)
        z  = sigmoid(xz + hz)
        n  = tanh(xn + r * (hn + recurrent_bias))
        h' = (1 - z) * n + z * h

    The reset gate acts after the product, as in cuDNN, PyTorch, Flax and Keras's default. The
    order of the gates is PyTorch's; PyTorch's and Keras's second bias, of r and z, adds to the
    first.

    Args:
      features: size H of the hidden state.
      bias: whether to add biases.
      activation: elementwise, instead of tanh.
      recurrent_activation: elementwise, instead of the sigmoids of the gates r and z.
      reset_after: False for the reset gate before the product, as in the paper:
        ``n = tanh(xn + (r * h) @ Un)``, with Un the last third of the recurrent kernel. It has
        no recurrent_bias. Keras has the same argument, ONNX calls it ``linear_before_reset``.
      layer_norm: of the products with the kernel, times kernel_scale, and with the recurrent
        kernel, times recurrent_scale: over r and z together, and over n (Ba et al., 2016); 1e-5 is
        added to variances.
      clip: the inputs of the activations of r, z and n are clipped to [-clip, clip].
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}.
      y: (h', {"h": h'}), of the dtype of ``x``.
      params: kernel (in, 3 H), recurrent_kernel (H, 3 H), bias (3 H,), recurrent_bias (H,); by
      option kernel_scale (3 H,), recurrent_scale (3 H,).

    Raises:
      LayerError: for an activation that is not elementwise.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.GRUCell(32, reset_after=False)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    # The fused algorithm is cuDNN's form of the cell, reset after the product.
    usual = activation is jnp.tanh and recurrent_activation is jax.nn.sigmoid
    plain = usual and reset_after and not layer_norm and clip is None
    activations: dict[str, Any] = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    check_functions(**activations)

    def parameters(x: Spec) -> Parameters:
        check_elementwise(Spec((x.shape[0], features), x.dtype), **activations)
        # Ones: at init the normalised products are as they are.
        scale = (initializers.ones, (3 * features,)) if layer_norm else None
        return {
            "kernel": (kernel_init, (x.shape[-1], 3 * features)),
            "recurrent_kernel": (recurrent_init, (features, 3 * features)),
            "bias": (bias_init, (3 * features,)) if bias else None,
            # One of r and z would add to bias, and double its learning rate; inside r * (...) it is
            # another term (docs/notes/0004-defaults.md).
            "recurrent_bias": (bias_init, (features,)) if bias and reset_after else None,
            "kernel_scale": scale,
            "recurrent_scale": scale,
        }

    return Cell.of(
        CellDefinition(
            name="gru",
            parameters=parameters,
            carry=rows({"h": features}),
            bind=lambda params, _: gru_cell(
                **params, reset_after=reset_after, clip=clip, **activations
            ),
            scan=fused_scan(gru) if plain else None,
            gates=GRU_GATES,
        )
    )


@factory
def GRU(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    reset_after: bool = True,
    trainable_carry: bool = False,
    layer_norm: bool = False,
    clip: AboveZero | None = None,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """The gated recurrent unit over a sequence: ``RNN(GRUCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GRU(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    return short_form(GRUCell, locals())
