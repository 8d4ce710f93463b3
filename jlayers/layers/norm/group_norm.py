"""GroupNorm: each example normalised over its positions and a group of its features."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import NonNegative, Positive
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Initializer, Params


@factory
def GroupNorm(
    groups: Positive,
    *,
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, over all axes but the batch.

    The statistics are those of one example and of one group of neighbouring features (Wu & He,
    2018, arXiv:1803.08494). One group is a layer norm over the whole example; as many as there are
    features is the instance norm. The padding of a ``Sequence`` is left out of the
    statistics.

    Args:
      groups: how many; they divide the features.
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, ..., features), floating. y: of the same shape and dtype; the arithmetic is float32
      at least.
      params: scale (features,), bias (features,).

    Raises:
      LayerError: for features that ``groups`` does not divide.

    >>> import jlayers as jl
    >>> jl.serial(jl.Conv(32, 3), jl.GroupNorm(8))
    serial(Conv(32, 3), GroupNorm(8))
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(batch, ..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(batch, ..., features)")
        if x.shape[-1] % groups:
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
        if mask is None:
            return core.standardize(values, scale, bias, epsilon, axes, groups)[0]
        y, _, _ = core.masked_normalize(values, mask, scale, bias, epsilon, axes, groups)
        return join(y, mask)

    return pure(
        init,
        apply,
        # No receptive field given: that of all steps is assumed, and is right.
        sequence_mode=SequenceMode("whole"),
        # The last step is needed before the first output is known.
        stream="its statistics are those of the whole sequence",
    )
