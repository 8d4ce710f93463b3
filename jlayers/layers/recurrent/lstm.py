"""LSTM: long short-term memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.specs import Params
from .base import (
    Wanted,
    bound,
    of_rows,
    recurrent,
)


def forget_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Zeros, and ones for the forget gate (Jozefowicz et al., 2015), in the order i, f, g, o."""
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1)


@factory
def LSTM(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    trainable_carry: bool = False,
    peephole: bool = False,
    coupled: bool = False,
    projection: int | None = None,
    layer_norm: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    recurrent_init: Initializer = initializers.orthogonal(),
    bias_init: Initializer = forget_one,
    method: str | None = None,
) -> Layer:
    """Long short-term memory over a whole sequence, from ``h = c = 0``.

    With ``i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias, 4)``::

        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    (Hochreiter & Schmidhuber, 1997; Gers et al., 2000). The forget gate's bias starts at 1. The
    order of the gates is that of Keras and PyTorch. Padding is no step: it leaves h and c.

    With an option other than ``trainable_carry``, or with resets, it is a plain scan, which is
    slower. They go together, each where it stands in the formulas.

    Args:
      features: size H of the cell, and of the hidden state where there is no projection.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there is one.
      trainable_carry: h and c start from parameters, zeros at first.
      peephole: ``i + p_i * c``, ``f + p_f * c`` and ``o + p_o * c'`` in the place of i, f and o,
        with ``p_i, p_f, p_o = split(peephole, 3)`` (Gers & Schmidhuber, 2000).
      coupled: the input gate stays, and ``1 - sigmoid(i)`` takes the place of ``sigmoid(f)``
        (ONNX's ``input_forget``). The gates are i, g, o, and kernels, bias and peephole (i, o)
        have no part for f.
      projection: size P of the hidden state, which is ``h' @ projection_kernel`` (Sak et al.,
        2014).
      layer_norm: ``LN(x @ kernel) * kernel_scale + LN(h @ recurrent_kernel) * recurrent_scale +
        bias``, each over all gates, and ``tanh(LN(c') * cell_scale + cell_bias)`` (Ba et al.,
        2016); 1e-5 is added to variances.
      clip: what goes into the activations of i, f, g and o is cut to [-clip, clip].
      cell_clip: c' is cut to [-cell_clip, cell_clip].
      zoneout: in training each value of h and c stays as it was with this probability; else the
        new one is the mean of both cases (Krueger et al., 2017).
      recurrent_dropout: in training each value of h is dropped with this probability where it
        meets the recurrent kernel, the same ones in all steps (Gal & Ghahramani, 2016). In a
        stream they are drawn from the key of each block: the same key, the same mask.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``; that of the kernel is
        the projection's too.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating; or ``(x, resets)`` with bools (batch, time): before a step
      where they are True, in the order in which steps are taken, h and c are as at the start.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``. With
      a projection P in the place of H.
      params: kernel (in, 4 H), recurrent_kernel (H, 4 H), bias (4 H,); as options ask, initial_h
      (H,), initial_c (H,), peephole (3 H,), projection_kernel (H, P), kernel_scale (4 H,),
      recurrent_scale (4 H,), cell_scale (H,), cell_bias (H,).

    Raises:
      LayerError: for ``train=True`` without a key, with zoneout or dropout.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.LSTM(32), jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    >>> episodes = (jl.spec((4, 10, 8)), jl.spec((4, 10), bool))
    >>> jl.out_spec(jl.LSTM(32, projection=16, peephole=True), episodes).shape
    (4, 10, 16)
    """
    features = arguments.positive("features", features)
    hidden = features if projection is None else arguments.positive("projection", projection)
    bias, peephole, coupled, layer_norm = (
        arguments.flag(name, value)
        for name, value in {
            "bias": bias,
            "peephole": peephole,
            "coupled": coupled,
            "layer_norm": layer_norm,
        }.items()
    )
    clip, cell_clip = bound("clip", clip), bound("cell_clip", cell_clip)
    width = (3 if coupled else 4) * features
    if coupled and bias_init is forget_one:
        bias_init = initializers.zeros
    fast = not (peephole or coupled or layer_norm or projection or clip or cell_clip)

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        ones, zeros = initializers.ones, initializers.zeros
        wanted: Wanted = {
            "kernel": (kernel_init, (x.shape[-1], width)),
            "recurrent_kernel": (recurrent_init, (hidden, width)),
        }
        if bias:
            wanted["bias"] = (bias_init, (width,))
        if peephole:
            wanted["peephole"] = (zeros, (width - features,))
        if projection is not None:
            wanted["projection_kernel"] = (kernel_init, (features, hidden))
        if layer_norm:
            wanted |= dict.fromkeys(("kernel_scale", "recurrent_scale"), (ones, (width,)))
            wanted["cell_scale"] = (ones, (features,))
            wanted["cell_bias"] = (zeros, (features,)) if bias else None
        return wanted

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        params = cast_like(params, x)
        if fast and course.plain:
            return core.lstm(
                x, carry, **params, reverse=course.reverse, method=method, mask=course.mask
            )
        cell = core.lstm_cell(**params, coupled=coupled, clip=clip, cell_clip=cell_clip)
        return core.stepwise(cell, x, carry, course, method=method, name="lstm")

    return recurrent(
        run,
        parameters,
        of_rows({"h": hidden, "c": features}),
        return_sequences=return_sequences,
        reverse=reverse,
        trainable_carry=trainable_carry,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
    )
