"""LinearRecurrence: a diagonal linear recurrence with gates of the input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.specs import Params, format_spec
from .base import Wanted, of_rows, recurrent


def slow_decay(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``sigmoid(decay) ** 8`` uniform between 0.9 and 0.999, as in the paper."""
    kept = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    logarithm = jnp.log(kept) / 8
    return logarithm - jnp.log(-jnp.expm1(logarithm))


@factory
def LinearRecurrence(
    features: int,
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
    """A diagonal linear recurrence ``h' = a * h + b``, from ``h = 0``.

    It is the real-gated linear recurrent unit (RG-LRU) of Griffin (De et al., 2024,
    arXiv:2402.19427) with the linear map that is before it there. With
    ``u = x @ kernel + bias``, ``r, i = split(sigmoid(u @ gate_kernel + gate_bias), 2)`` and
    ``a = sigmoid(decay) ** (8 * r)``::

        h' = a * h + sqrt(1 - a ** 2) * (i * u)

    As ``a`` is between 0 and 1 the state neither grows nor needs to be learned to be kept: at
    first ``sigmoid(decay) ** 8`` lies between 0.9 and 0.999. All steps are taken at once, in
    log2(time) rounds (``jax.lax.associative_scan``). Padding is no step: it leaves h.

    Args:
      features: size H of the hidden state.
      project: False for ``u = x``, an input of H features: the unit alone.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there are biases.
      trainable_carry: h starts from a parameter, zeros at first.
      kernel_init, bias_init, decay_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, time, in), floating; or ``(x, resets)`` with bools (batch, time): before a step
      where they are True, in the order in which steps are taken, h is as at the start.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``; the
      arithmetic is float32 at least.
      params: kernel (in, H), bias (H,), gate_kernel (H, 2 H), gate_bias (2 H,), decay (H,);
      initial_h (H,) if trainable.

    Raises:
      LayerError: without ``project``, for an input of another width.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LinearRecurrence(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    features = arguments.positive("features", features)
    project, bias = arguments.flag("project", project), arguments.flag("bias", bias)

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        if not project and x.shape[-1] != features:
            raise LayerError(
                f"without project the input has {features} features",
                got=format_spec(x),
                hint="project=True",
            )
        return {
            "kernel": (kernel_init, (x.shape[-1], features)) if project else None,
            "bias": (bias_init, (features,)) if project and bias else None,
            "gate_kernel": (kernel_init, (features, 2 * features)),
            "gate_bias": (bias_init, (2 * features,)) if bias else None,
            "decay": (decay_init, (features,)),
        }

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        near_one = {"decay": params["decay"].astype(carry[0].dtype)}
        given = cast_like(params, x) | near_one
        if project:
            x = core.dense(x, given.pop("kernel"), given.pop("bias", None))
        outputs, last = core.rg_lru(x, *carry, **given, course=course)
        return outputs.astype(x.dtype), (last,)

    return recurrent(
        run,
        parameters,
        of_rows({"h": features}, wide=True),
        return_sequences=return_sequences,
        reverse=reverse,
        trainable_carry=trainable_carry,
    )
