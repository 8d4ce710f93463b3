"""Mamba2: a selective state space whose decay is one number for each head."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base import arguments
from ...base.arguments import AboveZero, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.matrix_cells import Mamba2Weights, MatrixCell, mamba2_cell
from .cell import CarrySpecs, Cell, Parameters
from .matrix import matrix_definition
from .rnn import short_form
from .state_space import step_sizes


def log_of_heads(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """The logarithms of 1, 2, 3, ..."""
    return jnp.log(jnp.arange(1, shape[0] + 1, dtype=dtype))


@factory
def Mamba2Cell(
    state_size: Positive = 128,
    *,
    head_dim: Positive = 64,
    expand: Positive = 2,
    num_groups: Positive = 1,
    kernel_size: Positive = 4,
    features: Positive | None = None,
    bias: bool = False,
    conv_bias: bool = True,
    epsilon: AboveZero = 1e-5,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of Mamba-2's block (Dao & Gu, 2024, arXiv:2405.21060), for ``RNN``.

    With ``gate, u, d = split(x @ in_kernel + in_bias)``,
    ``v, b, c = split(silu(depthwise_causal_conv(u, conv_kernel) + conv_bias))`` in heads of P
    features and, a number for each head, ``d = softplus(d + step_bias)``::

        S' = exp(-d * exp(log_decay)) * S + d * b v'
        y  = c S' + skip * v

    The output is ``(RMSNorm(y * silu(gate)) * scale) @ out_kernel + out_bias``. ``RNN`` runs the
    steps in chunks, each as products of matrices.

    Args:
      state_size: N, of b and c.
      head_dim: P; the ``expand * in`` features D have D / P heads.
      expand: D / features of the input.
      num_groups: of heads that share b and c, and of features that are normalised together.
      kernel_size: of the convolution, in steps, at least 2.
      features: size F of the output's last axis; that of the input if None.
      bias: whether to add in_bias and out_bias.
      conv_bias: whether to add it.
      epsilon: added to the mean of squares by the norm.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"y": (batch, F), "state": (batch, D / P, N, P),
      "context": (batch, kernel_size - 1, D + 2 num_groups N)}, state float32 at least.
      y: (y in the dtype of ``x``, the carry).
      params: in_kernel (in, 2 D + 2 num_groups N + D / P), conv_kernel (kernel_size, 1,
      D + 2 num_groups N), conv_bias, step_bias, log_decay, skip (D / P,), scale (D,),
      out_kernel (D, F), in_bias, out_bias.

    Raises:
      LayerError: where heads do not divide D, or groups the heads; for a ``kernel_size`` of 1.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.Mamba2Cell(16, head_dim=8)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    arguments.integer("kernel_size", kernel_size, 2)

    def sizes(x: Spec) -> tuple[int, int, int]:
        """D, the number of heads, and what is convolved."""
        width = expand * x.shape[-1]
        if width % head_dim:
            raise LayerError(
                f"heads of {head_dim} features do not divide {width}", hint="head_dim=..."
            )
        heads = width // head_dim
        if heads % num_groups:
            raise LayerError(f"{num_groups} groups do not divide {heads} heads")
        return width, heads, width + 2 * num_groups * state_size

    def parameters(x: Spec) -> Parameters:
        inputs, outputs = x.shape[-1], features or x.shape[-1]
        width, heads, mixed = sizes(x)
        return {
            "in_kernel": (kernel_init, (inputs, width + mixed + heads)),
            "in_bias": (bias_init, (width + mixed + heads,)) if bias else None,
            "conv_kernel": (kernel_init, (kernel_size, 1, mixed)),
            "conv_bias": (bias_init, (mixed,)) if conv_bias else None,
            "step_bias": (step_sizes, (heads,)),
            "log_decay": (log_of_heads, (heads,)),
            "skip": (initializers.ones, (heads,)),
            "scale": (initializers.ones, (width,)),
            "out_kernel": (kernel_init, (width, outputs)),
            "out_bias": (bias_init, (outputs,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        (batch, inputs), (_, heads, mixed) = x.shape, sizes(x)
        state = Spec((batch, heads, state_size, head_dim), at_least_float32(x.dtype))
        context = Spec((batch, kernel_size - 1, mixed), x.dtype)
        y = Spec((batch, features or inputs), x.dtype)
        return {"y": y, "state": state, "context": context}

    def make(params: Params) -> MatrixCell:
        given: dict[str, Any] = {name: params.get(name) for name in Mamba2Weights._fields}
        return mamba2_cell(Mamba2Weights(**given), state_size, num_groups, epsilon)

    float32 = ("step_bias", "log_decay", "skip", "scale")
    return Cell.of(matrix_definition("mamba2", parameters, carry, make, float32))


@factory
def Mamba2(
    state_size: Positive = 128,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    head_dim: Positive = 64,
    expand: Positive = 2,
    num_groups: Positive = 1,
    kernel_size: Positive = 4,
    features: Positive | None = None,
    bias: bool = False,
    conv_bias: bool = True,
    epsilon: AboveZero = 1e-5,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Mamba-2's block over a sequence: ``RNN(Mamba2Cell(state_size))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, F), or (batch, F) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Mamba2(16, head_dim=8), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(Mamba2Cell, locals())
