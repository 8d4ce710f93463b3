"""What batch norm and batch renorm share: their input, and the statistics of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_short, format_spec
from ...base.step_pair import Stepping, are_streamed
from ...base.types import Carry, Initializer, Key, Params, State
from ...core.dtypes import at_least_float32
from .running import Running


def axis_names(name: str, value: Any) -> Any:
    """``value`` as the name of a mapped axis, or a tuple of names."""
    names = value if isinstance(value, tuple | list) else (value,)
    # For psum a number is an axis of the array.
    if not names or not all(isinstance(one, str) for one in names):
        raise LayerError(f"{name} must be a str or a tuple of them, got {format_short(value)}")
    return tuple(names) if isinstance(value, tuple | list) else value


AxisNames = Annotated[str | tuple[str, ...], axis_names]


class Rows(NamedTuple):
    """Values whose last axis alone has statistics of its own.

    Attributes:
      values: (..., features).
      mask: of leading axes of ``values``, or None.
      scale, bias: (features,), or None.
    """

    values: jax.Array
    mask: jax.Array | None
    scale: jax.Array | None
    bias: jax.Array | None


class Moments(NamedTuple):
    """Of a batch: with size 1 on all axes but the last, and how many values share a statistic."""

    mean: jax.Array
    variance: jax.Array
    size: int | jax.Array


# From rows and the state to their values in training, and the moments of the batch.
InTraining = Callable[[Rows, State], tuple[jax.Array, Moments]]


def over_the_batch(
    in_training: InTraining,
    running: Running,
    feature_axes: tuple[int, ...],
    epsilon: float,
    scale_init: Initializer | None,
    bias_init: Initializer | None,
) -> Layer:
    """A layer with running statistics, which it uses where it does not train."""
    last = feature_axes == (-1,)
    takes = "(..., features)" if last else "one array"

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, takes, least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        axes = sorted(arguments.axes_of(x, feature_axes))
        if last:
            arguments.has_features(x, takes)
        features = tuple(x.shape[axis] for axis in axes)
        if 0 in features:
            raise LayerError("takes no empty axis of feature_axes", got=format_spec(x))
        if len(axes) == len(x.shape):
            raise LayerError(
                f"feature_axes {feature_axes} leave none for the statistics", got=format_spec(x)
            )
        params = initialize(
            key,
            x,
            scale=None if scale_init is None else (scale_init, features),
            bias=None if bias_init is None else (bias_init, features),
        )
        return params, running.init(key, x, features)

    def apply(
        params: Params, state: State, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, State]:
        values, mask = split(x)
        flat, restore = (values, None) if last else _features_last(values, mask, feature_axes)
        rows = Rows(flat, mask, *(_row(params, name) for name in ("scale", "bias")))
        if not train:
            y = _by_running(rows, state, epsilon)
            return join(y if restore is None else restore(y), mask), state
        y, moments = in_training(rows, state)
        if not isinstance(moments.size, jax.Array) and 0 in values.shape:
            # A batch of no rows has no statistics, as one of nothing but padding has none.
            new = state
        else:
            new = running.updated(state, *moments)
        return join(y if restore is None else restore(y), mask), new

    def advance(
        params: Params, state: State, carry: Carry | None, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, Carry, State]:
        # A block of a stream is a part of a sequence: the running statistics are used.
        y, after = apply(params, state, x, key=key, train=train and not are_streamed())
        return y, {}, after

    stepping = Stepping(lambda params, state, x, *, capacity: {}, advance)
    return Layer(
        init,
        apply,
        # rows: a mask of rows alone matters too, because statistics are taken over the batch.
        sequence_mode=SequenceMode("whole", lambda x: ReceptiveField(), rows=True),
        stream=stepping if last else "one of its feature_axes may be time",
    )


def batch_moments(
    rows: Rows, epsilon: float, axis_name: str | tuple[str, ...] | None, groups: Any
) -> tuple[jax.Array, Moments]:
    """The rows normalised by their own statistics, over all devices of a named axis."""
    values, mask, scale, bias = rows
    axes = tuple(range(values.ndim - 1))
    size = math.prod(values.shape[:-1])
    if axis_name is not None:
        return _across(rows, epsilon, axis_name, groups)
    if mask is None:
        # One gradient through y and the statistics: two sums and one pass over the input.
        y, mean, variance = core.standardize(values, scale, bias, epsilon, axes)
        return y, Moments(mean, variance, size)
    y, mean, variance = core.masked_normalize(values, mask, scale, bias, epsilon, axes)
    # Of steps, each of which has as many values of a feature as there are positions in it.
    positions = math.prod(values.shape[mask.ndim : -1])
    return y, Moments(mean, variance, jnp.sum(mask) * positions)


def _across(rows: Rows, epsilon: float, axis_name: Any, groups: Any) -> tuple[jax.Array, Moments]:
    values, mask, scale, bias = rows
    wide, axes = at_least_float32(values.dtype), tuple(range(values.ndim - 1))

    def total(x: jax.Array) -> jax.Array:
        own = jnp.sum(x, axes, keepdims=True)
        try:
            return lax.psum(own, axis_name, axis_index_groups=groups)  # type: ignore[no-any-return]
        except NameError:
            raise LayerError(
                f"there is no mapped axis {axis_name!r} here",
                hint=f"jax.shard_map, or jax.vmap(..., axis_name={axis_name!r}); without axis_name "
                "a sharded batch under jit has global statistics",
            ) from None

    x = values.astype(wide)
    valid = jnp.ones(values.shape[:-1], bool) if mask is None else mask
    valid = jnp.broadcast_to(
        valid.reshape(*valid.shape, *(1,) * (values.ndim - valid.ndim)), (*values.shape[:-1], 1)
    )
    kept = jnp.broadcast_to(valid, x.shape)
    count = total(valid.astype(wide))
    least = jnp.maximum(count, 1)
    over = (1,) * len(axes) + x.shape[-1:]
    mean = total(jnp.where(kept, x, jnp.zeros_like(x))) / jnp.broadcast_to(least, over)
    about = jnp.where(kept, x - jnp.broadcast_to(mean, x.shape), jnp.zeros_like(x))
    # Of the values about the mean of all devices: a mean of squares would lose digits.
    variance = total(jnp.square(about)) / jnp.broadcast_to(least, over)
    variance = jnp.where(jnp.broadcast_to(count, over) > 0, variance, jnp.ones_like(variance))
    scale, bias = (None if row is None else row.reshape(over) for row in (scale, bias))
    y = core.normalize(values, mean, variance, scale, bias, epsilon)
    return y, Moments(mean, variance, count.reshape(()))


def _by_running(rows: Rows, state: State, epsilon: float) -> jax.Array:
    x, wide = rows.values, at_least_float32(rows.values.dtype)
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    mean, variance = (state[name].reshape(shape).astype(wide) for name in ("mean", "var"))
    scale, bias = (None if row is None else row.reshape(shape) for row in (rows.scale, rows.bias))
    return core.normalize(x, mean, variance, scale, bias, epsilon)


def _row(params: Params, name: str) -> jax.Array | None:
    row = params.get(name)
    return None if row is None else row.reshape(-1)


def _features_last(
    values: jax.Array, mask: jax.Array | None, feature_axes: tuple[int, ...]
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The values with all axes of features as one last axis, and the way back."""
    axes = tuple(sorted(arguments.axes_of(values, feature_axes)))
    if mask is not None and axes[0] < mask.ndim:
        raise LayerError(
            f"feature_axes {feature_axes} have an axis of the mask",
            got=format_spec(values),
            hint="x.values, if no step is padding",
        )
    ends = tuple(range(values.ndim - len(axes), values.ndim))
    moved = jnp.moveaxis(values, axes, ends)
    flat = (
        moved
        if len(axes) == 1
        else moved.reshape(*moved.shape[: ends[0]], math.prod(moved.shape[ends[0] :]))
    )

    def restore(y: jax.Array) -> jax.Array:
        return jnp.moveaxis(y.reshape(moved.shape), ends, axes)

    return flat, restore
