"""Mamba: the block of a selective state space."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.chunking import Carry
from ...core.recurrent.linear import last_valid
from ...core.recurrent.mamba import BlockWeights, mamba, mamba_cell
from ...core.recurrent.stepwise import ScanOptions, StepCell
from .activations import Activation, check_functions
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .rnn import short_form
from .state_space import SELECTIVE_FLOAT32, selective_parameters, selective_weights


@factory
def MambaCell(
    state_size: Positive = 16,
    *,
    expand: Positive = 2,
    kernel_size: Positive = 4,
    step_rank: Positive | None = None,
    features: Positive | None = None,
    bias: bool = False,
    conv_bias: bool = True,
    activation: Activation = jax.nn.silu,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of Mamba's block (Gu & Dao, 2023, arXiv:2312.00752), for ``RNN``.

    With ``u, gate = split(x @ in_kernel + in_bias, 2)``, and ``SelectiveSSM`` of D features::

        u = silu(depthwise_causal_conv(u, conv_kernel) + conv_bias)
        y = (SelectiveSSM(u) * silu(gate)) @ out_kernel + out_bias

    Norm and residual are put round it: ``residual(serial(RMSNorm(), Mamba()))``.

    Args:
      state_size: size N of the state of each feature.
      expand: D / features of the input.
      kernel_size: of the convolution, in steps.
      step_rank: R, as for ``SelectiveSSMCell``; features of the input / 16, rounded up, if None.
      features: size F of the output's last axis; that of the input if None.
      bias: whether to add in_bias and out_bias.
      conv_bias: whether to add it.
      activation: elementwise, instead of both silu.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"y": (batch, F), "state": (batch, D, N), "context":
      (batch, kernel_size - 1, D)}, state float32 at least.
      y: (y in the dtype of ``x``, the carry).
      params: those of ``SelectiveSSMCell``, and in_kernel (in, 2 D), conv_kernel
      (kernel_size, 1, D), conv_bias (D,), out_kernel (D, F), in_bias (2 D,), out_bias (F,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.MambaCell(8)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    check_functions(activation=activation)

    def parameters(x: Spec) -> Parameters:
        inputs, outputs = x.shape[-1], features or x.shape[-1]
        width, rank = expand * inputs, step_rank or -(-inputs // 16)
        own: Parameters = {
            "in_kernel": (kernel_init, (inputs, 2 * width)),
            "conv_kernel": (kernel_init, (kernel_size, 1, width)),
            "out_kernel": (kernel_init, (width, outputs)),
            "in_bias": (bias_init, (2 * width,)) if bias else None,
            "conv_bias": (bias_init, (width,)) if conv_bias else None,
            "out_bias": (bias_init, (outputs,)) if bias else None,
        }
        return own | selective_parameters(width, state_size, rank, kernel_init)

    def carry(x: Spec) -> CarrySpecs:
        batch, inputs = x.shape
        width, wide = expand * inputs, at_least_float32(x.dtype)
        specs = {
            "y": Spec((batch, features or inputs), x.dtype),
            "state": Spec((batch, width, state_size), wide),
        }
        if kernel_size > 1:
            specs["context"] = Spec((batch, kernel_size - 1, width), x.dtype)
        return specs

    def weights(params: Params) -> BlockWeights:
        own: dict[str, Any] = {name: params.get(name) for name in BlockWeights._fields[:6]}
        return BlockWeights(**own, inner=selective_weights(params), activation=activation)

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[jax.Array]:
        return mamba_cell(weights(params))

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        if options.zoneout or method is not None or options.resets is not None:
            return None
        outputs, after = mamba(weights(params), x, carry, options)
        return outputs, (last_valid(outputs, carry[0], options), *after)

    return Cell.of(
        CellDefinition(
            name="mamba",
            parameters=parameters,
            carry=carry,
            bind=bind,
            scan=scan,
            float32=SELECTIVE_FLOAT32,
            has_product=False,
        )
    )


@factory
def Mamba(
    state_size: Positive = 16,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    expand: Positive = 2,
    kernel_size: Positive = 4,
    step_rank: Positive | None = None,
    features: Positive | None = None,
    bias: bool = False,
    conv_bias: bool = True,
    activation: Activation = jax.nn.silu,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Mamba's block over a sequence: ``RNN(MambaCell(state_size))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, F), or (batch, F) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Mamba(8), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(MambaCell, locals())
