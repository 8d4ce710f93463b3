"""LinearRecurrence: a diagonal linear recurrence with gates that depend on the input alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...base.types import Initializer, Params, Spec
from ...core.dense import dense
from ...core.recurrent.linear import Coefficients, rg_lru_cell
from ...core.recurrent.stepwise import StepCell
from .cell import Cell, CellDefinition, Parameters, check_features, linear_scan_of, rows
from .rnn import short_form


def slow_decay(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """``sigmoid(decay) ** 8`` uniform between 0.9 and 0.999, as in the paper."""
    decay = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    # 8 is the constant c of the paper, in the exponent of a.
    logarithm = jnp.log(decay) / 8
    # The inverse of log_sigmoid: log(p) - log(1 - p).
    return logarithm - jnp.log(-jnp.expm1(logarithm))


@factory
def LinearRecurrenceCell(
    features: Positive,
    *,
    project: bool = True,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    decay_init: Initializer = slow_decay,
) -> Layer:
    """A step of a diagonal linear recurrence ``h' = a * h + b``, for ``RNN``.

    It is the real-gated linear recurrent unit (RG-LRU) of Griffin (De et al., 2024,
    arXiv:2402.19427) with the linear map that precedes it there. With
    ``u = x @ kernel + bias``, ``r, i = split(sigmoid(u @ gate_kernel + gate_bias), 2)`` and
    ``a = sigmoid(decay) ** (8 * r)``::

        h' = a * h + sqrt(1 - a ** 2) * (i * u)

    As ``a`` is between 0 and 1 the state cannot grow without bound, and at init, where
    ``sigmoid(decay) ** 8`` lies between 0.9 and 0.999, it decays slowly. The gates do not
    depend on h, as in ``MinGRU``.

    Args:
      features: size H of the hidden state.
      project: False for ``u = x``, an input of H features: the unit alone.
      bias: whether to add biases.
      kernel_init, bias_init, decay_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"h": (batch, H)}, which is float32 at least.
      y: (h' in the dtype of ``x``, {"h": h'}).
      params: kernel (in, H), bias (H,), gate_kernel (H, 2 H), gate_bias (2 H,), decay (H,).

    Raises:
      LayerError: without ``project``, for an input of another width.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.LinearRecurrenceCell(32)), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """

    def check(x: Any, leading: str) -> None:
        check_features(x, leading)
        # The gates scale the input element by element: it must be as wide as h.
        if not project and x.shape[-1] != features:
            raise LayerError(
                f"without project the input must have {features} features",
                got=format_spec(x),
                hint="project=True",
            )

    def parameters(x: Spec) -> Parameters:
        return {
            "kernel": (kernel_init, (x.shape[-1], features)) if project else None,
            "bias": (bias_init, (features,)) if project and bias else None,
            "gate_kernel": (kernel_init, (features, 2 * features)),
            "gate_bias": (bias_init, (2 * features,)) if bias else None,
            "decay": (decay_init, (features,)),
        }

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[Coefficients]:
        unit = dict(params)
        kernel, bias = (unit.pop(name, None) if project else None for name in ("kernel", "bias"))
        cell = rg_lru_cell(**unit)
        if kernel is None:
            return cell
        return cell._replace(project=lambda x: cell.project(dense(x, kernel, bias)))

    return Cell.of(
        CellDefinition(
            name="rg_lru",
            parameters=parameters,
            carry=rows({"h": features}, wide=True),
            bind=bind,
            scan=linear_scan_of(bind),
            check=check,
            # In bfloat16 a slow decay would round to none.
            float32=("decay",),
            has_product=False,
        )
    )


@factory
def LinearRecurrence(
    features: Positive,
    *,
    project: bool = True,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    trainable_carry: bool = False,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    decay_init: Initializer = slow_decay,
) -> Layer:
    """A diagonal recurrence over a sequence: ``RNN(LinearRecurrenceCell(features))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LinearRecurrence(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    return short_form(LinearRecurrenceCell, locals())
