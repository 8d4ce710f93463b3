"""GRU: the gated recurrent unit."""

from __future__ import annotations

from jax.nn import initializers

from .. import core
from ..factory import factory
from ..layer import Layer
from ..parameters import Initializer
from .recurrent import recurrent


@factory
def GRU(
    features: int,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    bias: bool = True,
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
    first.

    Args:
      features: size H of the hidden state.
      return_sequences: the outputs of all steps, or of the last one taken alone.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      bias: whether there are biases.
      kernel_init, recurrent_init, bias_init: as in ``jax.nn.initializers``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, H), or (batch, H) without
      ``return_sequences``; of the dtype of ``x``.
      params: kernel (in, 3 H), recurrent_kernel (H, 3 H), bias (3 H,), recurrent_bias (H,).

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GRU(32, return_sequences=False), jl.spec((4, 10, 8))).shape
    (4, 32)
    """
    return recurrent(
        core.gru,
        3,
        features,
        return_sequences=return_sequences,
        reverse=reverse,
        bias=bias,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        method=method,
        recurrent_bias=True,
    )
