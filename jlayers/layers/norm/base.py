"""What group and instance norm share: statistics of each example and group of features."""

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


def norm_of_groups(
    groups: int | None,
    epsilon: float,
    scale: bool,
    bias: bool,
    scale_init: Initializer,
    bias_init: Initializer,
) -> Layer:
    """The layer of ``core.standardize`` over all axes but the batch.

    Args:
      groups: of features; None for as many as there are features.
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(batch, ..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(batch, ..., features)")
        if groups is not None and x.shape[-1] % groups:
            raise LayerError(
                f"groups {groups} do not divide the {x.shape[-1]} features of the input",
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
        parts = values.shape[-1] if groups is None else groups
        if mask is None:
            return core.standardize(values, scale, bias, epsilon, axes, parts)[0]
        y, _, _ = core.masked_normalize(values, mask, scale, bias, epsilon, axes, parts)
        return join(y, mask)

    return pure(
        init,
        apply,
        # No receptive field given: that of all steps is assumed, and is right.
        sequence_mode=SequenceMode("whole"),
        # The last step is needed before the first output is known.
        stream="its statistics are those of the whole sequence",
    )
