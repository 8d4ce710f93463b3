"""check_sequence: masks that do not leak, and steps that make the whole, as code.

How to read this file: one function for each of the five properties that ``check_sequence`` lists;
``SequenceCase`` has the layer, the masks and the compiled programs that they share.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.constructors import lift
from ..base.errors import LayerError
from ..base.sequence import is_sequence, sequences_in
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..combinators.merge import concatenate
from ..sequences.streaming import receptive_field as receptive_field_of
from ..sequences.streaming import stream
from .sequence_cases import SequenceCase, spoiled, valid_of
from .trees import is_float, map_numpy, numbers, other_than, with_garbage_row, without_first

# A multiple of most strides: where a window lies may depend on what is left over.
_MORE = 12
_EXACT = 1e-9  # of strides that are fractions
# A number as well: a maximum may drop NaN, and a comparison with it is always False.
_GARBAGE = (np.nan, np.inf, -1e3)


def check_sequence(
    layer: Any,
    x: PyTree,
    *,
    tolerance: float = 1e-9,
    batch_axis: int | None = 0,
    streams: bool | None = None,
    seed: int = 0,
) -> str | None:
    """Checks that a layer minds masks and, if it is causal, that its steps make the whole.

    1. NaN and other garbage in the padding changes no valid output, no state and no gradient, in
       training and out of it; rows of length zero, padding in front and masks with holes are among
       those tried. How much padding there is changes no valid output; nor does it, for a layer
       that gives an output for each step, whether it is in front or behind.
    2. Out of training, garbage in one row of the batch changes no other row.
    3. A causal layer gives for the whole sequence what it gives step by step and for blocks of
       random sizes: outputs and gradients, with a mask and without one.
    4. The carry keeps its structure, shapes and dtypes.
    5. The reach that the layer reports (stride, receptive field, latency) is the measured one,
       as far as ``x`` is long enough to show it.

    All in float64.

    Args:
      layer: a ``Layer`` or a function of one argument.
      x: an input, (batch, time, ...): arrays, or specs for random numbers. A few small sizes will
        do, with two rows or more, and time a multiple of the layer's stride.
      tolerance: relative and absolute.
      batch_axis: of every leaf of the output; None if rows are not independent.
      streams: whether the layer has to stream, or must not. By default the third and the fourth
        property are asked of a layer that does.
      seed: of the masks, the blocks and the values.

    Returns:
      None, or why steps and blocks were left out: the layer cannot be streamed.

    Raises:
      AssertionError: saying what does not hold, and where.

    >>> import jlayers as jl
    >>> from jlayers.testing import check_sequence
    >>> check_sequence(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.GRU(2)), jl.spec((2, 4, 3)))
    """
    with jax.enable_x64(True):
        case = SequenceCase(lift(layer), x, tolerance, np.random.default_rng(seed))
        _padding(case)
        _more_padding(case)
        _padding_in_front(case)
        if batch_axis is not None:
            _rows(case, batch_axis)
        if case.gives_steps:
            _reported(case)
        if streams is not None and streams != case.streams:
            case.fail(case.unstreamed or "it streams, and streams=False says that it does not")
        if case.streams:
            _blocks(case)
        return case.unstreamed


def _padding(case: SequenceCase) -> None:
    for train in case.modes:
        run = case.run[train]
        for mask in case.masks:
            clean = run(case.masked(spoiled(case.x, mask, 0.0), mask))
            for leaf in jax.tree.leaves((clean.gradient, clean.state)):
                if not np.isfinite(numbers(leaf)).all():
                    case.fail("a gradient or a state is not finite with zeros in the padding")
            for garbage in _GARBAGE:
                dirty = run(case.masked(spoiled(case.x, mask, garbage), mask))
                mode = f"with {garbage} in the padding, train={train}"
                case.same(f"output {mode}:", dirty.valid, clean.valid)
                case.same(f"state {mode}:", dirty.state, clean.state)
                case.same(f"gradient {mode}:", dirty.gradient, clean.gradient)


def _more_padding(case: SequenceCase) -> None:
    @jax.jit
    def run_longer(params: PyTree, x: PyTree) -> PyTree:
        return valid_of(case.layer.apply(params, case.state, x)[0])

    # Zeros are what a Sequence is filled with anyway: that others do no harm is the first property.
    def longer(leaf: Any) -> np.ndarray:
        return np.pad(leaf, ((0, 0), (0, _MORE), *((0, 0),) * (leaf.ndim - 2)))

    def shortened(like: Any, valid: Any) -> Any:
        if not is_sequence(like):
            return valid
        return tuple(np.asarray(leaf)[:, : like.shape[1]] for leaf in valid)

    for mask in case.masks:
        y = case.run[False](case.masked(case.x, mask))
        more = run_longer(case.params, case.masked(jax.tree.map(longer, case.x), longer(mask)))
        cut = jax.tree.map(shortened, y.y, more, is_leaf=is_sequence)
        case.same(f"output with {_MORE} more steps of padding:", cut, y.valid)


def _padding_in_front(case: SequenceCase) -> None:
    behind, _, in_front = case.masks
    run = case.run[False]
    if not case.gives_steps:
        return
    wanted = run(case.masked(case.x, behind)).valid
    # Windows with strides are placed from the first step of a row, padding or not.
    if any(leaf.shape[:2] != case.lead for leaf in jax.tree.leaves(wanted)):
        return
    moved = run(case.masked(case.in_front(case.x), in_front)).valid
    case.same("output with the padding in front:", moved, case.in_front(wanted))


def _rows(case: SequenceCase, batch_axis: int) -> None:
    run = case.run[False]
    garbage = with_garbage_row(case.x)
    for mask in case.masks:
        clean = run(case.masked(case.x, mask)).valid
        dirty = run(case.masked(garbage, mask)).valid
        others = (without_first(valid, batch_axis) for valid in (dirty, clean))
        case.same("rows beside a row of garbage:", *others)


def _blocks(case: SequenceCase) -> None:
    start, step = stream(case.layer, capacity=case.lead[1])

    def in_blocks(sizes: list[int], params: PyTree, x: PyTree) -> PyTree:
        carry = start(params, case.state, x)
        fixed = specs_of(carry)

        def advance(carry: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
            y, carry = step(params, case.state, carry, part)
            if specs_of(carry) != fixed:
                case.fail(
                    f"the carry changes: {format_spec(fixed)} became {format_spec(specs_of(carry))}"
                )
            return carry, y

        # Equal blocks in a scan: one trace of the step, however many there are.
        if len(set(sizes)) == 1:
            _, made = jax.lax.scan(advance, carry, _in_blocks(x, sizes[0]))
            return jax.tree.map(_put_together, made), {}
        parts, at = [], 0
        for size in sizes:
            carry, y = advance(carry, _cut(x, at, at + size))
            parts.append(y)
            at += size
        return jax.tree.map(lambda *ys: concatenate(ys, 1), *parts, is_leaf=is_sequence), {}

    wholes = [(mask, case.run[False](case.masked(case.x, mask))) for mask in (None, *case.masks)]
    for sizes in case.splits():
        run = case.program(functools.partial(in_blocks, sizes))
        for mask, whole in wholes:
            if mask is None and len(set(sizes)) > 1:
                continue  # what a split of other sizes shows needs no program of its own for this
            what = f"blocks of {sizes}{'' if mask is None else ' with a mask'}"
            made = run(case.masked(case.x, mask))
            case.same(f"output of {what}:", made.valid, whole.valid)
            case.same(f"gradient of {what}:", made.gradient, whole.gradient)


def _reported(case: SequenceCase) -> None:
    try:
        receptive_field = receptive_field_of(case.layer, case.x)
    except LayerError as error:
        # Of several sequences, or of none, no single receptive field is reported.
        if "not one sequence" not in error.problem:
            raise
        return
    batch, steps = case.lead
    everywhere = np.ones(case.lead, bool)

    def run(x: PyTree) -> np.ndarray:
        (y,) = sequences_in(case.run[False](case.masked(x, everywhere)).y)
        return numbers(y.values)

    base = run(case.x)
    count = base.shape[1]
    seen = np.zeros((count, steps), bool)
    for at in range(steps):
        # Far in both directions, for a maximum and for clipped gates; near, for what saturates.
        for push in (10.0, -10.0, 0.1):

            def moved(leaf: np.ndarray) -> np.ndarray:
                leaf = leaf.copy()
                step = leaf[:, at]  # noqa: B023
                step[...] = step + push * (1 + np.cos(step)) if is_float(leaf) else other_than(step)  # noqa: B023
                return leaf

            # An output that does not see the step is the same sum of the same numbers.
            apart = np.abs(run(map_numpy(moved, case.x)) - base) > 1e-12
            seen[:, at] |= apart.reshape(batch, count, -1).any((0, 2))
    # In steps of the input: output t is at step stride * t of it.
    outputs, inputs = np.nonzero(seen)
    distance = float(receptive_field.stride) * outputs - inputs
    # How far an output could see at most: from the last one back, from the first one ahead.
    ways = (
        ("past", distance, receptive_field.lookback, float(receptive_field.stride) * (count - 1)),
        ("future", -distance, receptive_field.lookahead, steps - 1),
    )
    for name, distances, most, room in ways:
        measured = distances.max(initial=0)
        if measured > max(most, 0) + _EXACT:
            case.fail(f"an output sees {measured} steps of the {name}, and {most} are reported")
        if not math.isinf(most) and 0 < most <= room and measured < most - _EXACT:
            case.fail(f"an output sees {measured} steps of the {name}, not the {most} reported")


def _in_blocks(x: PyTree, size: int) -> PyTree:
    """(blocks, batch, size, ...) of (batch, time, ...)."""
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(leaf.shape[0], -1, size, *leaf.shape[2:]), 1, 0), x
    )


def _put_together(leaf: jax.Array) -> jax.Array:
    """(batch, time, ...) of (blocks, batch, size, ...)."""
    return jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])


def _cut(x: PyTree, start: int, stop: int) -> PyTree:
    return jax.tree.map(lambda node: node[:, start:stop], x, is_leaf=is_sequence)
