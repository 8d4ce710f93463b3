"""SimpleRNN: the plain recurrence."""

from __future__ import annotations

import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import AboveZero, Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import simple_rnn_cell
from ...core.recurrent.fused import simple_rnn
from .activations import Activation, check_elementwise, check_functions
from .cell import Cell, CellDefinition, Parameters, fused_scan, rows
from .rnn import short_form


@factory
def SimpleRNNCell(
    features: Positive,
    *,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    layer_norm: bool = False,
    clip: AboveZero | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    # It keeps the length of h over many steps; as in Keras (docs/notes/0004-defaults.md).
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``h' = activation(x @ kernel + h @ recurrent_kernel + bias)`` (Elman, 1990), for ``RNN``.

    Args:
      features: size H of the hidden state.
      bias: whether to add one.
      activation: elementwise.
      layer_norm: ``LN(x @ kernel + h @ recurrent_kernel) * scale + bias`` (Ba et al., 2016); 1e-5
        is added to the variance.
      clip: the input of the activation is clipped to [-clip, clip].
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}.
      y: (h', {"h": h'}), of the dtype of ``x``.
      params: kernel (in, H), recurrent_kernel (H, H), bias (H,); by option scale (H,).

    Raises:
      LayerError: for an activation that is not elementwise.

    >>> import jax, jlayers as jl
    >>> layer = jl.RNN(jl.SimpleRNNCell(32, activation=jax.nn.relu))
    >>> jl.out_spec(layer, jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    check_functions(activation=activation)
    # Other steps have no gradient written by hand: they run in a plain scan.
    plain = not layer_norm and clip is None

    def parameters(x: Spec) -> Parameters:
        check_elementwise(Spec((x.shape[0], features), x.dtype), activation=activation)
        return {
            "kernel": (kernel_init, (x.shape[-1], features)),
            "recurrent_kernel": (recurrent_init, (features, features)),
            "bias": (bias_init, (features,)) if bias else None,
            "scale": (initializers.ones, (features,)) if layer_norm else None,
        }

    return Cell.of(
        CellDefinition(
            name="simple_rnn",
            parameters=parameters,
            carry=rows({"h": features}),
            bind=lambda params, _: simple_rnn_cell(**params, activation=activation, clip=clip),
            scan=fused_scan(simple_rnn, activation=activation) if plain else None,
        )
    )


@factory
def SimpleRNN(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jnp.tanh,
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
    """The plain recurrence over a sequence: ``RNN(SimpleRNNCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SimpleRNN(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    return short_form(SimpleRNNCell, locals())
