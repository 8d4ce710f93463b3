"""SelectiveSSM: a state space whose steps the input sets."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.chunking import Carry
from ...core.recurrent.linear import last_valid
from ...core.recurrent.mamba import selective, selective_cell
from ...core.recurrent.stepwise import ScanOptions, StepCell
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .rnn import short_form
from .state_space import SELECTIVE_FLOAT32, selective_parameters, selective_weights


@factory
def SelectiveSSMCell(
    state_size: Positive = 16,
    *,
    step_rank: Positive | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """A step of a selective state space (S6; Gu & Dao, 2023, arXiv:2312.00752), for ``RNN``.

    With ``r, b, c = split(x @ select_kernel, [R, R + N])`` and, for each of D features,
    ``d = softplus(r @ step_kernel + step_bias)`` and ``a = -exp(log_decay)``::

        s' = exp(d * a) * s + d * x * b
        y  = s' @ c + skip * x

    ``RNN`` runs the steps in chunks, in the gradient too, so that no more than a chunk's states are
    in memory; with resets as a plain scan.

    Args:
      state_size: size N of the state of each feature.
      step_rank: R, of the projection to d; D / 16, rounded up, if None.
      kernel_init: of select_kernel, as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, D), floating, and the carry {"y": (batch, D), "state": (batch, D, N)}, the latter
      float32 at least.
      y: (y in the dtype of ``x``, the carry).
      params: select_kernel (D, R + 2 N), step_kernel (R, D), step_bias (D,), log_decay (D, N),
      skip (D,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.SelectiveSSMCell(8)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """

    def parameters(x: Spec) -> Parameters:
        return selective_parameters(x.shape[-1], state_size, step_rank, kernel_init)

    def carry(x: Spec) -> CarrySpecs:
        return {"y": x, "state": Spec((*x.shape, state_size), at_least_float32(x.dtype))}

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[jax.Array]:
        return selective_cell(selective_weights(params))

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        if options.zoneout or method is not None or options.resets is not None:
            return None
        outputs, state = selective(selective_weights(params), x, carry[1], options)
        return outputs, (last_valid(outputs, carry[0], options), state)

    return Cell.of(
        CellDefinition(
            name="selective_ssm",
            parameters=parameters,
            carry=carry,
            bind=bind,
            scan=scan,
            float32=SELECTIVE_FLOAT32,
            has_product=False,
        )
    )


@factory
def SelectiveSSM(
    state_size: Positive = 16,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    step_rank: Positive | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """A selective state space over a sequence: ``RNN(SelectiveSSMCell(state_size))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, D), or (batch, D) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SelectiveSSM(8), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(SelectiveSSMCell, locals())
