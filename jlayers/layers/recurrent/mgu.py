"""MGU: the minimal gated unit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import Fraction, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Spec
from ...core.recurrent.cells import mgu_cell
from ...core.recurrent.fused import mgu
from .activations import Activation, check_elementwise, check_functions
from .cell import Cell, CellDefinition, Parameters, fused_scan, rows
from .rnn import short_form


def keep_one(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Ones for the gate, so that the state is kept at first, and zeros for the candidate."""
    half = shape[0] // 2
    return jnp.zeros(shape, dtype).at[:half].set(1)


@factory
def MGUCell(
    features: Positive,
    *,
    reset_gate: bool = True,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = keep_one,
) -> Layer:
    """A step of the minimal gated unit (Zhou et al., 2016, arXiv:1603.09420), for ``RNN``.

    With ``xf, xn = split(x @ kernel + bias, 2)`` and ``hf, hn = split(h @ recurrent_kernel, 2)``::

        f  = sigmoid(xf + hf)
        n  = tanh(xn + f * (hn + recurrent_bias))
        h' = (1 - f) * n + f * h

    That is Flax's form: the gate acts after the product, and f keeps the state, where the paper has
    ``1 - f``.

    Args:
      features: size H of the hidden state.
      reset_gate: False for ``n = tanh(xn + hn)``, without recurrent_bias.
      bias: whether to add biases.
      activation: elementwise, instead of tanh.
      recurrent_activation: elementwise, instead of the sigmoid.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``; recurrent_bias starts
        at zero.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}.
      y: (h', {"h": h'}), of the dtype of ``x``.
      params: kernel (in, 2 H), recurrent_kernel (H, 2 H), bias (2 H,), recurrent_bias (H,).

    Raises:
      LayerError: for an activation that is not elementwise.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.MGUCell(32)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    usual = activation is jnp.tanh and recurrent_activation is jax.nn.sigmoid
    activations: dict[str, Any] = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    check_functions(**activations)

    def parameters(x: Spec) -> Parameters:
        check_elementwise(Spec((x.shape[0], features), x.dtype), **activations)
        recurrent_bias = (initializers.zeros, (features,)) if bias and reset_gate else None
        return {
            "kernel": (kernel_init, (x.shape[-1], 2 * features)),
            "recurrent_kernel": (recurrent_init, (features, 2 * features)),
            "bias": (bias_init, (2 * features,)) if bias else None,
            "recurrent_bias": recurrent_bias,
        }

    return Cell.of(
        CellDefinition(
            name="mgu",
            parameters=parameters,
            carry=rows({"h": features}),
            bind=lambda params, _: mgu_cell(**params, reset_gate=reset_gate, **activations),
            scan=fused_scan(mgu, reset_gate=reset_gate) if usual else None,
        )
    )


@factory
def MGU(
    features: Positive,
    *,
    reset_gate: bool = True,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    trainable_carry: bool = False,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = keep_one,
    method: str | None = None,
) -> Layer:
    """The minimal gated unit over a sequence: ``RNN(MGUCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MGU(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(MGUCell, locals())
