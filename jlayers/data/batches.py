"""Batches of arrays, shuffled by key and epoch, that can be read from any position on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, JlayersError, public_api
from ..base.specs import PyTree, format_short, path_text
from . import host_arrays
from .positions import Position, beyond, checked, checked_epochs
from .shuffle import shuffled, words
from .stacking import stack

# Epoch and index of a batch, and the position after it.
_Place = tuple[int, int, Position]
_LAST = ("drop", "pad", "keep")


class Batches:
    """Batches of the rows of arrays: deterministic, shuffled anew each epoch, resumable.

    The order of an epoch is a function of the key, the epoch and the number of rows, and of
    nothing else: the same on every machine, and with every version of numpy and JAX. Row i gets
    the i-th 64-bit word of the Philox 4x64-10 stream with that key and the epoch as the highest
    word of its counter (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011); its
    lowest bits, as many as the largest row number has, give way to i, and rows go by these words
    in ascending order. An order takes 8 bytes a row.

    Each batch is in memory of its own, aligned so that JAX on a CPU computes with it in place.

    Args:
      arrays: a pytree of numpy arrays, memory-mapped ones too, with equal first axes;
        ``(x, *targets)`` for ``train_step``.
      size: rows in a batch.
      key: an int seed or a typed key to shuffle by; None leaves the rows in order. A seed orders
        as ``jax.random.key(seed)`` does.
      last: what becomes of rows that do not fill a batch: "drop" leaves them out of this epoch,
        "keep" gives a smaller batch (and a second compilation), "pad" fills it up with the rows
        that the epoch began with. With "pad" every batch gets one more entry, the last: bools
        (size,), True for rows that are no filling. ``arrays`` has to be a tuple then.

    Raises:
      DataError: for no arrays, first axes that differ, fewer rows than give one batch.

    >>> import numpy as np
    >>> from jlayers import training
    >>> batches = training.Batches((np.arange(10), np.arange(10) % 2), 4, key=0)
    >>> len(batches), batches.start
    (2, [0, 0])
    >>> for (x, label), position in batches.read([0, 1], epochs=2):
    ...     print(x, position)
    [8 5 4 3] [1, 0]
    [8 7 4 2] [1, 1]
    [6 5 9 0] [2, 0]
    """

    rereads = True

    @public_api
    def __init__(self, arrays: PyTree, size: int, *, key: Any = None, last: str = "drop"):
        try:
            self._leaves, self._treedef, self._rows = _checked_arrays(arrays)
            self._size = arguments.positive("size", size)
            self._key = None if key is None else words(key)
            if last not in _LAST:
                raise DataError(
                    f"unknown last {format_short(last)}", expected=", ".join(map(repr, _LAST))
                )
            if last == "pad" and type(arrays) is not tuple:
                raise DataError(
                    "last='pad' adds an entry to a tuple, and arrays is none",
                    got=format_short(arrays),
                    hint="Batches((x, *targets), ...)",
                )
            if last == "drop" and self._size > self._rows:
                raise DataError(
                    f"{self._rows} rows give no batch of {self._size}",
                    hint="a smaller size, or last='keep' or 'pad'",
                )
        except JlayersError as error:
            error.attribute_to("Batches")
            raise
        self._last = last
        self._count = self._rows // self._size
        if last != "drop" and self._rows % self._size:
            self._count += 1
        self._known: tuple[int, Any] = (-1, None)

    @property
    def start(self) -> Position:
        """The position before the first batch."""
        return [0, 0]

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self._count

    def __iter__(self) -> Iterator[PyTree]:
        """The batches of the first epoch."""
        return (self._at(0, index) for index in range(self._count))

    @public_api
    def at(self, epoch: int, index: int) -> PyTree:
        """The batch of that epoch with that number, from 0 on: a pure function.

        Raises:
          DataError: where the epoch has no such batch.
        """
        epoch, index = arguments.integer("epoch", epoch, 0), arguments.integer("index", index, 0)
        if index >= self._count:
            raise DataError(f"an epoch has {self._count} batches, there is no batch {index}")
        return self._at(epoch, index)

    @public_api
    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[PyTree, Position]]:
        """Batches, each with the position after it.

        Args:
          position: ``[epoch, index]``, two ints: the number of the epoch, and how many of its
            batches were read before. From the beginning by default.
          epochs: after how many epochs in all it ends, those before ``position`` included. Never
            by default.

        Raises:
          DataError: for a position that is none, or beyond the end of an epoch.
        """
        epoch, index, _ = checked(self.start if position is None else position)
        if index > self._count:
            raise beyond(epoch, index, self._count)
        return _Reader(self, self._places(epoch, index, checked_epochs(epochs)))

    def _places(self, epoch: int, index: int, epochs: int | None) -> Iterator[_Place]:
        count = self._count
        if index == count:
            epoch, index = epoch + 1, 0
        while epochs is None or epoch < epochs:
            for i in range(index, count):
                yield epoch, i, [epoch, i + 1] if i + 1 < count else [epoch + 1, 0]
            epoch, index = epoch + 1, 0

    def _at(self, epoch: int, index: int) -> PyTree:
        return self._gathered(self._rows_of(epoch, index), index)

    def _stack(self, places: list[_Place]) -> PyTree:
        rows = [self._rows_of(epoch, index) for epoch, index, _ in places]
        if any(len(some) != len(rows[0]) for some in rows):
            return stack([self._at(epoch, index) for epoch, index, _ in places])  # which raises
        index = np.array([[index] for _, index, _ in places])
        return self._gathered(np.stack(rows), index)

    def _gathered(self, rows: np.ndarray, index: Any) -> PyTree:
        leaves = [host_arrays.take(leaf, rows) for leaf in self._leaves]
        batch = jax.tree.unflatten(self._treedef, leaves)
        if self._last != "pad":
            return batch
        return (*batch, index * self._size + np.arange(self._size) < self._rows)

    def _rows_of(self, epoch: int, index: int) -> np.ndarray:
        start = index * self._size
        stop = start + self._size
        order = self._order(epoch)
        if stop > self._rows and self._last == "pad":
            return order[np.arange(start, stop) % self._rows]
        return order[start:stop]

    def _order(self, epoch: int) -> np.ndarray:
        if self._key is None:
            epoch = 0  # all epochs go by the one order
        known, order = self._known
        if known != epoch:
            order = shuffled(self._rows, self._key, epoch) if self._key else np.arange(self._rows)
            self._known = (epoch, order)  # in one assignment: several threads may read
        return order  # type: ignore[no-any-return]


class _Reader(Iterator[tuple[PyTree, Position]]):
    """What ``read`` gives: an iterator that can also gather the rows of a whole stack at once."""

    def __init__(self, batches: Batches, places: Iterator[_Place]):
        self._batches = batches
        self._places = places

    def __next__(self) -> tuple[PyTree, Position]:
        epoch, index, after = next(self._places)
        return self._batches._at(epoch, index), after

    def stacks(self, steps: int) -> Iterator[tuple[PyTree, Position, int]]:
        while places := list(itertools.islice(self._places, steps)):
            yield self._batches._stack(places), places[-1][2], len(places)


def _checked_arrays(arrays: PyTree) -> tuple[list[np.ndarray], Any, int]:
    flat, treedef = jax.tree.flatten_with_path(arrays)
    shapes = {}
    for path, leaf in flat:
        where = path_text(path)
        shape = getattr(leaf, "shape", None)
        if not shape:
            raise DataError(
                f"{repr(where) if where else 'arrays'} is no array with a first axis",
                got=format_short(leaf),
                hint="np.asarray(x)" if shape is None else None,
            )
        shapes[where] = shape
    if not shapes:
        raise DataError("there are no arrays", got=format_short(arrays))
    rows = {shape[0] for shape in shapes.values()}
    if len(rows) > 1:
        raise DataError(
            "the first axes of the arrays differ",
            expected="as many rows in each",
            got=", ".join(f"{where!r}: {shape[0]} rows" for where, shape in shapes.items()),
        )
    if rows == {0}:
        raise DataError("the arrays have no rows", got=format_short(arrays))
    # A plain view of a memory map: its own class costs time at every batch.
    leaves = [np.asarray(leaf) for _, leaf in flat]
    return leaves, treedef, rows.pop()
