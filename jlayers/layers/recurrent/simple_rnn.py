"""SimpleRNN: the plain recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.errors import LayerError, calling_user_code
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.specs import Params, format_spec, specs_of
from .base import (
    Wanted,
    bound,
    of_rows,
    recurrent,
)


@factory
def SimpleRNN(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    trainable_carry: bool = False,
    layer_norm: bool = False,
    clip: float | None = None,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``h' = activation(x @ kernel + h @ recurrent_kernel + bias)``, from ``h = 0`` (Elman, 1990).

    Padding is no step: it leaves h. With an option other than ``trainable_carry``, or with resets,
    it is a plain scan, which is slower.

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      activation: elementwise.
      trainable_carry: h starts from a parameter, zeros at first.
      layer_norm: ``LN(x @ kernel + h @ recurrent_kernel) * scale + bias`` (Ba et al., 2016); 1e-5
        is added to the variance.
      clip: what goes into the activation is cut to [-clip, clip].
      zoneout: in training each value of h stays as it was with this probability; else the new one
        is the mean of both cases (Krueger et al., 2017).
      recurrent_dropout: in training each value of h is dropped with this probability where it
        meets the recurrent kernel, the same ones in all steps (Gal & Ghahramani, 2016). In a
        stream they are drawn from the key of each block: the same key, the same mask.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating; or ``(x, resets)`` with bools (batch, time): before a step
      where they are True, in the order in which steps are taken, h is as at the start.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.
      params: kernel (in, H), recurrent_kernel (H, H), bias (H,); as options ask, initial_h (H,),
      scale (H,).

    Raises:
      LayerError: for ``train=True`` without a key, with zoneout or dropout.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SimpleRNN(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    features = arguments.positive("features", features)
    bias, layer_norm = arguments.flag("bias", bias), arguments.flag("layer_norm", layer_norm)
    clip = bound("clip", clip)
    arguments.function("activation", activation, "x")
    fast = not layer_norm and clip is None

    def elementwise(hidden: jax.ShapeDtypeStruct) -> None:
        with calling_user_code("activation"):
            y = jax.eval_shape(activation, hidden)
        if specs_of(y) != hidden:
            raise LayerError(
                "activation is not elementwise", expected=format_spec(hidden), got=format_spec(y)
            )

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        elementwise(jax.ShapeDtypeStruct((x.shape[0], features), x.dtype))
        return {
            "kernel": (kernel_init, (x.shape[-1], features)),
            "recurrent_kernel": (recurrent_init, (features, features)),
            "bias": (bias_init, (features,)) if bias else None,
            "scale": (initializers.ones, (features,)) if layer_norm else None,
        }

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        params = cast_like(params, x)
        if fast and course.plain:
            return core.simple_rnn(
                x,
                carry,
                **params,
                activation=activation,
                reverse=course.reverse,
                method=method,
                mask=course.mask,
            )
        cell = core.simple_rnn_cell(**params, activation=activation, clip=clip)
        return core.stepwise(cell, x, carry, course, method=method, name="simple_rnn")

    return recurrent(
        run,
        parameters,
        of_rows({"h": features}),
        return_sequences=return_sequences,
        reverse=reverse,
        trainable_carry=trainable_carry,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
    )
