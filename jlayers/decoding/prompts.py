"""Prompts: what decoding starts from, rows of different lengths that end at the same step."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import core
from ..base import arguments
from ..base.constructors import out_spec
from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.specs import (
    Params,
    State,
    format_short,
    format_spec,
    spec,
)
from ..sequences.streaming import stream

Ids = Any  # bools and ints of numpy or of JAX: nothing is compiled to look at a prompt


class Prompt(NamedTuple):
    """Ids (batch, steps), and bools for those that are some, or None for all of them."""

    ids: Ids
    mask: Ids | None

    @property
    def known(self) -> bool:
        return not any(isinstance(part, jax.core.Tracer) for part in self)

    def padded(self, length: int) -> Prompt:
        """With padding behind, and a mask."""
        like = np if self.known else jnp
        ids, mask = like.asarray(self.ids), self.mask
        mask = like.ones(ids.shape, bool) if mask is None else like.asarray(mask)
        more = ((0, 0), (0, length - ids.shape[1]))
        return Prompt(like.pad(ids, more), like.pad(mask, more))

    def ending_together(self) -> Prompt:
        """With the padding behind a row moved before it: convolutions count all steps."""
        ids = jnp.asarray(self.ids).astype(jnp.int32)
        if self.mask is None:
            return Prompt(ids, None)
        mask = jnp.asarray(self.mask)
        behind = jnp.argmax(jnp.flip(mask, 1), 1)
        roll = jax.vmap(jnp.roll)
        return Prompt(roll(ids, behind), roll(mask, behind))


def checked(prompt: Any) -> Prompt:
    """The prompt that a user gave.

    Raises:
      LayerError: for what is no batch of ids, and for rows that are known to be empty.
    """
    ids, mask = (prompt.values, prompt.mask) if isinstance(prompt, Sequence) else (prompt, None)
    if not isinstance(ids, jax.Array | np.ndarray):
        try:
            ids = np.asarray(ids)
        except ValueError:
            ids = np.asarray(None)
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        hint = "jl.Sequence.from_rows(rows) for rows of different lengths"
        if ids.ndim == 1:
            hint = "prompt[None] for a batch of one"
        elif ids.ndim == 2 and ids.dtype != object:
            hint = "prompt.astype(jnp.int32)"
        raise LayerError(
            "the prompt is no batch of ids",
            expected="int[batch, steps], or a Sequence of them",
            got=format_short(prompt),
            hint=hint,
        )
    if ids.shape[1] == 0:
        raise LayerError("the prompt is empty", got=format_spec(ids), hint=_FIRST)
    found = Prompt(ids, mask)
    if found.known:
        _check_values(found)
    return found


_FIRST = "a first id for every row: one that begins a text"


def _check_values(prompt: Prompt) -> None:
    ids, mask = np.asarray(prompt.ids), _valid(prompt)
    if not mask.any(1).all():
        row = int(np.argmin(mask.any(1)))
        raise LayerError(
            f"row {row} of the prompt is empty", got=format_short(prompt.ids), hint=_FIRST
        )
    if (ids[mask] < 0).any():
        raise LayerError(
            "the prompt holds negative ids",
            got=format_short(prompt.ids),
            hint="jl.Sequence(ids, mask) says what is padding",
        )


class Writer(NamedTuple):
    """A model that has read a prompt but for the last id of each row.

    Attributes:
      carry: what it remembers.
      last: int32 (batch,), the last ids.
      advance: ``advance(carry, ids) -> (logits, carry)`` for the ids (rows,) of one step; the
        logits are (rows, num_embeddings), float32 at least.
      start: ``start(rows)``, the carry before the first step of so many rows.
    """

    carry: Any
    last: jax.Array
    advance: Callable[[Any, jax.Array], tuple[jax.Array, Any]]
    start: Callable[[int], Any]


def read(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    steps: int,
    stop: tuple[int, ...] = (),
) -> Writer:
    """Reads a prompt that is ``ending_together``, all but its last ids, as one block.

    What the model says of that block is not used, and not computed: the head of a model with many
    words sees the last ids alone.

    Raises:
      LayerError: for a model that cannot be streamed, one whose output is no logits, and for ids
        in the prompt or in ``stop`` that these leave out.
    """
    ids, mask = prompt
    rows, length = ids.shape
    start, step = stream(model, capacity=length - 1 + steps)
    check_ids(model, prompt, stop)

    def start_of(rows: int) -> Any:
        return start(params, state, spec((rows, length), jnp.int32))

    def advance(carry: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        y, carry = step(params, state, carry, ids[:, None])
        logits = y[:, 0]
        return logits.astype(core.at_least_float32(logits.dtype)), carry

    carry = start_of(rows)
    if length > 1:
        block = ids[:, :-1]
        carry = step(
            params, state, carry, block if mask is None else Sequence(block, mask[:, :-1])
        )[1]
    return Writer(carry, ids[:, -1], advance, start_of)


def check_ids(model: Layer, prompt: Prompt, stop: tuple[int, ...]) -> None:
    """Raises for a model without logits, and for ids that these leave out, where they are known."""
    ids = prompt.ids
    rows, length = ids.shape
    y = out_spec(model, spec((rows, length), jnp.int32))
    fits = hasattr(y, "shape") and len(y.shape) == 3 and y.shape[:2] == (rows, length)
    if not fits or not jnp.issubdtype(y.dtype, jnp.floating):
        raise LayerError(
            "the model gives no logits",
            expected=f"floating[{rows}, {length}, num_embeddings] for ids int32[{rows}, {length}]",
            got=format_spec(y),
        )
    if prompt.known and (np.asarray(ids)[_valid(prompt)] >= y.shape[2]).any():
        raise LayerError(
            "the prompt holds ids that the model has no logits for",
            expected=f"0 to {y.shape[2] - 1}",
            got=str(int(np.asarray(ids)[_valid(prompt)].max())),
        )
    wrong = [one for one in stop if not 0 <= one < y.shape[2]]
    if wrong:
        raise LayerError(
            f"stop {wrong[0]} is no id of the model, and would never be written",
            expected=f"0 to {y.shape[2] - 1}",
        )


def _valid(prompt: Prompt) -> np.ndarray:
    shape = prompt.ids.shape
    return np.ones(shape, bool) if prompt.mask is None else np.asarray(prompt.mask)


def check_model(model: Any) -> None:
    if not isinstance(model, Layer):
        raise LayerError("model is no layer", got=format_short(model), hint="jl.lift(model)")


def check_stop(stop: Any) -> tuple[int, ...]:
    """The ids that end a row, as a tuple."""
    if stop is None:
        return ()
    many = stop if isinstance(stop, tuple | list) else (stop,)
    return tuple(arguments.integer("stop", value) for value in many)


def bucket(length: int, buckets: Many[int] | None) -> int:
    """The length to which a prompt of ``length`` steps is padded.

    Raises:
      LayerError: for a prompt longer than all of them.
    """
    if buckets is None:
        # The last ids go in by themselves: what goes in before is a power of two.
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
