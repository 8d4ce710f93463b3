"""Dense: an affine map of the last axis, or of several axes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import Axes, Sizes
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Params

_GLOROT = initializers.glorot_uniform()


@factory
def Dense(
    features: Sizes,
    *,
    axis: Axes = -1,
    bias: bool = True,
    # As in Keras: it suits sigmoid, tanh and relu alike (docs/notes/0004-defaults.md).
    kernel_init: Initializer = _GLOROT,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y = x @ kernel + bias`` over the last axis, or over any axes.

    ``Dense((8, 64))`` maps features to 8 heads of 64, and ``Dense(512, axis=(-2, -1))`` back.

    Args:
      features: size of the output's last axis, or of its last axes.
      axis: the axis of ``x`` that is summed over, or several.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``. The default takes all axes of the
        kernel that are summed over for its inputs.

    Shapes:
      x: (..., in), floating. y: (..., features), of the dtype of ``x``. The other axes keep their
      order, and the features come last.
      params: kernel (in, features), bias (features,); with several axes or features, each is there
      with its size, in the order in which it was given (Flax sorts the axes).

    Raises:
      LayerError: for an input that is not one floating array of rank 1 or more, that lacks an axis,
        and for an axis that is given twice.

    >>> import jax, jlayers as jl
    >>> layer = jl.Dense(10)
    >>> params, state = layer.init(jax.random.key(0), jl.spec((32, 784)))
    >>> jax.tree.map(lambda p: p.shape, params)
    {'bias': (10,), 'kernel': (784, 10)}
    """
    last_alone = axis == -1
    axes = axis if isinstance(axis, tuple) else (axis,)
    shape = features if isinstance(features, tuple) else (features,)
    if kernel_init is _GLOROT and len(axes) + len(shape) > 2:
        summed = tuple(range(len(axes)))
        kernel_init = initializers.glorot_uniform(
            summed, tuple(len(axes) + i for i in range(len(shape)))
        )

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x, "x.astype(jnp.float32); Embedding for integer ids")
        if last_alone:
            arguments.has_features(x, "(..., features)")
        sizes = [x.shape[i] for i in arguments.axes_of(x, axes)]
        if 0 in sizes:
            raise LayerError("takes no empty axis to sum over", got=format_spec(x))
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*sizes, *shape)),
            bias=(bias_init, shape) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        # Cast to the input's dtype: float32 parameters in bfloat16 arithmetic
        # (docs/notes/0003-dtypes.md).
        own = cast_like(params, x)
        if not last_alone:
            x = jnp.moveaxis(x, arguments.axes_of(x, axes), range(-len(axes), 0))
            x = x.reshape(*x.shape[: -len(axes)], math.prod(x.shape[-len(axes) :]))
        if len(axes) + len(shape) == 2:
            return core.dense(x, **own)
        flat = {"kernel": own["kernel"].reshape(x.shape[-1], math.prod(shape))}
        if bias:
            flat["bias"] = own["bias"].reshape(-1)
        return core.dense(x, **flat).reshape(*x.shape[:-1], *shape)

    # Other axes may be those of steps, or move them: whether they do is found out.
    mode = SequenceMode.PER_STEP if last_alone else SequenceMode.UNKNOWN
    plain = last_alone and len(shape) == 1
    return pure(init, apply, sequence_mode=mode, lazy_weights=("kernel",) if plain else ())
