"""Frame: overlapping parts of a signal."""

from __future__ import annotations

from typing import Annotated

import jax

from ...base.arguments import PaddingMode, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...core.padding import ZEROS
from ...core.signal import frames
from .base import Framing, frame_padding, framed_layer

FramePadding = Annotated[object, frame_padding]


@factory
def Frame(
    frame_length: Positive,
    *,
    strides: Positive | None = None,
    padding: FramePadding = "VALID",
    padding_mode: PaddingMode = ZEROS,
) -> Layer:
    """Parts of ``frame_length`` steps, one every ``strides`` steps.

    Args:
      frame_length: steps of a frame.
      strides: steps from one frame to the next; ``frame_length`` by default, so that frames do not
        overlap.
      padding: as for ``Conv``: ``"VALID"``, ``"SAME"``, ``"CAUSAL"`` (the last step of frame t is
        ``strides * t``), its other names, an int or (low, high). ``"CENTER"``: half a frame at
        both ends, so that ``strides * t`` is in the middle of frame t.
      padding_mode: what is in the padding, as for ``Conv``: ``"zeros"``, ``"reflect"``,
        ``"replicate"`` or ``"circular"``; of a ``Sequence`` each row's own.

    Shapes:
      x: (batch, time, ...). y: (batch, frames, frame_length, ...), of the dtype of ``x``.

    Raises:
      LayerError: for a frame longer than the padded signal.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.arange(5.0).reshape(1, 5)
    >>> jl.Frame(3, strides=2, padding="CAUSAL").apply({}, {}, x)[0][0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    framing = Framing(frame_length, strides or frame_length, padding, padding_mode)

    def run(x: jax.Array) -> jax.Array:
        return frames.frame(x, length=framing.length, stride=framing.stride)

    return framed_layer(framing, run)
