"""What norms share: over axes (layer, RMS), and over groups of features (group, instance)."""

from __future__ import annotations

import jax

from ... import core
from ...base import arguments
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Initializer, Params


def norm_of_axes(
    axis: int | tuple[int, ...],
    feature_axes: int | tuple[int, ...] | None,
    epsilon: float,
    scale_init: Initializer | None,
    bias_init: Initializer | None,
    centred: bool,
) -> Layer:
    """The layer of ``core.axes_norm``.

    Args:
      feature_axes: None for those of ``axis``.
      scale_init, bias_init: None for no such parameter.
      centred: as in ``core.position_norm``.
    """
    axis = axis if isinstance(axis, tuple) else (axis,)
    features = axis if feature_axes is None else feature_axes
    features = features if isinstance(features, tuple) else (features,)
    last = axis == (-1,)
    takes = "(..., features)" if last else "one array"

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, takes, least_rank=1)
        arguments.floating(x)
        # The square of a complex number is not that of its size.
        arguments.real(x)
        arguments.axes_of(x, axis)
        if last and features == axis:
            arguments.has_features(x, takes)
        shape = tuple(x.shape[i] for i in sorted(arguments.axes_of(x, features)))
        if 0 in shape:
            raise LayerError("takes no empty axis of feature_axes", got=format_spec(x))
        return initialize(
            key,
            x,
            scale=None if scale_init is None else (scale_init, shape),
            bias=None if bias_init is None else (bias_init, shape),
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        scale, bias = params.get("scale"), params.get("bias")
        if last and features == axis:
            return core.position_norm(x, scale, bias, epsilon, centred)
        axes, own = (sorted(arguments.axes_of(x, some)) for some in (axis, features))
        return core.axes_norm(x, scale, bias, epsilon, axes, own, centred)

    # Whether another axis is that of time depends on the input's rank.
    per_step = last and set(features) <= {-1}
    mode = SequenceMode.PER_STEP if per_step else SequenceMode.UNKNOWN
    return pure(init, apply, sequence_mode=mode)


def norm_of_groups(
    groups: int | None,
    group_size: int | None,
    epsilon: float,
    scale: bool,
    bias: bool,
    scale_init: Initializer,
    bias_init: Initializer,
) -> Layer:
    """The layer of ``core.standardize`` over all axes but the batch.

    Args:
      groups: how many; None for as many as ``group_size`` makes.
    """

    def groups_of(x: jax.Array | jax.ShapeDtypeStruct) -> int:
        return x.shape[-1] // (group_size or 1) if groups is None else groups

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(batch, ..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(batch, ..., features)")
        if x.shape[-1] % (group_size or 1 if groups is None else groups):
            what = f"groups {groups}" if groups else f"groups of {group_size}"
            raise LayerError(
                f"{what} do not divide the {x.shape[-1]} features of the input",
                got=format_spec(x),
            )
        return initialize(
            key,
            x,
            scale=(scale_init, x.shape[-1:]) if scale else None,
            bias=(bias_init, x.shape[-1:]) if bias else None,
        )

    def apply(params: Params, x: Steps) -> Steps:
        values, mask = split(x)
        scale, bias = params.get("scale"), params.get("bias")
        # Not the batch: the rows of a batch must not depend on each other.
        axes = range(1, values.ndim - 1)
        if mask is None:
            return core.standardize(values, scale, bias, epsilon, axes, groups_of(values))[0]
        y, _, _ = core.masked_normalize(values, mask, scale, bias, epsilon, axes, groups_of(values))
        return join(y, mask)

    return pure(
        init,
        apply,
        # No receptive field given: that of all steps is assumed, and is right.
        sequence_mode=SequenceMode("whole"),
        # The last step is needed before the first output is known.
        stream="its statistics are those of the whole sequence",
    )
