"""FractionalMaxPool: the largest values of windows at pseudorandom places."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import Fraction, Sizes
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Key, Params, State
from ...core.dtypes import at_least_float32, is_symbolic
from ..conv.base import IMAGE, NO_CHANNELS


@factory
def FractionalMaxPool(
    window_shape: Sizes, *, sizes: Sizes | None = None, ratio: Fraction | None = None
) -> Layer:
    """The largest values of windows whose distances are one of two neighbouring whole numbers.

    So an image becomes smaller by a fraction, such as 0.7 (Graham, 2014, arXiv:1412.6071). In
    training a key draws which distance comes where, for each row and channel; otherwise it is the
    draw in the middle, the same for all.

    Args:
      window_shape: an int for all spatial axes, or one for each.
      sizes: of the output, likewise.
      ratio: in place of it, by what each size is multiplied and then rounded down, below 1.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *sizes, channels), of the dtype of ``x``.

    Raises:
      LayerError: with neither or both of ``sizes`` and ``ratio``, for ``train=True`` without a key,
        an input of another rank, sizes that are not known, windows that do not fit, and for a
        ``Sequence``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.FractionalMaxPool(2, ratio=0.7), jl.spec((8, 32, 30, 4))).shape
    (8, 22, 21, 4)
    """
    if (sizes is None) == (ratio is None):
        raise LayerError("takes sizes or ratio", hint="FractionalMaxPool(2, ratio=0.7)")

    def shapes(x: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
        fixed = len(window_shape) + 2 if isinstance(window_shape, tuple) else None
        arguments.one_array(x, IMAGE, rank=fixed, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        image = x.shape[1:-1]
        if is_symbolic(*image):
            raise LayerError("takes spatial axes of known sizes", got=format_spec(x))
        window = arguments.spread("window_shape", window_shape, len(image))
        if sizes is None:
            assert ratio is not None
            wanted = tuple(math.floor(n * ratio) for n in image)
        else:
            wanted = arguments.spread("sizes", sizes, len(image))
        if any(w < 1 or w + k - 1 > n for n, k, w in zip(image, window, wanted, strict=True)):
            raise LayerError(
                f"{wanted} windows {window} do not fit into {image}", got=format_spec(x)
            )
        return window, wanted

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: jax.Array, *, key: Key, train: bool
    ) -> tuple[jax.Array, State]:
        window, wanted = shapes(x)
        shape, dtype = (x.shape[0], x.shape[-1], len(window)), at_least_float32(x.dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            dtype = jnp.dtype(jnp.float32)
        if not train:
            samples = jnp.full(shape, 0.5, dtype)
        # Never a fixed key instead: a model that is trained without noise would go unnoticed.
        elif key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        else:
            samples = jax.random.uniform(key, shape, dtype)
        return core.fractional_max_pool(x, samples, window_shape=window, sizes=wanted), state

    return Layer(init, apply, sequence_mode=SequenceMode.UNKNOWN)
