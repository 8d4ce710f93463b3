"""Batches in memory that no source writes to again.

A source may fill one buffer again and again: a reader of files, a simulator. Batches are read
ahead, kept until their step is known to be finite, and on a CPU read by JAX while the next one is
being made. So what a source's code yields is copied, unless it is known that nothing else can write
to it: arrays of JAX, read-only arrays, and arrays that nothing else refers to.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

import jax
import numpy as np

from ..base.types import PyTree
from . import host_arrays
from .source import Position, Source

# Whose items cannot be written to by reading them: no code of a source runs meanwhile.
_STATIC: tuple[type, ...] = (list, tuple, type(iter([])), type(iter(())))

# To copy so many bytes takes less time than to find out whether they must be.
_SMALL = 1 << 13
_owning: set[CodeType] = set()


def owned_items(items: Iterable[PyTree]) -> Iterator[PyTree]:
    """The batches of an iterable, in memory of their own."""
    return iter(items) if type(items) in _STATIC else map(owned, items)


def owns_its_items(generator: Callable[..., Any]) -> None:
    """Marks a generator function whose items are in memory of their own already."""
    _owning.add(generator.__code__)


def owns(items: Iterable[Any]) -> bool:
    """Whether the items are known to be in memory of their own, so that they need no copy."""
    # The readers of `Batches` and of `prefetch` say so themselves.
    return getattr(items, "gi_code", None) in _owning or getattr(items, "owns_memory", False)


def read_owned(
    source: Source, position: Position, epochs: int | None = None
) -> Iterator[tuple[PyTree, Position]]:
    """``source.read``, with batches in memory of their own."""
    read = source.read(position, epochs)
    if getattr(source, "owns_memory", False):
        return read
    return ((owned(batch), after) for batch, after in read)


def owned(batch: PyTree) -> PyTree:
    """A batch whose NumPy arrays are copied, unless nothing else can write to them."""
    if type(batch) is tuple and (copies := _small_copies(batch)) is not None:
        return copies
    leaves, treedef = jax.tree.flatten(batch)
    alone = sys.getrefcount(batch) <= _counts[0]
    changed = False
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, np.ndarray):
            # A tensor of torch can be written to, too.
            if not isinstance(leaf, jax.Array) and callable(clone := getattr(leaf, "clone", None)):
                leaves[i], changed = clone(), True
            continue
        if leaf.nbytes < _SMALL:
            leaves[i], changed = leaf.copy(), True
        elif not (
            (
                alone
                and sys.getrefcount(leaf) <= _counts[1]
                and leaf.base is None
                and _is_flat(batch)
            )
            or _is_constant(leaf)
        ):
            # Of a subclass, a masked array for instance, a plain copy would lose what it adds.
            plain = type(leaf) in (np.ndarray, np.memmap)
            leaves[i], changed = host_arrays.copy(leaf) if plain else leaf.copy(), True
    return jax.tree.unflatten(treedef, leaves) if changed else batch


def _small_copies(batch: tuple[Any, ...]) -> tuple[np.ndarray, ...] | None:
    """The usual batch, a tuple of small arrays, copied in a third of the time."""
    copies = []
    for array in batch:
        if type(array) is not np.ndarray or array.nbytes >= _SMALL:
            return None
        copies.append(array.copy())
    return tuple(copies)


def _is_flat(batch: PyTree) -> bool:
    """Whether a container holds arrays alone: of nested ones it is not known who refers to them."""
    if type(batch) not in (tuple, list, dict):
        return False
    children = batch.values() if type(batch) is dict else batch
    return all(isinstance(child, np.ndarray | np.generic | jax.Array) for child in children)


def _is_constant(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or type(array) is bytes


# How many references there are to a batch in `owned`, and to an array in it, where its source has
# none. Without a global lock the numbers mean nothing, and everything is copied.
_counts = [0, 0]


def _reused(counts: tuple[int, int]) -> bool:
    """Whether, with these numbers, the array of a source that refers to nothing is not copied."""
    _counts[:] = counts
    made: list[weakref.ref[np.ndarray]] = []

    def make(_: int) -> tuple[np.ndarray]:
        array = np.empty(_SMALL)
        made.append(weakref.ref(array))
        return (array,)

    (batch,) = owned_items(map(make, range(1)))
    return batch[0] is made[0]()


def _calibrate() -> tuple[int, int]:
    many = 20
    for_batch = next((n for n in range(many) if _reused((n, many))), 0)
    return for_batch, next((n for n in range(many) if _reused((for_batch, n))), 0)


_counts[:] = _calibrate() if getattr(sys, "_is_gil_enabled", lambda: True)() else (0, 0)
