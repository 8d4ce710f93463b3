"""IndRNN: a recurrence in which each feature depends on its own past alone."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base.arguments import Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.quasi import ind_rnn_cell
from .activations import Activation, check_elementwise, check_functions
from .cell import Cell, CellDefinition, Parameters, rows
from .rnn import short_form


@factory
def IndRNNCell(
    features: Positive,
    *,
    bias: bool = True,
    activation: Activation = jax.nn.relu,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.uniform(1.0),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``h' = activation(x @ kernel + recurrent_scale * h + bias)``, for ``RNN``.

    The independently recurrent network of Li et al., 2018 (arXiv:1803.04831). Gradients over T
    steps neither vanish nor explode while each ``recurrent_scale ** T`` is of order 1; at init they
    are uniform between 0 and 1.

    Args:
      features: size H of the hidden state.
      bias: whether to add one.
      activation: elementwise.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}.
      y: (h', {"h": h'}), of the dtype of ``x``.
      params: kernel (in, H), recurrent_scale (H,), bias (H,).

    Raises:
      LayerError: for an activation that is not elementwise.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.IndRNNCell(32)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    check_functions(activation=activation)

    def parameters(x: Spec) -> Parameters:
        check_elementwise(Spec((x.shape[0], features), x.dtype), activation=activation)
        return {
            "kernel": (kernel_init, (x.shape[-1], features)),
            "recurrent_scale": (recurrent_init, (features,)),
            "bias": (bias_init, (features,)) if bias else None,
        }

    return Cell.of(
        CellDefinition(
            name="ind_rnn",
            parameters=parameters,
            carry=rows({"h": features}),
            bind=lambda params, _: ind_rnn_cell(**params, activation=activation),
        )
    )


@factory
def IndRNN(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jax.nn.relu,
    trainable_carry: bool = False,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.uniform(1.0),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """The independently recurrent network over a sequence: ``RNN(IndRNNCell(features))``.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.IndRNN(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(IndRNNCell, locals())
