"""GRU: the gated recurrent unit."""

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
from .base import (
    Wanted,
    bound,
    of_rows,
    recurrent,
)


@factory
def GRU(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
    reset_after: bool = True,
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
    """Gated recurrent unit over a whole sequence, from ``h = 0`` (Cho et al., 2014).

    With ``xr, xz, xn = split(x @ kernel + bias, 3)`` and
    ``hr, hz, hn = split(h @ recurrent_kernel, 3)``::

        r  = sigmoid(xr + hr)
        z  = sigmoid(xz + hz)
        n  = tanh(xn + r * (hn + recurrent_bias))
        h' = (1 - z) * n + z * h

    The reset gate acts after the product, as in cuDNN, PyTorch, Flax and Keras's default. The
    order of the gates is PyTorch's; PyTorch's and Keras's second bias, of r and z, adds to the
    first. Padding is no step: it leaves h.

    With an option other than ``trainable_carry``, or with resets, it is a plain scan, which is
    slower.

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there are biases.
      reset_after: False for the reset gate before the product, as in the paper:
        ``n = tanh(xn + (r * h) @ Un)``, with Un the last third of the recurrent kernel. Then there
        is no recurrent_bias. Keras has the same argument, ONNX calls it ``linear_before_reset``.
      trainable_carry: h starts from a parameter, zeros at first.
      layer_norm: of the products with the kernel, times kernel_scale, and with the recurrent
        kernel, times recurrent_scale: over r and z together, and over n (Ba et al., 2016); 1e-5 is
        added to variances.
      clip: what goes into the activations of r, z and n is cut to [-clip, clip].
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
      params: kernel (in, 3 H), recurrent_kernel (H, 3 H), bias (3 H,), recurrent_bias (H,); as
      options ask, initial_h (H,), kernel_scale (3 H,), recurrent_scale (3 H,).

    Raises:
      LayerError: for ``train=True`` without a key, with zoneout or dropout.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GRU(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    features = arguments.positive("features", features)
    bias, layer_norm = arguments.flag("bias", bias), arguments.flag("layer_norm", layer_norm)
    reset_after = arguments.flag("reset_after", reset_after)
    clip = bound("clip", clip)
    fast = reset_after and not layer_norm and clip is None

    def parameters(x: jax.ShapeDtypeStruct) -> Wanted:
        wanted: Wanted = {
            "kernel": (kernel_init, (x.shape[-1], 3 * features)),
            "recurrent_kernel": (recurrent_init, (features, 3 * features)),
            "bias": (bias_init, (3 * features,)) if bias else None,
            "recurrent_bias": (bias_init, (features,)) if bias and reset_after else None,
        }
        if layer_norm:
            scale = (initializers.ones, (3 * features,))
            wanted |= dict.fromkeys(("kernel_scale", "recurrent_scale"), scale)
        return wanted

    def run(params: Params, x: jax.Array, carry: Any, course: core.Course) -> Any:
        params = cast_like(params, x)
        if fast and course.plain:
            return core.gru(
                x, carry, **params, reverse=course.reverse, method=method, mask=course.mask
            )
        cell = core.gru_cell(**params, reset_after=reset_after, clip=clip)
        return core.stepwise(cell, x, carry, course, method=method, name="gru")

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
