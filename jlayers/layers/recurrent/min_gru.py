"""MinGRU: a gated recurrence whose gate does not wait for the step before."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.specs import Params
from .base import Wanted, of_rows, recurrent


@factory
def MinGRU(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    trainable_carry: bool = False,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """The minimal GRU of Feng et al., 2024 (arXiv:2410.01201), from ``h = 0``.

    With ``z, n = split(x @ kernel + bias, 2)``::

        h' = (1 - sigmoid(z)) * h + sigmoid(z) * n

    Nothing but h itself waits for the step before, so that all steps are taken at once, in
    log2(time) rounds (``jax.lax.associative_scan``). Padding is no step: it leaves h.

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      trainable_carry: h starts from a parameter, zeros at first.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, time, in), floating; or ``(x, resets)`` with bools (batch, time): before a step
      where they are True, in the order in which steps are taken, h is as at the start.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``; the
      arithmetic is float32 at least.
      params: kernel (in, 2 H), bias (2 H,); initial_h (H,) if trainable.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MinGRU(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    features = arguments.positive("features", features)
    bias = arguments.flag("bias", bias)

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        return {
            "kernel": (kernel_init, (x.shape[-1], 2 * features)),
            "bias": (bias_init, (2 * features,)) if bias else None,
        }

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        outputs, last = core.min_gru(x, *carry, **cast_like(params, x), course=course)
        return outputs.astype(x.dtype), (last,)

    return recurrent(
        run,
        parameters,
        of_rows({"h": features}, wide=True),
        return_sequences=return_sequences,
        reverse=reverse,
        trainable_carry=trainable_carry,
    )
