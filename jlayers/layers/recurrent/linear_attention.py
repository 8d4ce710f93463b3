"""LinearAttention: attention whose scores are products of features."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from ...base.arguments import NonNegative, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.matrix_cells import (
    LinearAttentionWeights,
    MatrixCell,
    linear_attention_cell,
)
from .activations import Activation, check_functions
from .cell import CarrySpecs, Cell, Parameters
from .matrix import matrix_definition, size_of_head
from .rnn import short_form


def elu_plus_one(values: jax.Array) -> jax.Array:
    return jax.nn.elu(values) + 1


@factory
def LinearAttentionCell(
    num_heads: Positive,
    *,
    head_dim: Positive | None = None,
    features: Positive | None = None,
    feature_map: Activation = elu_plus_one,
    epsilon: NonNegative = 1e-6,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of causal linear attention, for ``RNN`` (Katharopoulos et al., 2020).

    arXiv:2006.16236. With queries, keys and values as in ``SelfAttention``, in each head::

        S' = S + phi(k) v'
        z' = z + phi(k)
        y  = phi(q) S' / (phi(q) z' + epsilon)

    and the heads' outputs, side by side, ``@ out_kernel + out_bias``. ``RNN`` runs the steps in
    chunks, each as products of matrices; its cost grows with the number of steps, and not with its
    square.

    Args:
      num_heads: number of heads.
      head_dim: features of a head; those of the input / ``num_heads`` if None.
      features: size F of the output's last axis; that of the input if None.
      feature_map: phi, of (..., head_dim), with positive values; ``elu(v) + 1`` by default.
      epsilon: added to the denominator.
      bias: whether the four projections have one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"y": (batch, F), "state": (batch, num_heads, K,
      head_dim + 1)}, float32 at least, where K is what phi makes of head_dim; the last column is z.
      y: (y in the dtype of ``x``, the carry).
      params: query_kernel, key_kernel, value_kernel (in, num_heads * head_dim), out_kernel
      (num_heads * head_dim, F), query_bias, key_bias, value_bias, out_bias.

    Raises:
      LayerError: for features that the heads do not divide, without ``head_dim``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.LinearAttentionCell(4)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    check_functions(feature_map=feature_map)

    def parameters(x: Spec) -> Parameters:
        inputs, outputs = x.shape[-1], features or x.shape[-1]
        width = num_heads * size_of_head(num_heads, head_dim, inputs)
        found: Parameters = {"out_kernel": (kernel_init, (width, outputs))}
        for name in ("query", "key", "value"):
            found[f"{name}_kernel"] = (kernel_init, (inputs, width))
            found[f"{name}_bias"] = (bias_init, (width,)) if bias else None
        found["out_bias"] = (bias_init, (outputs,)) if bias else None
        return found

    def carry(x: Spec) -> CarrySpecs:
        batch, inputs = x.shape
        size, wide = size_of_head(num_heads, head_dim, inputs), at_least_float32(x.dtype)
        mapped = jax.eval_shape(feature_map, Spec((batch, num_heads, size), wide)).shape[-1]
        state = Spec((batch, num_heads, mapped, size + 1), wide)
        return {"y": Spec((batch, features or inputs), x.dtype), "state": state}

    def make(params: Params) -> MatrixCell:
        given: dict[str, Any] = {name: params.get(name) for name in LinearAttentionWeights._fields}
        return linear_attention_cell(
            LinearAttentionWeights(**given), num_heads, feature_map, epsilon
        )

    return Cell.of(matrix_definition("linear_attention", parameters, carry, make))


@factory
def LinearAttention(
    num_heads: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    head_dim: Positive | None = None,
    features: Positive | None = None,
    feature_map: Activation = elu_plus_one,
    epsilon: NonNegative = 1e-6,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Causal linear attention: ``RNN(LinearAttentionCell(num_heads))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, F), or (batch, F) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LinearAttention(4), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(LinearAttentionCell, locals())
