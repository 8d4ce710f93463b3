"""What pools share: the arguments of a window, and the layer of a pool over all spatial axes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from ...base import arguments
from ...base.arguments import CausalPadding, Sizes, SizesOrNone
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.sequence import Steps, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params, PyTree
from ...core.dtypes import is_symbolic
from ...core.padding import PADDINGS
from ...core.time_windows import TimeWindow
from ...core.windows import Windows, ceil_padding, explicit_padding
from ..conv.base import IMAGE, NO_CHANNELS, Image, spread_padding, window_fits
from ..shape.base import per_row

_SAME = ("SAME", "SAME_LOWER")


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
        dilation: Sizes,
        ceil_mode: bool,
        counts_padding: bool = False,
    ):
        self.counts_padding = counts_padding
        self.window_shape = window_shape
        # Windows side by side, as in Keras (docs/notes/0004-defaults.md).
        self.strides = window_shape if strides is None else strides
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        if ceil_mode and "CAUSAL" in (padding, *(padding if isinstance(padding, tuple) else ())):
            raise LayerError("ceil_mode pads after the last step, where padding 'CAUSAL' does not")

    def time_window(self, x: Image) -> TimeWindow:
        """How the windows lie along the first spatial axis."""
        windows = self._in_numbers(x)
        size, stride = windows.extents[0], windows.strides[0]
        same = spread_padding(self.padding, len(x.shape) - 2)[0] in _SAME
        ceil = self.ceil_mode and stride > 1 and not same
        return TimeWindow(size, stride, *windows.padding[0], same=same, ceil=ceil)

    def for_input(self, x: Image, has_context: bool = False) -> Windows:
        """One entry for each spatial axis of ``x``, the padding in numbers.

        Args:
          has_context: whether the first steps of ``x`` are context, and there is no padding in
            time.

        Raises:
          LayerError: for an input of another rank, and where a window fits nowhere or would hold
            padding alone.
        """
        windows = self._in_numbers(x)
        # The context takes the place of the padding in time.
        if has_context:
            windows = windows._replace(padding=((0, 0), *windows.padding[1:]))
        sizes = x.shape[1:-1]
        if self.ceil_mode:
            pads = ceil_padding(sizes, windows.extents, windows.strides, windows.padding)
            names = spread_padding(self.padding, len(sizes))
            # "SAME" cuts no stride off.
            axes = zip(names, windows.padding, pads, strict=True)
            pads = tuple(own if name in _SAME else more for name, own, more in axes)
            windows = windows._replace(padding=pads)
        if not self.counts_padding and _has_padding_alone(windows, sizes):
            padding = self.padding
            if not isinstance(padding, str):
                padding = spread_padding(padding, len(sizes))
            raise LayerError(
                f"padding {padding!r} leaves windows {windows.window_shape} with nothing else in "
                "them",
                hint="padding smaller than the window",
            )
        return windows

    def counted_padding(self, x: Image) -> bool | tuple[tuple[int, int], ...]:
        """How much of the padding counts in a mean: that of ``ceil_mode`` never does."""
        return self._in_numbers(x).padding if self.ceil_mode else True

    def _in_numbers(self, x: Image) -> Windows:
        """As ``for_input``, without the padding of ``ceil_mode``."""
        # A tuple fixes the rank; an int fits images of any rank.
        fixed_rank = len(self.window_shape) + 2 if isinstance(self.window_shape, tuple) else None
        arguments.one_array(x, IMAGE, rank=fixed_rank, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        rank = len(x.shape) - 2
        window_shape = arguments.spread("window_shape", self.window_shape, rank)
        strides = arguments.spread("strides", self.strides, rank)
        dilation = arguments.spread("dilation", self.dilation, rank)
        padding = spread_padding(self.padding, rank)
        windows = Windows(window_shape, strides, (), dilation)
        extents, room = windows.extents, padding
        if self.ceil_mode:
            room = tuple(_with_rest(item, s) for item, s in zip(padding, strides, strict=True))
        window_fits(x, x.shape[1:-1], extents, room, "the window")
        return windows._replace(padding=explicit_padding(x, extents, strides, padding))


def _with_rest(padding: str | tuple[int, int], stride: int) -> str | tuple[int, int]:
    """The padding of an axis with the most that ``ceil_mode`` adds."""
    low, high = (0, 0) if isinstance(padding, str) else padding
    return padding if padding in PADDINGS and padding != "VALID" else (low, high + stride - 1)


def _has_padding_alone(windows: Windows, sizes: tuple[int, ...]) -> bool:
    """Whether a window holds padding alone: its maximum would be -inf, and its mean 0 / 0."""
    for n, k, s, (low, high), d in zip(sizes, *windows, strict=True):
        # With holes, the elements of a window may lie on both sides of a small image.
        if not is_symbolic(n, low, high) and (d > 1 or max(low, high) >= k):
            starts = np.arange((n + low + high - d * (k - 1) - 1) // s + 1) * s - low
            places = starts[:, None] + np.arange(k) * d
            if not ((places >= 0) & (places < n)).any(1).all():
                return True
    return False


def adaptive_pool(
    pool: Callable[[jax.Array, tuple[int, ...]], PyTree],
    sizes: SizesOrNone,
    refuses_time: bool = False,
) -> Layer:
    """The layer of ``pool(x, sizes)``, an adaptive pool.

    Args:
      refuses_time: whether it takes no Sequence, not even if each step is pooled by itself.
    """

    def apply(params: Params, x: jax.Array) -> PyTree:
        rank = len(sizes) + 2 if isinstance(sizes, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        wanted = sizes if isinstance(sizes, tuple) else (sizes,) * (len(x.shape) - 2)
        pairs = [*zip(wanted, x.shape[1:-1], strict=True)]
        if any(is_symbolic(n) and size not in (1, None) for size, n in pairs):
            raise LayerError(f"sizes {sizes} of an axis without a known size", got=format_spec(x))
        return pool(x, tuple(n if size is None else size for size, n in pairs))

    if refuses_time:
        return per_row(lambda x: apply({}, x))
    # Where time keeps its size, each step is pooled by itself: that is found out.
    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)


def check_known_sizes(x: Image) -> None:
    """Indices are computed from numbers."""
    if is_symbolic(*x.shape[1:-1]):
        raise LayerError("indices=True takes spatial axes of known sizes", got=format_spec(x))


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
