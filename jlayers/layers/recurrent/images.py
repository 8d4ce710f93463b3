"""What the cells over images share: their convolutions, checks, and the size of the carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...base import arguments
from ...base.types import Spec
from ...core.conv.geometry import Geometry, output_sizes
from ...core.recurrent.cells import Products, convolutions
from ...core.windows import explicit_padding
from ..conv.base import spread_padding, window_fits


class Convolution(NamedTuple):
    """The convolution of the input, as the arguments of a cell say it."""

    kernel_size: Any
    strides: Any
    padding: Any
    dilation: Any

    def check(self, hint: str) -> Callable[[Any, str], None]:
        """``check`` of a cell: raises unless the input is an image that the kernel fits."""

        def check(x: Any, leading: str) -> None:
            axes, before = f"({leading}, *spatial, channels)", leading.count(",") + 1
            # A tuple fixes how many axes an image has; an int fits any number.
            size = self.kernel_size
            rank = before + len(size) + 1 if isinstance(size, tuple) else None
            arguments.one_array(x, axes, rank=rank, least_rank=before + 2, lower=hint)
            arguments.floating(x)
            arguments.not_empty(x, axes)
            sizes = x.shape[before:-1]
            _, extents, _, padding, _ = self._spread(len(sizes))
            window_fits(x, sizes, extents, padding, "the dilated kernel")

        return check

    def kernel_sizes(self, x: Spec) -> tuple[int, ...]:
        return arguments.spread("kernel_size", self.kernel_size, len(x.shape) - 2)

    def output(self, x: Spec, features: int) -> Spec:
        """(batch, *spatial', features) for an image (batch, *spatial, channels)."""
        size, extents, strides, padding, dilation = self._spread(len(x.shape) - 2)
        pads = explicit_padding(x, extents, strides, padding)
        sizes = output_sizes(x.shape[1:-1], size, Geometry(strides, pads, dilation))
        return Spec((x.shape[0], *sizes, features), x.dtype)

    def products(self, rank: int) -> Products:
        """The products of a cell over images with ``rank`` spatial axes."""
        _, _, strides, padding, dilation = self._spread(rank)
        return convolutions(strides, padding, dilation)

    def _spread(self, rank: int) -> tuple[Any, ...]:
        """kernel_size, its extents, strides, padding and dilation for ``rank`` spatial axes."""
        size = arguments.spread("kernel_size", self.kernel_size, rank)
        strides = arguments.spread("strides", self.strides, rank)
        dilation = arguments.spread("dilation", self.dilation, rank)
        extents = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
        padding = spread_padding(self.padding, rank)
        return size, extents, strides, padding, dilation
