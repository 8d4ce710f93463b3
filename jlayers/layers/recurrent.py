"""What SimpleRNN, LSTM and GRU share: arguments, parameters, and the start of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params

STEPS = "(batch, time, features)"
Run = Callable[..., tuple[jax.Array, jax.Array]]


def recurrent(
    run: Run,
    gates: int,
    features: int,
    *,
    return_sequences: bool,
    reverse: bool,
    bias: bool,
    kernel_init: Initializer,
    recurrent_init: Initializer,
    bias_init: Initializer,
    method: str | None,
    recurrent_bias: bool = False,
    check: Callable[[jax.ShapeDtypeStruct], None] = lambda hidden: None,
) -> Layer:
    """The pair of a recurrent layer.

    Args:
      run: ``run(x, zeros, **params, reverse=reverse, method=method)`` to (outputs, last hidden
        state), with ``zeros`` (batch, features) for what is before the first step.
      gates: how many products of width ``features`` each kernel holds.
      recurrent_bias: whether there is one, (features,), where there are biases.
      check: raises where the hidden state, given as a spec, does not suit the layer; the rest are
        the layers' own arguments.
    """
    features = checks.positive("features", features)
    return_sequences = checks.flag("return_sequences", return_sequences)
    reverse = checks.flag("reverse", reverse)
    bias = checks.flag("bias", bias)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        mend = "Reshape((time, features)) before it; Embedding for ids"
        checks.one_array(x, STEPS, rank=3, lower=mend)
        checks.floating(x)
        checks.not_empty(x, STEPS)
        check(jax.ShapeDtypeStruct((x.shape[0], features), x.dtype))
        return initialize(
            key,
            x,
            kernel=(kernel_init, (x.shape[-1], gates * features)),
            recurrent_kernel=(recurrent_init, (features, gates * features)),
            bias=(bias_init, (gates * features,)) if bias else None,
            recurrent_bias=(bias_init, (features,)) if bias and recurrent_bias else None,
        )

    def apply(params: Params, x: jax.Array) -> Any:
        # Made of a slice, so that they are spread over devices as the batch is: a scan insists
        # on it.
        zeros = jnp.broadcast_to(jnp.zeros_like(x[:, 0, :1]), (x.shape[0], features))
        outputs, last = run(x, zeros, **cast_like(params, x), reverse=reverse, method=method)
        return outputs if return_sequences else last

    return stateless(init, apply)
