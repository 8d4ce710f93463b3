"""SLSTM: an LSTM with exponential gates, and recurrent products within heads."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.matrix_cells import slstm_cell
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .lstm import forget_one
from .matrix import size_of_head
from .rnn import short_form


@factory
def SLSTMCell(
    features: Positive,
    num_heads: Positive = 1,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = forget_one,
) -> Layer:
    """A step of the sLSTM of xLSTM (Beck et al., 2024, arXiv:2405.04517), for ``RNN``.

    With ``i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias, 4)``, the recurrent products
    within each head::

        c' = sigmoid(f) * c + exp(i) * tanh(g)
        n' = sigmoid(f) * n + exp(i)
        h' = sigmoid(o) * c' / n'

    c and n are kept divided by ``exp(m)``, m being the largest exponent so far, so that nothing
    overflows.

    Args:
      features: size H of the state, all heads together.
      num_heads: number of heads, which divides ``features``.
      bias: whether to add one.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h", "c", "n", "m"}, each (batch, H), all but h
      float32 at least.
      y: (h' in the dtype of ``x``, the carry).
      params: kernel (in, 4 H), recurrent_kernel (num_heads, H / num_heads, 4 H / num_heads),
      bias (4 H,).

    Raises:
      LayerError: for features that the heads do not divide.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.SLSTMCell(32, 4)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    size = size_of_head(num_heads, None, features, hint=None)

    def parameters(x: Spec) -> Parameters:
        return {
            "kernel": (kernel_init, (x.shape[-1], 4 * features)),
            "recurrent_kernel": (recurrent_init, (num_heads, size, 4 * size)),
            "bias": (bias_init, (4 * features,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        shape = (x.shape[0], features)
        wide = dict.fromkeys(("c", "n", "m"), Spec(shape, at_least_float32(x.dtype)))
        return {"h": Spec(shape, x.dtype), **wide}

    return Cell.of(
        CellDefinition(
            name="slstm",
            parameters=parameters,
            carry=carry,
            bind=lambda params, _: slstm_cell(**params),
        )
    )


@factory
def SLSTM(
    features: Positive,
    num_heads: Positive = 1,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = forget_one,
    method: str | None = None,
) -> Layer:
    """The sLSTM over a sequence: ``RNN(SLSTMCell(features, num_heads))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SLSTM(32, 4), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(SLSTMCell, locals())
