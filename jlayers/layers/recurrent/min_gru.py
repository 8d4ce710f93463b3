"""MinGRU: a gated recurrence whose gate depends on the input alone."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.recurrent.linear import Coefficients, min_gru_cell
from ...core.recurrent.stepwise import StepCell
from .activations import Activation, check_functions
from .cell import Cell, CellDefinition, Parameters, linear_scan_of, rows
from .rnn import short_form


@factory
def MinGRUCell(
    features: Positive,
    *,
    bias: bool = True,
    activation: Activation | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of the minimal GRU of Feng et al., 2024 (arXiv:2410.01201), for ``RNN``.

    With ``z, n = split(x @ kernel + bias, 2)``::

        h' = (1 - sigmoid(z)) * h + sigmoid(z) * n

    As the gates do not depend on h, ``RNN`` computes them for all steps at once, and then h: on CPU
    step by step, elsewhere in log2(time) rounds (``jax.lax.associative_scan``).

    Args:
      features: size H of the hidden state.
      bias: whether to add one.
      activation: of n; the paper's log-space form has
        ``lambda v: jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v))``.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}, which is float32 at least.
      y: (h' in the dtype of ``x``, {"h": h'}).
      params: kernel (in, 2 H), bias (2 H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.MinGRUCell(32)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    if activation is not None:
        check_functions(activation=activation)

    def parameters(x: Spec) -> Parameters:
        return {
            "kernel": (kernel_init, (x.shape[-1], 2 * features)),
            "bias": (bias_init, (2 * features,)) if bias else None,
        }

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[Coefficients]:
        return min_gru_cell(**params, activation=activation)

    return Cell.of(
        CellDefinition(
            name="min_gru",
            parameters=parameters,
            # In bfloat16 h would not move for small updates.
            carry=rows({"h": features}, wide=True),
            bind=bind,
            # The gates do not read h, so that steps combine in any grouping.
            scan=linear_scan_of(bind),
            has_product=False,
        )
    )


@factory
def MinGRU(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation | None = None,
    trainable_carry: bool = False,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """The minimal GRU over a sequence: ``RNN(MinGRUCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MinGRU(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(MinGRUCell, locals())
