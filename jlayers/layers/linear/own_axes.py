"""Axes whose entries have parameters of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from ...base import arguments
from ...base.errors import LayerError
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...core.dense import spread_features


class OwnAxes(NamedTuple):
    """The argument ``feature_axes`` of a layer that works on each value by itself."""

    axes: tuple[int, ...]

    @classmethod
    def of(cls, feature_axes: int | tuple[int, ...]) -> OwnAxes:
        return cls(feature_axes if isinstance(feature_axes, tuple) else (feature_axes,))

    @property
    def sequence_mode(self) -> SequenceMode:
        # Others may be those of the rows or of the steps: whether they are is found out.
        return SequenceMode.PER_STEP if set(self.axes) <= {-1} else SequenceMode.UNKNOWN

    def sizes(self, x: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        """The shape of the parameters, in the order of the axes of ``x``."""
        found = tuple(x.shape[axis] for axis in sorted(arguments.axes_of(x, self.axes)))
        if 0 in found:
            raise LayerError("takes no empty axis of feature_axes", got=format_spec(x))
        return found

    def spread(self, values: Any, x: jax.Array) -> jax.Array:
        """The parameters in the shape and the dtype of ``x``."""
        return spread_features(values, x, sorted(arguments.axes_of(x, self.axes)))
