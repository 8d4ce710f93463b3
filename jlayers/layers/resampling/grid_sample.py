"""GridSample: images read at the places of a grid."""

from __future__ import annotations

from typing import Any

import jax

from ... import core
from ...base import arguments
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params
from ...core.grid_sampling import COORDINATES, METHODS, MODES
from .base import IMAGE, check_word, pair


@factory
def GridSample(
    *, method: str = "linear", mode: str = "constant", coordinates: str = "half_pixel"
) -> Layer:
    """Images read at the places of a grid: warps, spatial transformers, deformations.

    ``core.affine_grid`` makes the grid of an affine map (Jaderberg et al., 2015, arXiv:1506.02025).

    Args:
      method: ``"nearest"``, ``"linear"`` (along each axis: bilinear, trilinear) or ``"cubic"``.
      mode: what lies beyond the edges, as for ``Pad``: ``"constant"`` zeros, ``"replicate"`` the
        outermost pixels, ``"reflect"`` the image reflected at its edges, or with
        ``"align_corners"`` at the centres of its outermost pixels.
      coordinates: what -1 and 1 are: ``"half_pixel"`` the edges of the image, ``"align_corners"``
        the centres of its outermost pixels.

    Shapes:
      x: a tuple (image, grid): (batch, *spatial, channels) and (batch, *out, rank), both floating.
      A place has the last spatial axis first: (x, y) for images, as in PyTorch.
      y: (batch, *out, channels), of the dtype of the image; NaN at a place that is NaN (PyTorch
      takes that for -1).

    Raises:
      LayerError: for an unknown word, and for anything but such a pair.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, grid = jnp.array([1.0, 3.0]).reshape(1, 2, 1), jnp.array([0.0, 2.0]).reshape(1, 2, 1)
    >>> jl.GridSample(mode="replicate").apply({}, {}, (x, grid))[0].ravel().tolist()
    [2.0, 3.0]
    """
    check_word("method", method, METHODS)
    check_word("mode", mode, MODES)
    check_word("coordinates", coordinates, COORDINATES)

    def apply(params: Params, x: Any) -> jax.Array:
        image, grid = pair(x, "(image, grid)", f"{IMAGE} and (batch, *out, rank)")
        rank = len(image.shape) - 2
        if len(grid.shape) < 2 or grid.shape[-1] != rank or grid.shape[0] != image.shape[0]:
            raise LayerError(
                "the grid does not fit the image",
                expected=f"(batch, *out, {rank})",
                got=format_spec(x),
            )
        arguments.not_empty(image, IMAGE)
        return core.grid_sample(image, grid, method=method, mode=mode, coordinates=coordinates)

    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
