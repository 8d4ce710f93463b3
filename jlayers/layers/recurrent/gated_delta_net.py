"""GatedDeltaNet: a matrix of associations that is corrected and forgotten."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import AboveZero, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.matrix_cells import DeltaWeights, MatrixCell, gated_delta_cell
from .cell import CarrySpecs, Cell, Parameters
from .matrix import matrix_definition, size_of_head
from .rnn import short_form
from .state_space import step_sizes


def log_up_to_16(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Logarithms of numbers between 1 and 16, uniform before the logarithm."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


@factory
def GatedDeltaNetCell(
    num_heads: Positive,
    *,
    head_dim: Positive | None = None,
    value_dim: Positive | None = None,
    features: Positive | None = None,
    kernel_size: Positive | None = 4,
    epsilon: AboveZero = 1e-6,
    kernel_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """A step of the gated delta rule (Yang et al., 2024, arXiv:2412.06464), for ``RNN``.

    With ``q, k, v = split(silu(depthwise_causal_conv(x @ kernel, conv_kernel)))`` in heads, q and k
    of length 1, and, a number for each head, ``b = sigmoid(x @ write_kernel)`` and
    ``a = exp(-exp(log_decay) * softplus(x @ decay_kernel + step_bias))``::

        S' = a * S + b * k (v - k (a * S))'
        y  = q S' / sqrt(head_dim)

    The output is ``(RMSNorm(y) * scale * silu(x @ gate_kernel)) @ out_kernel``, the norm within
    each head. ``RNN`` runs the steps in chunks, each as products of matrices.

    Args:
      num_heads: number of heads.
      head_dim: features K of a query and a key; those of the input / ``num_heads`` if None.
      value_dim: features V of a value; ``head_dim`` if None.
      features: size F of the output's last axis; that of the input if None.
      kernel_size: of the convolution, in steps, at least 2; None for no convolution and no silu.
      epsilon: added to the mean of squares by the norm.
      kernel_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"y": (batch, F), "state": (batch, num_heads, K, V),
      "context": (batch, kernel_size - 1, num_heads (2 K + V))}, state float32 at least.
      y: (y in the dtype of ``x``, the carry).
      params: kernel (in, num_heads (2 K + V)), conv_kernel (kernel_size, 1, num_heads (2 K + V)),
      write_kernel and decay_kernel (in, num_heads), step_bias and log_decay (num_heads,),
      gate_kernel (in, num_heads V), scale (V,), out_kernel (num_heads V, F).

    Raises:
      LayerError: for features that the heads do not divide, without ``head_dim``; for a
        ``kernel_size`` of 1.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.GatedDeltaNetCell(4)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    if kernel_size == 1:
        raise LayerError("kernel_size must be at least 2, got 1", hint="kernel_size=None")

    def sizes(x: Spec) -> tuple[int, int, int]:
        """K, V, and the width of all queries, keys and values."""
        size = size_of_head(num_heads, head_dim, x.shape[-1])
        return size, value_dim or size, num_heads * (2 * size + (value_dim or size))

    def parameters(x: Spec) -> Parameters:
        inputs, (_, values, width) = x.shape[-1], sizes(x)
        convolved = (kernel_init, (kernel_size, 1, width)) if kernel_size else None
        return {
            "kernel": (kernel_init, (inputs, width)),
            "conv_kernel": convolved,
            "write_kernel": (kernel_init, (inputs, num_heads)),
            "decay_kernel": (kernel_init, (inputs, num_heads)),
            "step_bias": (step_sizes, (num_heads,)),
            "log_decay": (log_up_to_16, (num_heads,)),
            "gate_kernel": (kernel_init, (inputs, num_heads * values)),
            "scale": (initializers.ones, (values,)),
            "out_kernel": (kernel_init, (num_heads * values, features or inputs)),
        }

    def carry(x: Spec) -> CarrySpecs:
        (batch, inputs), (size, values, width) = x.shape, sizes(x)
        specs = {
            "y": Spec((batch, features or inputs), x.dtype),
            "state": Spec((batch, num_heads, size, values), at_least_float32(x.dtype)),
        }
        if kernel_size:
            specs["context"] = Spec((batch, kernel_size - 1, width), x.dtype)
        return specs

    def make(params: Params) -> MatrixCell:
        given: dict[str, Any] = {name: params.get(name) for name in DeltaWeights._fields}
        values = params["scale"].shape[0]
        size = (params["kernel"].shape[1] // num_heads - values) // 2
        return gated_delta_cell(DeltaWeights(**given), num_heads, size, epsilon)

    float32 = ("step_bias", "log_decay", "scale")
    return Cell.of(matrix_definition("gated_delta_net", parameters, carry, make, float32))


@factory
def GatedDeltaNet(
    num_heads: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    head_dim: Positive | None = None,
    value_dim: Positive | None = None,
    features: Positive | None = None,
    kernel_size: Positive | None = 4,
    epsilon: AboveZero = 1e-6,
    kernel_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """The gated delta rule over a sequence: ``RNN(GatedDeltaNetCell(num_heads))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, F), or (batch, F) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GatedDeltaNet(4), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(GatedDeltaNetCell, locals())
