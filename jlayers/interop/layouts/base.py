"""What a layout is: how a library keeps the parameters of one kind of layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Weights = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Place(NamedTuple):
    """The arrays of one layer of a model, or of one copy of it.

    Attributes:
      path: of the layer, as in ``jl.walk``; of a copy with its number (``blocks/3/mlp``).
      maker: the name of what made the layer, such as ``"Conv"``.
      options: the arguments that it was made with.
      shapes: of its arrays by their names, those of the state included.
      flattened: the sizes (height, width, channels, ...) of the image that its input was before it
        became a vector, or None.
    """

    path: str
    maker: str
    options: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]
    flattened: tuple[int, ...] | None = None


class Layout(NamedTuple):
    """How a library names and shapes the arrays of a layer.

    Attributes:
      says: of what layer, and what is done to its arrays, for the printed plan.
      makers: of the layers here that it is for; none for any.
      needs: names that have to be there, below a common prefix.
      may: names that are taken where they are there.
      convert: our arrays by their names; it raises ``ValueError`` where they cannot be these.
      shapes: of their arrays for a layer here; it raises ``ValueError`` where the layout is not for
        it. With them ``convert`` can be inverted; without them a layout is not written.
      channels_first: whether an image is flattened with its channels first there, so that the rows
        of a kernel behind it are put in another order.
      loose: whether it is asked only for layers, and for arrays, that no other layout fits.
    """

    says: str
    makers: tuple[str, ...]
    needs: tuple[str, ...]
    may: tuple[str, ...]
    convert: Callable[[Weights, Place], dict[str, np.ndarray]]
    shapes: Callable[[Place], Shapes] | None = None
    channels_first: bool = False
    loose: bool = False


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A ``convert`` that leaves the arrays as they are, under other names: ``{theirs: ours}``."""

    names: Mapping[str, str]

    def __call__(self, weights: Weights, place: Place) -> dict[str, np.ndarray]:
        return {self.names[name]: array for name, array in weights.items() if name in self.names}

    def shapes(self, place: Place) -> Shapes:
        """Of their arrays, which are those of ours."""
        return {a: place.shapes[b] for a, b in self.names.items() if b in place.shapes}


def renamed(names: Mapping[str, str]) -> Renamed:
    """The arrays as they are, under other names: ``{theirs: ours}``."""
    return Renamed(names)


def has_shapes(layout: Layout, shapes: Mapping[str, tuple[int, ...]], place: Place) -> bool:
    """Whether the layout gives the place's arrays for arrays of these shapes."""
    # A number each, seen as often as there are elements: nothing of the size of the file.
    stand_ins = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    try:
        made = layout.convert(stand_ins, place)
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    return {name: array.shape for name, array in made.items()} == place.shapes


def with_bias(shapes: Shapes, place: Place) -> Shapes:
    """Their shapes, and that of the bias where the layer here has one."""
    return shapes | ({"bias": place.shapes["bias"]} if "bias" in place.shapes else {})


def said(layout: Layout, place: Place) -> str:
    """What the layout says, and whether it turns the rows of a kernel behind a Flatten."""
    image = place.flattened
    if not layout.channels_first or image is None or max(image[:-1]) == 1:
        return layout.says
    return f"{layout.says}{',' if ':' in layout.says else ':'} rows from channels first"


def rows_of_channels_first(kernel: np.ndarray, place: Place) -> np.ndarray:
    """A kernel (in, out) whose inputs were an image with channels first, for one with them last."""
    if place.flattened is None:
        return kernel
    *sizes, channels = place.flattened
    if kernel.shape[0] != channels * int(np.prod(sizes)):
        return kernel
    image = kernel.reshape(channels, *sizes, -1)
    return np.moveaxis(image, 0, -2).reshape(kernel.shape)


def _alike(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether two shapes of kernels differ by axes of size 1."""
    sizes = [[size for size in shape[:-2] if size != 1] for shape in (one, two)]
    return sizes[0] == sizes[1] and one[-2:] == two[-2:]


def other_axes(kernel: np.ndarray, place: Place) -> np.ndarray:
    """A kernel (*size, in, out) with the axes of size 1 that the layer here has.

    A convolution of one step, or over all of an image that is flattened here, is a dense layer.
    """
    shape = place.shapes["kernel"]
    if kernel.shape == shape or kernel.ndim < 3:
        raise ValueError("it is as it is, or of a dense layer")
    image = place.flattened if len(shape) == 2 else None
    # Over all of it, the channels are those of the image; otherwise the layer's own.
    here = (*image, shape[-1]) if image and np.prod(image) == shape[0] else shape
    if not _alike(kernel.shape, shape) and not _alike(kernel.shape, here):
        raise ValueError("another shape")
    return kernel.reshape(shape)


def gru_biases(bias: np.ndarray, recurrent: np.ndarray, place: Place) -> dict[str, np.ndarray]:
    """Of two biases (3 H,) of the gates r, z, n: all but the candidate's are added up."""
    size = bias.shape[0] // 3
    if "recurrent_bias" not in place.shapes:
        raise ValueError("a GRU with reset_after=False has one bias")
    gates = np.concatenate([recurrent[: 2 * size], np.zeros_like(bias[:size])])
    return {"bias": bias + gates, "recurrent_bias": recurrent[2 * size :]}
