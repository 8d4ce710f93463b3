"""QRNN: the quasi-recurrent network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_short
from ...base.types import Initializer, Params, Spec
from ...core.recurrent.chunking import Carry
from ...core.recurrent.quasi import QRNNWeights, qrnn, qrnn_cell
from ...core.recurrent.stepwise import ScanOptions, StepCell
from .activations import Activation, check_functions
from .cell import CarrySpecs, Cell, CellDefinition, Parameters, rows
from .rnn import short_form


@factory
def QRNNCell(
    features: Positive,
    window: Positive = 1,
    *,
    pooling: str = "fo",
    bias: bool = True,
    activation: Activation = jnp.tanh,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of the quasi-recurrent network (Bradbury et al., 2017, arXiv:1611.01576), for ``RNN``.

    With ``z, f, o, i = split(conv(x, kernel) + bias, 4)``, a causal convolution over time::

        c' = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(z)
        h' = sigmoid(o) * c'

    As the gates do not depend on h, ``RNN`` computes them for all steps at once, as
    for ``MinGRU``, unless there are resets.

    Args:
      features: size H of the state.
      window: how many steps the convolution reads: this one and those before it.
      pooling: ``"fo"`` as above; ``"f"`` without o, ``h' = c'``; ``"ifo"`` with ``sigmoid(i)``
        instead of ``1 - sigmoid(f)``.
      bias: whether to add one.
      activation: instead of tanh.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h", "c"}, each (batch, H) and float32 at least, and
      for windows of several steps "context" (batch, window - 1, in).
      y: (h' in the dtype of ``x``, the carry).
      params: kernel (window, in, P H), bias (P H,), with P = 2, 3, 4 for f, fo, ifo.

    Raises:
      LayerError: for another pooling.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.QRNNCell(32, 2)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    if pooling not in ("f", "fo", "ifo"):
        raise LayerError(
            f"pooling must be 'f', 'fo' or 'ifo', got {format_short(pooling)}",
        )
    check_functions(activation=activation)
    width = (len(pooling) + 1) * features

    def parameters(x: Spec) -> Parameters:
        return {
            "kernel": (kernel_init, (window, x.shape[-1], width)),
            "bias": (bias_init, (width,)) if bias else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        specs = rows({"h": features, "c": features}, wide=True)(x)
        if window > 1:
            specs["context"] = Spec((x.shape[0], window - 1, x.shape[-1]), x.dtype)
        return specs

    def weights(params: Params) -> QRNNWeights:
        return QRNNWeights(params["kernel"], params.get("bias"), activation)

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[jax.Array]:
        return qrnn_cell(weights(params), pooling)

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        # A reset would end the windows too.
        if options.zoneout or method is not None or options.resets is not None:
            return None
        return qrnn(weights(params), pooling, x, carry, options)

    return Cell.of(
        CellDefinition(
            name="qrnn",
            parameters=parameters,
            carry=carry,
            bind=bind,
            scan=scan,
            has_product=False,
        )
    )


@factory
def QRNN(
    features: Positive,
    window: Positive = 1,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    pooling: str = "fo",
    bias: bool = True,
    activation: Activation = jnp.tanh,
    trainable_carry: bool = False,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """The quasi-recurrent network over a sequence: ``RNN(QRNNCell(features, window))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.QRNN(32, 2), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(QRNNCell, locals())
