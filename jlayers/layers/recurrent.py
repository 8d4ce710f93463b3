"""What SimpleRNN, LSTM and GRU share: arguments, parameters, and the start of a sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..layer import Layer
from ..masking import Takes
from ..parameters import Initializer, cast_like, initialize
from ..reach import CAUSAL, Reach
from ..sequence import join, split
from ..specs import Params, State
from ..streams import Carry, Stream, of_step

STEPS = "(batch, time, features)"
Run = Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]


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
    carries: tuple[str, ...] = ("h",),
    recurrent_bias: bool = False,
    check: Callable[[jax.ShapeDtypeStruct], None] = lambda hidden: None,
) -> Layer:
    """The pair of a recurrent layer.

    Args:
      run: ``run(x, carry, **params, reverse=reverse, method=method, mask=mask)`` to (outputs,
        carry after the last step), the carry being a tuple of arrays (batch, features).
      gates: how many products of width ``features`` each kernel holds.
      carries: their names, that of the output first.
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

    def start(params: Params, state: State, x: Any, *, capacity: int | None) -> Carry:
        return {name: jnp.zeros((x.shape[0], features), x.dtype) for name in carries}

    def step(
        params: Params, state: State, carry: Carry | None, x: Any, *, key: Any, train: bool
    ) -> tuple[Any, Carry]:
        values, mask = split(x)
        if carry is None:
            # Made of a slice, so that they are spread over devices as the batch is: a scan insists
            # on it.
            zeros = jnp.broadcast_to(jnp.zeros_like(values[:, 0, :1]), (len(values), features))
            carry = dict.fromkeys(carries, zeros)
        outputs, after = run(
            values,
            tuple(carry[name] for name in carries),
            **cast_like(params, values),
            reverse=reverse,
            method=method,
            mask=mask,
        )
        y = join(outputs, mask) if return_sequences else after[0]
        return y, dict(zip(carries, after, strict=True))

    unstreamed = "it reads the sequence from its end" if reverse else None
    if not return_sequences:
        unstreamed = "it gives the last step alone"
    return Layer(
        lambda key, x: (init(key, x), {}),
        of_step(step),
        takes=Takes("own", lambda x: Reach(1, 0, math.inf) if reverse else CAUSAL),
        stream=unstreamed or Stream(start, step),
    )
