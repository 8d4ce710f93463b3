"""Prompts: what decoding starts from, rows of different lengths that end at the same step.

How to read this file: ``as_prompt`` turns what a user gives into a ``Prompt``, an array of ids and
a mask. ``generate`` pads it to a bucket (``Prompt.padded``, ``bucket_length``). ``prefill`` has a
model read a ``right_aligned`` prompt, all but the last id of each row, and returns a ``Decoder``,
from which the loops of ``decode`` and ``beam_search`` start. The checks of arguments that these
share are at the end.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base import arguments
from ..base.adapters import out_spec
from ..base.arrays import native, native_tree
from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.sequence import Sequence, is_sequence, split
from ..base.specs import format_short, format_spec, spec, specs_of
from ..base.types import Carry, Params, PyTree, State
from ..core.dtypes import at_least_float32
from ..sequences.streaming import check_causal, stream
from .batch_axes import PlaceCarry, as_it_is
from .context import beside, repeated, specs_for

# Of NumPy as long as the values are known: nothing is compiled to look at a prompt.
Array = jax.Array | np.ndarray
PromptLike = Array | Sequence | abc.Sequence[abc.Sequence[int]]

_FIRST_ID = "a first id for every row: one that begins a text"


class Prompt(NamedTuple):
    """Ids (batch, steps), and a mask of the valid ones, or None where all of them are."""

    ids: Array
    mask: Array | None

    @property
    def concrete(self) -> bool:
        """Whether the values are known, and not traced."""
        return not any(isinstance(part, jax.core.Tracer) for part in self)

    def padded(self, length: int) -> Prompt:
        """With padding at the end, and a mask."""
        # By NumPy where that is possible, so that padding compiles nothing.
        xp = np if self.concrete else jnp
        ids, mask = xp.asarray(self.ids), self.mask
        mask = xp.ones(ids.shape, bool) if mask is None else xp.asarray(mask)
        widths = ((0, 0), (0, length - ids.shape[1]))
        return Prompt(xp.pad(ids, widths), xp.pad(mask, widths))

    def right_aligned(self) -> Prompt:
        """With the padding at the end of a row moved to its start.

        Then the last ids are one column of the array, and a causal convolution, which counts padded
        steps as steps, finds the row's own last ids before the first new one.
        """
        # int32 whatever the user's dtype, so that programs do not differ by it.
        ids = jnp.asarray(self.ids).astype(jnp.int32)
        if self.mask is None:
            return Prompt(ids, None)
        mask = jnp.asarray(self.mask)
        padding = jnp.argmax(jnp.flip(mask, 1), 1)
        roll = jax.vmap(jnp.roll)
        return Prompt(roll(ids, padding), roll(mask, padding))


def as_prompt(prompt: PromptLike) -> Prompt:
    """The prompt that a user gave.

    Raises:
      LayerError: for anything but a batch of ids, and for rows that are known to be empty.
    """
    values, mask = split(prompt)
    # NumPy makes an array of objects of rows of different lengths, which is answered below.
    if hasattr(values, "shape") and format_spec(values)[:6] != "object":
        values = native(values, "the prompt")
    ids: Array = values if isinstance(values, jax.Array | np.ndarray) else _from_lists(values)
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        hint = "jl.Sequence.from_rows(rows) for rows of different lengths"
        if ids.ndim == 1:
            hint = "prompt[None] for a batch of one"
        elif ids.ndim == 2 and ids.dtype != object:
            hint = "prompt.astype(jnp.int32)"
        raise LayerError(
            "prompt must be a batch of integer ids",
            expected="int[batch, steps], or a Sequence of them",
            got=format_short(prompt),
            hint=hint,
        )
    # Something has to be read before the first id can be chosen.
    if ids.shape[1] == 0:
        raise LayerError("the prompt is empty", got=format_spec(ids), hint=_FIRST_ID)
    result = Prompt(ids, mask)
    if result.concrete:
        _check_values(result)
    return result


def _from_lists(rows: object) -> np.ndarray:
    try:
        return np.asarray(rows)
    except ValueError:  # rows of different lengths
        # Of dtype object, which ``as_prompt`` refuses with a hint.
        return np.asarray(None)


def _check_values(prompt: Prompt) -> None:
    ids, mask = np.asarray(prompt.ids), _mask_of(prompt)
    if not mask.any(1).all():
        row = int(np.argmin(mask.any(1)))
        raise LayerError(
            f"row {row} of the prompt is empty", got=format_short(prompt.ids), hint=_FIRST_ID
        )
    if (ids[mask] < 0).any():
        raise LayerError(
            "the prompt holds negative ids",
            got=format_short(prompt.ids),
            hint="jl.Sequence(ids, mask) says what is padding",
        )


class Decoder(NamedTuple):
    """A model that has read a prompt but for the last id of each row.

    Attributes:
      carry: that of the model's stream, after these steps.
      last: int32 (batch,), the last ids.
      advance: ``advance(carry, ids) -> (logits, carry)`` for the ids (rows,) of one step; the
        logits are (rows, num_embeddings), float32 at least.
      start: ``start(rows)``, the carry before the first step of so many rows.
    """

    carry: Carry
    last: jax.Array
    advance: Callable[[Carry, jax.Array], tuple[jax.Array, Carry]]
    start: Callable[[int], Carry]


def prefill(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    steps: int,
    stop: tuple[int, ...] = (),
    *,
    context: PyTree = None,
    copies: int = 1,
    place: PlaceCarry = as_it_is,
) -> Decoder:
    """Has the model read a prompt that is ``right_aligned``, all but its last ids, as one block.

    The output for that block is not used, and so not computed: the head of a model with a large
    vocabulary is applied to the last ids alone.

    Args:
      model, params, state: a causal model of ids.
      prompt: (batch, T).
      steps: how many more steps the carry has to have room for.
      stop: ids that end a row, to be checked.
      context: what the model reads beside the ids, (batch, ...), or None.
      copies: how many rows in place of one ``advance`` is called with.
      place: where the carry is to lie; with ``copies`` of 1.

    Raises:
      LayerError: for a model that cannot be streamed, one whose output is not logits, and for ids
        in the prompt or in ``stop`` that are outside the logits.
    """
    read = prompt.ids.shape[1] - 1
    more = 0 if prompt.mask is None else _unlike(read, context) - read
    if more:
        # In front, where the masked steps of shorter rows are too.
        prompt = Prompt(*(jnp.pad(jnp.asarray(part), ((0, 0), (more, 0))) for part in prompt))
    ids, mask = jnp.asarray(prompt.ids), prompt.mask
    rows, length = ids.shape
    # Every id but the very last is read: those of the prompt, and those that are generated.
    start, step = stream(model, capacity=length - 1 + steps)
    check_ids(model, prompt, stop, context)
    of_copies = repeated(context, copies)

    def start_of(rows: int) -> Carry:
        ids = spec((rows, length), jnp.int32)
        return start(params, state, beside(ids, specs_for(context, rows)))

    placed = place(start_of, rows)

    def advance(carry: Carry, ids: jax.Array) -> tuple[jax.Array, Carry]:
        y, carry = step(params, state, carry, beside(ids[:, None], of_copies))
        logits = _logits_of(y)[:, 0]
        return logits.astype(at_least_float32(logits.dtype)), placed(carry)

    carry = placed(start_of(rows))
    if context is not None:
        # With inputs of several kinds only the ids are a sequence that may be looked ahead in.
        looked_at = spec((rows, _unlike(length, context)), jnp.int32)
        check_causal(model, looked_at, beside=specs_of(context))
    if length > 1:
        block = ids[:, :-1]
        x = block if mask is None else Sequence(block, mask[:, :-1])
        _, carry = step(params, state, carry, beside(x, context))
    return Decoder(placed(carry), ids[:, -1], advance, start_of)


def _unlike(steps: int, context: PyTree) -> int:
    """So many steps or more, as many as no array of the context has.

    A body that is written for arrays takes an array with the steps of the ids for steps of theirs,
    with their mask.
    """
    leaves = jax.tree.leaves(context, is_leaf=is_sequence)
    taken = {leaf.shape[1] for leaf in leaves if not is_sequence(leaf) and len(leaf.shape) > 1}
    while steps in taken:
        steps += 1
    return steps


def _logits_of(y: PyTree) -> PyTree:
    """The logits, of a ``carried`` model the first of its pair."""
    return y[0] if isinstance(y, tuple) and len(y) == 2 and isinstance(y[1], dict) else y


def check_ids(model: Layer, prompt: Prompt, stop: tuple[int, ...], context: PyTree = None) -> None:
    """Checks that the model returns logits, and that the known ids are inside them.

    Raises:
      LayerError: where that is not so.
    """
    ids = prompt.ids
    rows, length = ids.shape
    # Abstractly: nothing is computed, and the result is cached with the model.
    y = _logits_of(out_spec(model, beside(spec((rows, length), jnp.int32), specs_of(context))))
    fits = hasattr(y, "shape") and len(y.shape) == 3 and y.shape[:2] == (rows, length)
    if not fits or not jnp.issubdtype(y.dtype, jnp.floating):
        raise LayerError(
            "the model must return logits",
            expected=f"floating[{rows}, {length}, num_embeddings] for ids int32[{rows}, {length}]",
            got=format_spec(y),
        )
    # Embedding would answer them with NaN, and a traced prompt still does.
    if prompt.concrete and (np.asarray(ids)[_mask_of(prompt)] >= y.shape[2]).any():
        raise LayerError(
            "the prompt holds ids that the model has no logits for",
            expected=f"0 to {y.shape[2] - 1}",
            got=str(int(np.asarray(ids)[_mask_of(prompt)].max())),
        )
    # The loop would run to its last step, and the user would not learn why.
    outside = [id_ for id_ in stop if not 0 <= id_ < y.shape[2]]
    if outside:
        raise LayerError(
            f"stop {outside[0]} is not an id of the model, and would never be generated",
            expected=f"0 to {y.shape[2] - 1}",
        )


def _mask_of(prompt: Prompt) -> np.ndarray:
    shape = prompt.ids.shape
    return np.ones(shape, bool) if prompt.mask is None else np.asarray(prompt.mask)


def check_model(model: object) -> None:
    """Raises a ``LayerError`` for anything but a ``Layer``."""
    if not isinstance(model, Layer):
        raise LayerError("model must be a Layer", got=format_short(model), hint="jl.lift(model)")


def stop_ids(stop: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The ids that end a row, as a tuple."""
    if stop is None:
        return ()
    ids = stop if isinstance(stop, tuple | list) else (stop,)
    return tuple(arguments.integer("stop", value) for value in ids)


def native_trees(params: Params, state: State) -> tuple[Params, State]:
    """``params`` and ``state`` as a program takes them."""
    return native_tree(params, "params"), native_tree(state, "state")


def pad_id(pad: int) -> int:
    """``pad`` as an id, which need not be one of the model's."""
    pad = arguments.integer("pad", pad)
    if not -(2**31) <= pad < 2**31:
        raise LayerError(f"pad must be an int32, got {pad}")
    return pad


def no_id(row: int, logits: str, rows: int) -> LayerError:
    """The error for a ``row``, one of ``rows``, for which there is no id; ``logits`` says why."""
    return LayerError(
        f"row {row} has no id to choose: its logits {logits}",
        got=f"{rows} such row{'s' * (rows != 1)}",
        hint="steps beyond a PositionEmbedding or a capacity are NaN; "
        "jl.inspection.find_non_finite says where other NaN and inf come from; "
        "under jax.jit such a row ends there",
    )


def bucket_length(length: int, buckets: abc.Sequence[int] | None) -> int:
    """The length to which a prompt of ``length`` steps is padded.

    Args:
      length: at least 1.
      buckets: the lengths to choose from; 1 and one more than powers of two by default, and
        ``length`` itself where it is empty.

    Raises:
      LayerError: for a prompt longer than all of them.

    >>> [bucket_length(n, None) for n in (1, 2, 3, 4, 5, 6)]
    [1, 2, 3, 5, 5, 9]
    """
    if buckets is None:
        # The last ids are read by themselves: the block before them is a power of two.
        return length if length == 1 else 1 + (1 << (length - 2).bit_length())
    sizes = sorted(arguments.positive("a bucket", size) for size in buckets)
    if not sizes:
        return length
    for size in sizes:
        if size >= length:
            return size
    raise LayerError(
        f"a prompt of {length} steps does not fit into the buckets", got=format_short(sizes)
    )
