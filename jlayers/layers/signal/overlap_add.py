"""OverlapAdd: a signal from overlapping frames."""

from __future__ import annotations

from typing import Any

import jax

from ...base import arguments
from ...base.arguments import Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_short
from ...core.signal import frames
from .base import FRAMES, Overlap, overlapped_layer

PADDINGS = ("VALID", "CENTER", "CAUSAL")


@factory
def OverlapAdd(strides: Positive, *, padding: str = "VALID") -> Layer:
    """The sum of frames, each ``strides`` steps after the one before: the transpose of ``Frame``.

    Args:
      strides: steps from one frame to the next.
      padding: that of the ``Frame`` of which it is the transpose. ``"VALID"``: all of the sum.
        ``"CENTER"``: without half a frame at both ends. ``"CAUSAL"``: ``strides`` steps for each
        frame, which no later frame adds to, so that it streams; the steps of a causal ``Frame``
        come back ``frame_length - 1`` steps later.

    Shapes:
      x: (batch, frames, frame_length, ...). y: (batch, (frames - 1) * strides + frame_length, ...)
      or (batch, frames * strides, ...), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, and an unknown padding.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.ones((1, 3, 4))
    >>> jl.OverlapAdd(2).apply({}, {}, x)[0].tolist()
    [[1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]]
    """
    overlap = Overlap(lambda x: x.shape[2], strides, overlap_padding(padding))

    def check(x: Any) -> None:
        arguments.one_array(x, FRAMES, least_rank=3)

    def whole(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return frames.overlap_add(x, stride=strides)

    return overlapped_layer(overlap, lambda x: x, whole, check)


def overlap_padding(padding: Any) -> str:
    """The name in upper case.

    Raises:
      LayerError: for anything but one of ``PADDINGS``.
    """
    name = padding.upper() if isinstance(padding, str) else padding
    if name not in PADDINGS:
        raise LayerError(
            f"unknown padding {format_short(padding)}", expected=", ".join(map(repr, PADDINGS))
        )
    return str(name)
