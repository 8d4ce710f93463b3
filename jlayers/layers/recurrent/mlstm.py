"""MLSTM: an LSTM whose cell is a matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.matrix_cells import MatrixCell, mlstm_cell
from .cell import CarrySpecs, Cell, Parameters
from .matrix import matrix_definition, size_of_head
from .rnn import short_form


def long_memory(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Zeros for the input gates, and 3 to 6 for the forget gates, as in the paper's code."""
    heads = shape[0] // 2
    return jnp.concatenate([jnp.zeros(heads, dtype), jnp.linspace(3, 6, heads, dtype=dtype)])


@factory
def MLSTMCell(
    features: Positive,
    num_heads: Positive = 1,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    gate_kernel_init: Initializer = initializers.zeros,
    gate_bias_init: Initializer = long_memory,
) -> Layer:
    """A step of the mLSTM of xLSTM (Beck et al., 2024, arXiv:2405.04517), for ``RNN``.

    With ``q, k, v, o = split(x @ kernel + bias, 4)`` and, a number for each head,
    ``i, f = split(x @ gate_kernel + gate_bias, 2)``, in heads of K features::

        C' = sigmoid(f) * C + exp(i) * k v' / sqrt(K)
        n' = sigmoid(f) * n + exp(i) * k / sqrt(K)
        h' = sigmoid(o) * (q C') / max(abs(q n'), 1)

    C and n are kept divided by ``exp(m)``, m being the largest exponent so far, so that nothing
    overflows. ``RNN`` runs the steps in chunks, each as products of matrices.

    Args:
      features: size H of the output, all heads together.
      num_heads: number of heads, which divides ``features``.
      bias: whether to add biases.
      kernel_init, bias_init, gate_kernel_init, gate_bias_init: as in ``jax.nn.initializers``. The
        gates start as numbers: i at 0, and f from 3 to 6, head by head.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H), "state": (batch, num_heads, K,
      K + 1), "m": (batch, num_heads)}, the last two float32 at least; state has C, and n in its
      last column.
      y: (h' in the dtype of ``x``, the carry).
      params: kernel (in, 4 H), bias (4 H,), gate_kernel (in, 2 num_heads), gate_bias
      (2 num_heads,).

    Raises:
      LayerError: for features that the heads do not divide.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.MLSTMCell(32, 4)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    size = size_of_head(num_heads, None, features, hint=None)

    def parameters(x: Spec) -> Parameters:
        return {
            "kernel": (kernel_init, (x.shape[-1], 4 * features)),
            "bias": (bias_init, (4 * features,)) if bias else None,
            "gate_kernel": (gate_kernel_init, (x.shape[-1], 2 * num_heads)),
            "gate_bias": (gate_bias_init, (2 * num_heads,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        batch, wide = x.shape[0], at_least_float32(x.dtype)
        return {
            "h": Spec((batch, features), x.dtype),
            "state": Spec((batch, num_heads, size, size + 1), wide),
            "m": Spec((batch, num_heads), wide),
        }

    def make(params: Params) -> MatrixCell:
        return mlstm_cell(**params, heads=num_heads)

    float32 = ("gate_bias",) if bias else ()
    return Cell.of(matrix_definition("mlstm", parameters, carry, make, float32))


@factory
def MLSTM(
    features: Positive,
    num_heads: Positive = 1,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    gate_kernel_init: Initializer = initializers.zeros,
    gate_bias_init: Initializer = long_memory,
) -> Layer:
    """The mLSTM over a sequence: ``RNN(MLSTMCell(features, num_heads))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MLSTM(32, 4), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(MLSTMCell, locals())
