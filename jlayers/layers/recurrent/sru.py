"""SRU: the simple recurrent unit."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.recurrent.chunking import Carry
from ...core.recurrent.quasi import SRUInput, sru, sru_cell
from ...core.recurrent.stepwise import ScanOptions, StepCell
from .activations import Activation, check_functions
from .cell import Cell, CellDefinition, Parameters, rows
from .rnn import short_form


@factory
def SRUCell(
    features: Positive,
    *,
    peephole: bool = True,
    bias: bool = True,
    activation: Activation | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    peephole_init: Initializer = initializers.zeros,
) -> Layer:
    """A step of the simple recurrent unit (Lei et al., 2018, arXiv:1709.02755), for ``RNN``.

    With ``n, f, r, s = split(x @ kernel, 4)``, ``b_f, b_r = split(bias, 2)`` and
    ``v_f, v_r = split(peephole, 2)``::

        f  = sigmoid(f + v_f * c + b_f)
        r  = sigmoid(r + v_r * c + b_r)
        c' = f * c + (1 - f) * n
        h' = r * c' + (1 - r) * s

    Where the input has H features, s is the input itself, and the kernel has no part for it.

    Args:
      features: size H of the state.
      peephole: whether the gates depend on c. Without (the first version of the paper) ``RNN``
        runs it as ``MinGRU``.
      bias: whether to add one.
      activation: of c' where it is read; none in the paper's second version, tanh in its first.
      kernel_init, bias_init, peephole_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h", "c"}, each (batch, H) and float32 at least.
      y: (h' in the dtype of ``x``, {"h": h', "c": c'}).
      params: kernel (in, 4 H), or (H, 3 H); bias (2 H,), peephole (2 H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.SRUCell(32)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    if activation is not None:
        check_functions(activation=activation)

    def parameters(x: Spec) -> Parameters:
        parts = 3 if x.shape[-1] == features else 4
        return {
            "kernel": (kernel_init, (x.shape[-1], parts * features)),
            "bias": (bias_init, (2 * features,)) if bias else None,
            "peephole": (peephole_init, (2 * features,)) if peephole else None,
        }

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[SRUInput]:
        return sru_cell(**params, features=features, activation=activation)

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        # The plain scan alone has zoneout, and the choice that method= makes.
        if options.zoneout or method is not None:
            return None
        return sru(bind(params, ("h", "c")), x, carry, options, activation)

    return Cell.of(
        CellDefinition(
            name="sru",
            parameters=parameters,
            carry=rows({"h": features, "c": features}, wide=True),
            bind=bind,
            scan=None if peephole else scan,
            float32=("peephole",) if peephole else (),
            has_product=False,
        )
    )


@factory
def SRU(
    features: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    peephole: bool = True,
    bias: bool = True,
    activation: Activation | None = None,
    trainable_carry: bool = False,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    peephole_init: Initializer = initializers.zeros,
) -> Layer:
    """The simple recurrent unit over a sequence: ``RNN(SRUCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SRU(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(SRUCell, locals())
