"""What layers of signals share: how frames lie along time, and how they are put together again.

How to read this file: a ``Framing`` says how frames lie, and pads for them; ``framed_layer`` makes
a layer of a function of the padded signal, which streams as a convolution does.
``overlapped_layer`` is the way back, a layer that sums frames.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.constructors import no_params, of_steps
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.specs import format_spec
from ...base.types import Carry, Params
from ...core.padding import PADDINGS, ZEROS, amounts_of, extend, extend_rows, modes_of
from ...core.signal.frames import overlap_add
from ...core.time_windows import TimeWindow, TransposedTimeWindow
from ..conv.base import WindowedOp, spread_padding, window_fits, windowed_layer

SIGNAL = "(batch, time, ...)"
FRAMES = "(batch, frames, frame_length, ...)"


def frame_padding(name: str, value: Any) -> Any:
    """The padding of frames: that of a convolution, or ``"CENTER"``."""
    if isinstance(value, str) and value.upper() == "CENTER":
        return "CENTER"
    try:
        return time_padding(name, value)
    except LayerError as error:
        if isinstance(value, str):
            error.expected = f"'CENTER', {error.expected}"
        raise


def time_padding(name: str, value: Any) -> Any:
    """The padding of time alone: as for ``Conv``, where a pair is that of the two ends."""
    if isinstance(value, tuple | list) and len(value) == 2:
        ends = not any(isinstance(end, str | tuple | list) for end in value)
        value = (tuple(value),) if ends else value
    return arguments.padding(name, value, tuple(PADDINGS))


class Framing(NamedTuple):
    """How frames lie along time: those of ``length`` samples, one every ``stride``.

    Attributes:
      padding: as for ``Conv``, or ``"CENTER"``, for which frame t has sample ``stride * t`` in its
        middle.
      padding_mode: what is in a padding that does not say it by its name.
    """

    length: int
    stride: int
    padding: Any = "VALID"
    padding_mode: str = ZEROS

    def own_padding(self) -> tuple[str | tuple[int, int], ...]:
        """The padding of the one axis that it has."""
        half = self.length // 2
        return ((half, half),) if self.padding == "CENTER" else spread_padding(self.padding, 1)

    def window(self, x: Any) -> TimeWindow:
        """How frames lie along the time of ``x``."""
        arguments.one_array(x, SIGNAL, least_rank=2)
        own = self.own_padding()
        ((low, high),) = amounts_of(x.shape[1:2], (self.length,), (self.stride,), own)
        window_fits(x, x.shape[1:2], (self.length,), own, "the frame")
        (mode,) = modes_of(own, 1, self.padding_mode)
        same = own[0] in ("SAME", "SAME_LOWER")
        return TimeWindow(self.length, self.stride, low, high, same, mode)

    def pad(self, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        """The signal with its padding, that of each row its own; behind a context there is none."""
        window = self.window(x)
        sides = (window.low, window.high)
        if has_context or not any(sides):
            return x
        if window.mode == ZEROS:
            return jnp.pad(x, ((0, 0), sides, *((0, 0),) * (x.ndim - 2)))
        arguments.not_empty(x, SIGNAL)
        if mask is not None:
            return extend_rows(x, mask, sides, window.mode)
        return extend(x, (sides,), (window.mode,))


def framed_layer(framing: Framing, run: Callable[[jax.Array], jax.Array]) -> Layer:
    """The layer of ``run(padded signal)``, which has an output for each frame.

    A padded step reads as zero. A row of n valid samples has as many valid frames as a signal of n
    samples.
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        framing.window(x)
        return {}

    def apply(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        return run(framing.pad(x, mask, has_context))

    return windowed_layer(init, WindowedOp(framing.window, apply))


class Overlap(NamedTuple):
    """How frames are summed.

    Attributes:
      length: samples of a frame; ``length(x)`` of the input.
      stride: samples from one frame to the next.
      padding: ``"VALID"``, all samples; ``"CENTER"``, without half a frame at both ends;
        ``"CAUSAL"``, ``stride`` samples for each frame, as soon as it is known.
      size: how many samples there are of the result, if it is given.
    """

    length: Callable[[Any], int]
    stride: int
    padding: str
    size: int | None = None

    @property
    def causal(self) -> bool:
        """Whether each frame gives its samples when it comes."""
        return self.padding == "CAUSAL"

    def window(self, x: Any) -> TransposedTimeWindow:
        """How outputs lie; both ends are cropped by what it has less than a whole frame."""
        length = self.length(x)
        crop = length // 2 if self.padding == "CENTER" else 0
        high = 0 if self.size is not None else crop
        return TransposedTimeWindow(length, self.stride, length - 1 - crop, length - 1 - high)


def overlapped_layer(
    overlap: Overlap,
    frames_of: Callable[[jax.Array], jax.Array],
    whole: Callable[[jax.Array, jax.Array | None], jax.Array],
    check: Callable[[Any], None],
) -> Layer:
    """The layer that sums frames.

    Args:
      frames_of: the frames (batch, frames, length, ...) of an input, for causal sums.
      whole: ``whole(x, mask)``, the sum of all of them.
      check: raises for an input that has no frames.
    """
    stride = overlap.stride

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        check(x)
        return no_params(key, x)

    def start(params: Params, x: jax.ShapeDtypeStruct, capacity: int | None) -> Carry:
        check(x)
        rest = overlap.length(x) - stride
        if not overlap.causal:
            raise LayerError(
                "cannot be streamed: later frames add to its samples",
                got=format_spec(x),
                hint="padding='CAUSAL'",
            )
        if rest <= 0:
            return {}
        frames = jax.eval_shape(frames_of, x)
        return {"rest": jnp.zeros((x.shape[0], rest, *frames.shape[3:]), frames.dtype)}

    def step(params: Params, carry: Carry | None, x: Steps) -> tuple[Steps, Carry]:
        values, mask = split(x)
        check(values)
        if overlap.causal:
            y, after = _next(frames_of(values), carry or {})
            out_mask = None if mask is None else jnp.repeat(mask, stride, axis=1)
            return join(y, out_mask), after
        window = overlap.window(values)
        y = whole(values, mask)
        y = _cropped(y, window.extent - 1 - window.low, window.extent - 1 - window.high)
        if overlap.size is not None:
            y = _of_size(y, overlap.size)
        out_mask = None if mask is None else window.outputs(mask, y.shape[1])
        return join(y, out_mask), {}

    def _next(frames: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        size = frames.shape[1] * stride
        total = overlap_add(frames, stride=stride)
        rest = frames.shape[2] - stride
        if rest <= 0:
            return _of_size(total, size), {}
        if carry:
            edges = [(0, 0)] * total.ndim
            edges[1] = (0, total.shape[1] - rest)
            total = total + jnp.pad(carry["rest"], edges)
        return total[:, :size], {"rest": total[:, size:]} if carry else {}

    def receptive_field(x: Any) -> ReceptiveField:
        window = overlap.window(x)
        crop = 0 if overlap.causal else window.extent - 1 - window.low
        one = Fraction(1, stride)
        before = one * (window.extent - 1 - crop)
        return ReceptiveField().compose(ReceptiveField(one, before, one * crop))

    return of_steps(init, start, step, receptive_field)


def _cropped(y: jax.Array, low: int, high: int) -> jax.Array:
    return y[:, low : y.shape[1] - high]


def _of_size(y: jax.Array, size: int) -> jax.Array:
    """The first ``size`` samples, with zeros behind where there are fewer."""
    y = y[:, :size]
    return jnp.pad(y, ((0, 0), (0, size - y.shape[1]), *((0, 0),) * (y.ndim - 2)))
