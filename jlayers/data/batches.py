"""Batches of arrays, shuffled by key and epoch, that can be read from any position on.

How to read this file: a ``_Place`` names a batch; ``_row_numbers`` says which rows it has,
``_take`` copies them, and ``_at`` calls the functions of ``map``. ``_Reader`` walks over places,
one batch or a whole stack at a time.
"""

from __future__ import annotations

import copy
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ..base import arguments
from ..base.arrays import is_native, native
from ..base.errors import DataError, public_api, public_init
from ..base.specs import format_short, path_text
from ..base.types import PyTree
from . import host_arrays
from .shuffle import epoch_order, philox_key
from .source import Position, check_epochs, parse_position, past_end
from .stacking import stack

# Epoch and index of a batch, and the position after it.
_Place = tuple[int, int, Position]
_LAST = ("drop", "pad", "keep")


@public_init("Batches")
class Batches:
    """Batches of the rows of arrays: deterministic, shuffled again each epoch, resumable.

    The order of an epoch is a function of the key, the epoch and the number of rows, and of
    nothing else: the same on every machine, and with every version of NumPy and JAX. Row i gets
    the i-th 64-bit word of the Philox 4x64-10 stream with that key and the epoch as the highest
    word of its counter (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011). Its
    lowest bits, as many as the largest row number has, are replaced by i, and rows are sorted by
    these words in ascending order. An order takes 8 bytes a row.

    Each batch has memory of its own, aligned so that JAX on a CPU computes with it in place.

    Args:
      arrays: a pytree of NumPy arrays (rows, ...), memory-mapped ones too, with equal first axes
        and any dtypes; ``(x, *targets)`` for ``train_step``.
      size: rows in a batch.
      key: an int seed or a typed key to shuffle by; None leaves the rows in order. A seed has the
        order of ``jax.random.key(seed)``.
      last: what to do with rows that do not fill a batch: "drop" leaves them out of this epoch,
        "keep" makes a smaller batch (and a second compilation), "pad" fills it up with the first
        rows of the epoch. With "pad" every batch gets one more entry, the last: bools (size,),
        False for rows that were filled up. ``arrays`` must be a tuple then.

    Raises:
      DataError: if there are no arrays, if their first axes differ, and if there are fewer rows
        than one batch has.

    >>> import numpy as np
    >>> from jlayers import data
    >>> batches = data.Batches((np.arange(10), np.arange(10) % 2), 4, key=0)
    >>> len(batches), batches.start
    (2, [0, 0])
    >>> for (x, label), position in batches.read([0, 1], epochs=2):
    ...     print(x, position)
    [8 5 4 3] [1, 0]
    [8 7 4 2] [1, 1]
    [6 5 9 0] [2, 0]
    """

    rereads = True
    owns_memory = True

    def __init__(
        self, arrays: PyTree, size: int, *, key: jax.Array | int | None = None, last: str = "drop"
    ):
        leaves, self._treedef, self._rows = _check_arrays(arrays)
        self._takes = [(host_arrays.take_of(leaf), leaf) for leaf in leaves]
        self._size = arguments.positive("size", size)
        self._key = None if key is None else philox_key(key)
        if last not in _LAST:
            raise DataError("last must be " + " or ".join(map(repr, _LAST)), got=format_short(last))
        if last == "pad" and type(arrays) is not tuple:
            raise DataError(
                "arrays must be a tuple, to which last='pad' adds an entry",
                got=format_short(arrays),
                hint="Batches((x, *targets), ...)",
            )
        if last == "drop" and self._size > self._rows:
            raise DataError(
                f"there are only {self._rows} rows, fewer than a batch of {self._size} has",
                hint="a smaller size, or last='keep' or 'pad'",
            )
        self._last = last
        whole, rest = divmod(self._rows, self._size)
        self._count = whole + (last != "drop" and rest > 0)
        self._functions: tuple[tuple[Callable[..., PyTree], jax.Array | None], ...] = ()
        self._part: Callable[[int], np.ndarray] | None = None
        # One order is kept, at 8 bytes a row: epochs are read one after the other.
        self._latest: tuple[int, np.ndarray] = (-1, np.arange(0))

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the order and the content of the batches depend on, as JSON holds it.

        Of the content 64 rows are looked at: two sources that differ elsewhere are not told apart.
        """
        rows = np.unique(np.linspace(0, self._rows - 1, 64).astype(np.int64))
        checksum = 0
        for _, leaf in self._takes:
            # The bytes of objects are addresses.
            if leaf.dtype != object:
                checksum = zlib.crc32(np.ascontiguousarray(leaf[rows]).tobytes(), checksum)
        return {
            "rows": self._rows,
            "arrays": [f"{leaf.dtype}{list(leaf.shape[1:])}" for _, leaf in self._takes],
            "checksum": checksum,
            "size": self._size,
            "key": None if self._key is None else f"{self._key[1]:x}:{self._key[0]:x}",
            "last": self._last,
        } | self._functions_fingerprint()

    def _functions_fingerprint(self) -> dict[str, Any]:
        if not self._functions:
            return {}
        names = [_function_name(*entry) for entry in self._functions]
        return {"functions": names}

    def with_all_rows(self) -> Batches:
        """The same batches, and one more of the rows that ``last="drop"`` leaves out."""
        if self._last != "drop" or self._rows % self._size == 0:
            return self
        new = copy.copy(self)
        new._last, new._count = "keep", self._count + 1
        return new

    def of_places(self, part: Callable[[int], np.ndarray]) -> Batches:
        """The same batches with some of their rows alone, for one of several processes.

        Args:
          part: the places in a batch, for its number of rows.

        Returns:
          These batches themselves where functions of ``map`` are given whole ones.
        """
        if self._functions:
            return self
        new = copy.copy(self)
        new._part = part
        return new

    @public_api
    def map(
        self, function: Callable[..., PyTree], *, key: jax.Array | int | None = None
    ) -> Batches:
        """The same batches through a function, for augmentation: resumed as exactly as they are.

        Args:
          function: ``function(batch)``, or with a ``key`` ``function(batch, keys)``, a pure
            function of them. It is called as it is, where the batches are read: give it
            ``jax.jit(function)`` where it computes with JAX.
          key: an int seed or a typed key. ``keys`` (rows of the batch,) has a typed key for each
            row, which depends on this key, the epoch and the number of the row in the data, and on
            nothing else: neither the size of a batch nor where reading began.

        Raises:
          DataError: for something other than a function, and an invalid key.

        >>> import jax, numpy as np
        >>> from jlayers import data
        >>> def flip(row, key):
        ...     return jax.lax.cond(jax.random.bernoulli(key), lambda: row[::-1], lambda: row)
        >>> flips = jax.jit(jax.vmap(flip))
        >>> batches = data.Batches(np.arange(12).reshape(6, 2), 3, key=0).map(flips, key=1)
        >>> bool((batches.at(4, 1) == batches.at(4, 1)).all())
        True
        """
        if not callable(function):
            raise DataError("map needs a function", got=format_short(function))
        new = copy.copy(self)
        new.__dict__.pop("fingerprint", None)
        new.owns_memory = False  # a function may fill one buffer again and again
        own = None if key is None else _typed(key)
        new._functions = (*self._functions, (function, own))
        return new

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
        """The batch number ``index`` of an epoch, both from 0 on: a pure function.

        Raises:
          DataError: if the epoch has no such batch.
        """
        epoch, index = arguments.integer("epoch", epoch, 0), arguments.integer("index", index, 0)
        if index >= self._count:
            raise DataError(
                f"index must be below {self._count}, the batches of an epoch, got {index}"
            )
        return self._at(epoch, index)

    @public_api
    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[PyTree, Position]]:
        """Batches, each with the position after it.

        Args:
          position: ``[epoch, index]``, two ints: the number of the epoch, and how many of its
            batches were read before. The start by default.
          epochs: the number of epochs in all, those before ``position`` included; endless by
            default.

        Raises:
          DataError: for a position that is invalid, or past the end of an epoch.
        """
        epoch, index, _ = parse_position(self.start if position is None else position)
        if index > self._count:
            raise past_end(epoch, index, self._count)
        return _Reader(self, self._places(epoch, index, check_epochs(epochs)))

    def _places(self, epoch: int, index: int, epochs: int | None) -> Iterator[_Place]:
        count = self._count
        if index == count:
            epoch, index = epoch + 1, 0
        while epochs is None or epoch < epochs:
            for i in range(index, count):
                yield epoch, i, [epoch, i + 1] if i + 1 < count else [epoch + 1, 0]
            epoch, index = epoch + 1, 0

    def _at(self, epoch: int, index: int) -> PyTree:
        batch = self._rows_at(epoch, index)
        for function, key in self._functions:
            if key is None:
                batch = function(batch)
                continue
            rows = self._row_numbers(epoch, index)
            batch = function(batch, _row_keys(key, np.uint32(epoch), rows.astype(np.uint32)))
        return batch

    def _rows_at(self, epoch: int, index: int) -> PyTree:
        if self._key is None and (stop := (index + 1) * self._size) <= self._rows:
            return self._gather(slice(stop - self._size, stop), index)
        return self._gather(self._row_numbers(epoch, index), index)

    def _stack(self, places: list[_Place]) -> PyTree:
        if self._functions:
            return stack([self._at(epoch, index) for epoch, index, _ in places])
        # One gather for the stack, not a copy of each batch and then one of all of them.
        rows = [self._row_numbers(epoch, index) for epoch, index, _ in places]
        # With last="keep" the last batch of an epoch is shorter, and a stack may go beyond it.
        if any(len(numbers) != len(rows[0]) for numbers in rows):
            return stack([self._at(epoch, index) for epoch, index, _ in places])  # raises
        # A column, so that the bools of "pad" are (steps, size).
        index = np.array([[index] for _, index, _ in places])
        return self._gather(np.stack(rows), index)

    def _gather(self, rows: np.ndarray | slice, index: int | np.ndarray) -> PyTree:
        places: np.ndarray | slice = slice(None)
        if self._part is not None:
            rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            places = self._part(rows.shape[-1])
            rows = rows[..., places]
        batch = self._take(rows)
        if self._last != "pad":
            return batch
        return (*batch, index * self._size + np.arange(self._size)[places] < self._rows)

    def _take(self, rows: np.ndarray | slice) -> PyTree:
        leaves = [_converted(take(leaf, rows)) for take, leaf in self._takes]
        return jax.tree.unflatten(self._treedef, leaves)

    def _row_numbers(self, epoch: int, index: int) -> np.ndarray:
        start = index * self._size
        stop = start + self._size
        if stop > self._rows and self._last == "pad":
            places = np.arange(start, stop) % self._rows
            return places if self._key is None else self._order(epoch, self._key)[places]
        # Without a key a row's place is its number: no array of all of them is made.
        if self._key is None:
            return np.arange(start, min(stop, self._rows))
        return self._order(epoch, self._key)[start:stop]

    def _order(self, epoch: int, key: tuple[int, int]) -> np.ndarray:
        latest, order = self._latest
        if latest != epoch:
            order = epoch_order(self._rows, key, epoch)
            self._latest = (epoch, order)  # in one assignment: several threads may read
        return order


class _Reader(Iterator[tuple[PyTree, Position]]):
    """What ``read`` returns: an iterator that can also gather the rows of a whole stack at once."""

    def __init__(self, batches: Batches, places: Iterator[_Place]):
        self.owns_memory = batches.owns_memory
        self._batches = batches
        self._places = places

    def __next__(self) -> tuple[PyTree, Position]:
        epoch, index, after = next(self._places)
        return self._batches._at(epoch, index), after

    def stacks(self, steps: int) -> Iterator[tuple[PyTree, Position, int]]:
        while places := list(itertools.islice(self._places, steps)):
            yield self._batches._stack(places), places[-1][2], len(places)


def _function_name(function: Callable[..., PyTree], key: jax.Array | None) -> str:
    """With its key: another one makes other batches of the same rows."""
    name = str(getattr(function, "__qualname__", "function"))
    if key is None:
        return name
    words = np.asarray(jax.random.key_data(key)).reshape(-1)
    return f"{name} {':'.join(f'{word:x}' for word in words)}"


def _typed(key: Any) -> Any:
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(arguments.integer("key", key, 0))
    arguments.typed_key(key)
    return key


@jax.jit
def _row_keys(key: jax.Array, epoch: np.uint32, rows: np.ndarray) -> jax.Array:
    """A key for each row of the data, in this epoch."""
    own = jax.random.fold_in(key, epoch)
    return jax.vmap(jax.random.fold_in, (None, 0))(own, rows)


def _readable(leaf: Any, where: str) -> Any:
    """The array, or that of another library in a form that NumPy reads."""
    # Texts and objects are data as well, which a source of the user's own may turn into numbers.
    if isinstance(leaf, np.ndarray) and not isinstance(leaf, np.ma.MaskedArray):
        return leaf
    if isinstance(leaf, jax.core.Tracer):
        raise DataError(f"{where!r} is traced", hint="Batches outside jax.jit")
    return native(leaf, repr(where))


def _converted(batch: np.ndarray) -> np.ndarray:
    """A batch in the byte order of the machine: here, since the whole may not fit into memory."""
    if is_native(batch) or batch.dtype.kind not in "iufc":
        return batch
    return native(batch)  # type: ignore[no-any-return]


def _check_arrays(arrays: PyTree) -> tuple[list[np.ndarray], jax.tree_util.PyTreeDef, int]:
    flat, treedef = jax.tree.flatten_with_path(arrays)
    shapes = {}
    for path, leaf in flat:
        where = path_text(path)
        shape = getattr(leaf, "shape", None)
        if not shape:
            raise DataError(
                f"{repr(where) if where else 'arrays'} must be an array with a first axis",
                got=format_short(leaf),
                hint="np.asarray(x)" if shape is None else None,
            )
        shapes[where] = shape
    if not shapes:
        raise DataError("there are no arrays", got=format_short(arrays))
    # Nothing is broadcast: an array of one row among others is a mistake.
    rows = {shape[0] for shape in shapes.values()}
    if len(rows) > 1:
        raise DataError(
            "the first axes of the arrays differ",
            expected="the same number of rows in each",
            got=", ".join(f"{where!r}: {shape[0]} rows" for where, shape in shapes.items()),
        )
    if rows == {0}:
        raise DataError("the arrays have no rows", got=format_short(arrays))
    # A plain view of a memory map, whose own class costs time at every batch.
    leaves = [np.asarray(_readable(leaf, path_text(path))) for path, leaf in flat]
    return leaves, treedef, rows.pop()
