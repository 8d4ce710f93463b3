"""Pad: more pixels around an image, by a number or from the image itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import EdgeSizes, Number
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_short, format_spec
from ...base.types import Params

# The names of PyTorch and Equinox, and what numpy calls them.
MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@factory
def Pad(padding: EdgeSizes, *, mode: str = "constant", value: Number = 0.0) -> Layer:
    """The image with ``padding`` more pixels at the edges of its spatial axes.

    Args:
      padding: an int for all edges, or one (low, high) or int for each spatial axis.
      mode: what is in them. ``"constant"``: ``value``. ``"reflect"``: the image mirrored at its
        outermost pixels, which are not repeated. ``"replicate"``: the outermost pixel.
        ``"circular"``: the image again.
      value: of ``"constant"``.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels), of the dtype of ``x``.

    Raises:
      LayerError: for an unknown mode, an input of another rank, and edges that are larger than what
        the mode takes them from. A ``Sequence`` is refused where its first spatial axis, time, is
        padded.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1, 2, 3]).reshape(1, 3, 1)
    >>> jl.Pad(2, mode="reflect").apply({}, {}, x)[0].ravel().tolist()
    [3, 2, 1, 2, 3, 2, 1]
    """
    if mode not in MODES:
        raise LayerError(f"unknown mode {format_short(mode)}", expected=", ".join(map(repr, MODES)))
    options: dict[str, Any] = {"constant_values": value} if mode == "constant" else {}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        edges = arguments.edges_of(x, padding)
        # Of smaller axes numpy reflects again and again; PyTorch refuses, and so does this.
        room = {"reflect": 1, "circular": 0, "replicate": 0}.get(mode)
        for size, sides in zip(x.shape[1:-1], edges, strict=True):
            if room is None or not isinstance(size, int):
                continue
            if size == 0 or (mode != "replicate" and max(sides) > size - room):
                raise LayerError(
                    f"{mode!r} padding {sides} is larger than an axis of size {size}",
                    got=format_spec(x),
                )
        return jnp.pad(x, ((0, 0), *edges, (0, 0)), MODES[mode], **options)

    # Where time is not padded, each step is padded by itself: that is found out.
    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
