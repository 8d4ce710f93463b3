"""What layers with windows share: convolutions and pools, on arrays, Sequences and streams.

How to read this file: a convolution or pool is a ``WindowedOp``, a function of arrays together with
a ``window`` that says how it moves along time, its first spatial axis. ``windowed_layer`` makes a
layer of it that takes Sequences and can be streamed. The pools call it, and ``convolution`` does
for ``Conv`` and ``ConvTranspose``. ``spread_padding`` and ``window_fits`` are for all windows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...base.arguments import Paddings, spatial_axes
from ...base.constructors import of_steps
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.specs import format_spec
from ...base.step_pair import are_streamed
from ...base.types import Carry, Params
from ...core.padding import for_each_axis
from ...core.step_ring import StepRing
from ...core.time_windows import TimeWindow, TransposedTimeWindow

Image = jax.Array | jax.ShapeDtypeStruct

IMAGE = "(batch, *spatial, channels)"
_OF_STRIDES = ", or 'VALID' for windows no wider than their stride"
_BLOCKS = "blocks of a multiple of the model's stride: jl.receptive_field(model, x).stride"
# Steps of a window from which on its context is in a ring.
_MIN_RING = 64
NO_CHANNELS = "x[..., None] for images without a channel axis, x[None] for a single image"


class WindowedOp(NamedTuple):
    """An operation with windows over the first spatial axis of its input, which is time.

    Attributes:
      window: ``window(x)``, how they lie for an input of that shape.
      run: ``run(params, x, mask, has_context) -> y``. ``mask`` holds bools (batch, time), or is
        None. With ``has_context`` the first steps of ``x`` are the context of the others, and time
        is not padded.
      needs_mask: whether ``run`` has to know which steps of the context are valid. A pool does: it
        leaves padded steps out. A convolution reads them as zeros, and the context holds zeros.
    """

    window: Callable[[Image], TimeWindow | TransposedTimeWindow]
    run: Callable[[Params, jax.Array, jax.Array | None, bool], jax.Array]
    needs_mask: bool = False


def windowed_layer(
    init: Callable[[jax.Array, jax.ShapeDtypeStruct], Params], op: WindowedOp
) -> Layer:
    """The layer of an operation with windows over time.

    The carry of its stream is the context, as many of the last steps as windows reach back (none
    for windows side by side), or for a long window a ring of the last ``extent``. A padded step is
    part of it as a valid one is: convolutions and pools count time in steps, not in valid steps.
    """

    def start(params: Params, x: jax.ShapeDtypeStruct, capacity: int | None) -> Carry:
        window = _causal_window(op, x)
        # Kernels of one step need no context: an empty carry, and no concatenation.
        if not window.context:
            return {}
        if _in_ring(op, window):
            steps = jnp.zeros((x.shape[0], window.extent, *x.shape[2:]), x.dtype)
            return {"ring": steps, "oldest": jnp.zeros(x.shape[:1], jnp.int32)}
        shape = (x.shape[0], window.context)
        carry: Carry = {"context": jnp.zeros((*shape, *x.shape[2:]), x.dtype)}
        return carry | ({"valid": jnp.zeros(shape, bool)} if op.needs_mask else {})

    def step(params: Params, carry: Carry | None, x: Steps) -> tuple[Steps, Carry]:
        values, mask = split(x)
        block, block_mask, after = values, mask, {}
        # Without a carry it is the whole sequence, and the operation itself pads in time.
        if carry is not None:
            window = _causal_window(op, values)
            # Otherwise the next block would start between two outputs.
            if values.shape[1] % window.block:
                raise LayerError(
                    f"a block of {values.shape[1]} steps is not a multiple "
                    f"of the stride {window.block}",
                    hint=_BLOCKS,
                )
        if carry and "ring" in carry:
            before = StepRing(carry["ring"], carry["oldest"])
            ring = before.append(values)
            after = {"ring": ring.steps, "oldest": ring.oldest}
            # Of one step the ring holds the window; before a longer block, one step too many.
            if values.shape[1] == 1:
                block = ring.in_order()
            else:
                block = jnp.concatenate([before.in_order()[:, 1:], values], 1)
        elif carry:
            # The context takes the place of the padding before the first step: zeros at the start
            # of a stream, as the padding of "CAUSAL" is.
            block = jnp.concatenate([carry["context"], values], 1)
            after = {"context": block[:, -window.context :]}
            block_mask = None
            if op.needs_mask:
                valid = jnp.ones(values.shape[:2], bool) if mask is None else mask
                block_mask = jnp.concatenate([carry["valid"], valid], 1)
                after["valid"] = block_mask[:, -window.context :]
        y = op.run(params, block, block_mask, carry is not None)
        # The mask of the output is computed from the block alone: its context belongs to outputs
        # that were returned before.
        out_mask = None if mask is None else op.window(values).outputs(mask, y.shape[1])
        return join(y, out_mask), after

    return of_steps(init, start, step, functools.partial(_receptive_field, op))


def _in_ring(op: WindowedOp, window: TimeWindow | TransposedTimeWindow) -> bool:
    """Whether the context is in a ring, which saves most of what a single step moves.

    With strides there are no blocks of one step, and a short context is shifted as fast.
    """
    return window.extent >= _MIN_RING and window.stride == 1 and not op.needs_mask


def _causal_window(op: WindowedOp, x: Image) -> TimeWindow | TransposedTimeWindow:
    window = op.window(x)
    if not window.causal:
        raise LayerError(
            "cannot be streamed: its windows reach later steps",
            got=format_spec(x),
            hint="padding='CAUSAL'" + _OF_STRIDES * (window.block > 1),
        )
    return window


def _receptive_field(op: WindowedOp, x: Image) -> ReceptiveField:
    window = op.window(x)
    # Steps of the output, or of a dilated input, are fractions of a step of the input.
    if isinstance(window, TimeWindow):
        stride, one = window.stride, Fraction(1, window.input_dilation)
    else:
        stride, one = 1, Fraction(1, window.stride)
    return ReceptiveField(one).compose(ReceptiveField(stride, *window.reach))


def spread_padding(value: Paddings, rank: int) -> tuple[str | tuple[int, int], ...]:
    """A name or a (low, high) for each of ``rank`` spatial axes."""
    if isinstance(value, str):
        return for_each_axis(value, rank)
    if isinstance(value, int):
        return ((value, value),) * rank
    if len(value) != rank:
        raise LayerError(
            f"padding {value} has {len(value)} entries for {spatial_axes(rank)}",
            expected=f"a name, an int, or {rank} of: a name, a pair (low, high)",
        )
    return tuple(value)  # type: ignore[arg-type]


def window_fits(
    x: Any,
    sizes: Sequence[int],
    window: Sequence[int],
    padding: Sequence[str | tuple[int, int]],
    what: str,
) -> None:
    """The window (a dilated kernel, say) is at most as large as the padded ``sizes`` of ``x``."""
    pads = [(0, 0) if isinstance(item, str) else item for item in padding]
    room = [size + low + high for size, (low, high) in zip(sizes, pads, strict=True)]
    # SAME and most other names pad by as much as the window needs, and a symbolic size is as large
    # as need be.
    small = [
        isinstance(have, int) and have < want and (item == "VALID" or not isinstance(item, str))
        for item, have, want in zip(padding, room, window, strict=True)
    ]
    if any(small):
        raise LayerError(
            f"{what} {tuple(window)} is larger than the {'padded ' if room != [*sizes] else ''}"
            f"input {tuple(room)}",
            got=format_spec(x),
            hint=_BLOCKS
            if small[0] and are_streamed()
            else f"padding='SAME', or a smaller {what.split()[-1]}",
        )
