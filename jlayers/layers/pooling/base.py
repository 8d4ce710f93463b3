"""What pools share: the arguments of a window, and the layer of a pool over all spatial axes."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ...base import arguments
from ...base.arguments import CausalPadding, Sizes
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.sequence import Steps, split
from ...base.sequence_mode import SequenceMode
from ...base.types import Params
from ...core.time_windows import TimeWindow
from ...core.windows import Windows, explicit_padding
from ..conv.base import IMAGE, NO_CHANNELS, Image
from ..conv.padding import spread_padding, window_fits


class PoolWindow:
    """The arguments of a pool, checked, which may be ints for all spatial axes of an input.

    Padding as large as a window is refused unless ``counts_padding``: elsewhere a window of padding
    alone has no value.
    """

    def __init__(
        self,
        window_shape: Sizes,
        strides: Sizes | None,
        padding: CausalPadding,
        counts_padding: bool = False,
    ):
        self.counts_padding = counts_padding
        self.window_shape = window_shape
        # Windows side by side, as in Keras (docs/notes/0004-defaults.md).
        self.strides = window_shape if strides is None else strides
        self.padding = padding

    def time_window(self, x: Image) -> TimeWindow:
        """How the windows lie along the first spatial axis."""
        windows = self.for_input(x)
        size, stride = windows.window_shape[0], windows.strides[0]
        same = spread_padding(self.padding, len(x.shape) - 2)[0] in ("SAME", "SAME_LOWER")
        return TimeWindow(size, stride, *windows.padding[0], same=same)

    def for_input(self, x: Image, has_context: bool = False) -> Windows:
        """One entry for each spatial axis of ``x``, the padding in numbers.

        Args:
          has_context: whether the first steps of ``x`` are context, and there is no padding in
            time.

        Raises:
          LayerError: for an input of another rank, and where a window fits nowhere or would hold
            padding alone.
        """
        # A tuple fixes the rank; an int fits images of any rank.
        fixed_rank = len(self.window_shape) + 2 if isinstance(self.window_shape, tuple) else None
        arguments.one_array(x, IMAGE, rank=fixed_rank, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        rank = len(x.shape) - 2
        window_shape = arguments.spread("window_shape", self.window_shape, rank)
        padding = spread_padding(self.padding, rank)
        window_fits(x, x.shape[1:-1], window_shape, padding, "the window")
        # The maximum of padding alone would be -inf, and its mean 0 / 0.
        if not self.counts_padding and any(
            not isinstance(pads, str) and max(pads) >= size
            for pads, size in zip(padding, window_shape, strict=True)
        ):
            raise LayerError(
                f"padding {padding} leaves windows {window_shape} with nothing else in them",
                hint="padding smaller than the window",
            )
        strides = arguments.spread("strides", self.strides, rank)
        pads = explicit_padding(x, window_shape, strides, padding)
        # The context takes the place of the padding in time.
        if has_context:
            pads = ((0, 0), *pads[1:])
        return Windows(window_shape, strides, pads)


def global_pool(pool: Callable[[jax.Array, jax.Array | None], jax.Array]) -> Layer:
    """The layer of a pool over all spatial axes, ``pool(x, mask)``.

    ``x`` has zeros in the padding, and the mask (batch, time) is None for an array.
    """

    def apply(params: Params, x: Steps) -> jax.Array:
        values, mask = split(x)
        arguments.one_array(values, IMAGE, least_rank=3, lower=NO_CHANNELS)
        arguments.real(values)
        arguments.not_empty(values, IMAGE)
        return pool(values, mask)

    return pure(
        no_params,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="it is one value for the whole sequence",
    )
