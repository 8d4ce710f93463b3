"""LSTM: long short-term memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import AboveZero, Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import LSTM_GATES, lstm_cell
from ...core.recurrent.fused import lstm
from .activations import Activation, check_elementwise, check_functions
from .cell import Cell, CellDefinition, Parameters, fused_scan, rows
from .rnn import short_form


def forget_one(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Zeros, and ones for the forget gate (Jozefowicz et al., 2015), in the order i, f, g, o."""
    # By initialiser and not in the forward pass: imported weights need no correction
    # (docs/notes/0004-defaults.md).
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1)


@factory
def LSTMCell(
    features: Positive,
    *,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    peephole: bool = False,
    coupled: bool = False,
    projection: Positive | None = None,
    layer_norm: bool = False,
    clip: AboveZero | None = None,
    cell_clip: AboveZero | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
) -> Layer:
    """A step of long short-term memory, for ``RNN``.

    With ``i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Hochreiter & Schmidhuber, 1997; Gers et al., 2000). The forget gate's bias is 1 at init. The
    order of the gates is that of Keras and PyTorch. All options can be combined.

    Args:
      features: size H of the cell, and of the hidden state where there is no projection.
      bias: whether to add one.
      activation: elementwise, instead of both tanh.
      recurrent_activation: elementwise, instead of the sigmoids of the gates i, f and o.
      peephole: ``i + p_i * c``, ``f + p_f * c`` and ``o + p_o * c'`` instead of i, f and o,
        with ``p_i, p_f, p_o = split(peephole, 3)`` (Gers & Schmidhuber, 2000).
      coupled: ``1 - sigmoid(i)`` instead of ``sigmoid(f)`` (ONNX's ``input_forget``). The
        gates are i, g, o, and kernels, bias and peephole (i, o) have no part for f.
      projection: size P of the hidden state, which is ``h' @ projection_kernel`` (Sak et al.,
        2014).
      layer_norm: ``LN(x @ kernel) * kernel_scale + LN(h @ recurrent_kernel) * recurrent_scale +
        bias``, each over all gates, and ``tanh(LN(c') * cell_scale + cell_bias)`` (Ba et al.,
        2016); 1e-5 is added to variances.
      clip: the inputs of the activations of i, f, g and o are clipped to [-clip, clip].
      cell_clip: c' is clipped to [-cell_clip, cell_clip].
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``; that of the kernel is
        the projection's too.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H), "c": (batch, H)}; with a projection
      P instead of H for h.
      y: (h', {"h": h', "c": c'}), of the dtype of ``x``.
      params: kernel (in, 4 H), recurrent_kernel (H, 4 H), bias (4 H,); by option peephole (3 H,),
      projection_kernel (H, P), kernel_scale (4 H,), recurrent_scale (4 H,), cell_scale (H,),
      cell_bias (H,).

    Raises:
      LayerError: for an activation that is not elementwise.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.LSTMCell(32, peephole=True)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    hidden = features if projection is None else projection
    width = (3 if coupled else 4) * features
    if coupled and bias_init is forget_one:
        # There is no forget gate whose bias could be 1.
        bias_init = initializers.zeros
    # The fused algorithm has a gradient written by hand for the plain cell alone.
    usual = activation is jnp.tanh and recurrent_activation is jax.nn.sigmoid
    plain = usual and not (peephole or coupled or layer_norm or projection or clip or cell_clip)
    activations: dict[str, Any] = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    check_functions(**activations)

    def parameters(x: Spec) -> Parameters:
        check_elementwise(Spec((x.shape[0], features), x.dtype), **activations)
        ones, zeros = initializers.ones, initializers.zeros
        found: Parameters = {
            "kernel": (kernel_init, (x.shape[-1], width)),
            "recurrent_kernel": (recurrent_init, (hidden, width)),
            "bias": (bias_init, (width,)) if bias else None,
            # One part less than the gates, as g has none; zeros are the cell without peepholes.
            "peephole": (zeros, (width - features,)) if peephole else None,
            "projection_kernel": (kernel_init, (features, hidden)) if projection else None,
        }
        if layer_norm:
            found |= dict.fromkeys(("kernel_scale", "recurrent_scale"), (ones, (width,)))
            found["cell_scale"] = (ones, (features,))
            found["cell_bias"] = (zeros, (features,)) if bias else None
        return found

    return Cell.of(
        CellDefinition(
            name="lstm",
            parameters=parameters,
            carry=rows({"h": hidden, "c": features}),
            bind=lambda params, _: lstm_cell(
                **params, coupled=coupled, clip=clip, cell_clip=cell_clip, **activations
            ),
            scan=fused_scan(lstm) if plain else None,
            gates=LSTM_GATES,
        )
    )


@factory
def LSTM(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    trainable_carry: bool = False,
    peephole: bool = False,
    coupled: bool = False,
    projection: Positive | None = None,
    layer_norm: bool = False,
    clip: AboveZero | None = None,
    cell_clip: AboveZero | None = None,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
    method: str | None = None,
) -> Layer:
    """Long short-term memory over a sequence: ``RNN(LSTMCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LSTM(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(LSTMCell, locals())
