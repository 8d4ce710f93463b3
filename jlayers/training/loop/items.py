"""What each call of a loop is given: batches or stacks, read ahead, on their device."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np

from ...base.arrays import native_tree
from ...data import Position, Prefetched, Source
from ...data.ownership import read_owned
from ...data.prefetch import put_on
from ...data.recent_batches import RecentBatches
from ...data.stacking import aligned_stacks
from .signals import GRACE, interruptible

# (batch or stack, position after it, how many steps it is for)
Item: TypeAlias = tuple[Any, Position, int]

# What most batches have, and JAX takes as it is.
_USUAL = frozenset(map(np.dtype, ("float32", "int32", "uint8", "bool")))


def call_items(
    source: Source,
    position: Position,
    *,
    epochs: int | None,
    step: int,
    left: int | None,
    steps_per_call: int,
    prefetch: int,
    device: Any,
    put: Callable[[Any], Any] | None,
    recent: RecentBatches,
) -> contextlib.AbstractContextManager[Iterator[Item]]:
    """The batches for each call from a position on.

    Args:
      source, position, epochs: as for ``Source.read``.
      step: the number of steps taken so far.
      left: how many are still to be taken at most.
      steps_per_call, prefetch, device: as for ``fit``.
      put: puts an item on a mesh, instead of ``device``.
      recent: what the loop finds batches again by, while a thread reads these.
    """
    read: Any = read_owned(source, position, epochs)
    # Batches gives arrays that JAX takes, and a stack of them at once.
    if not hasattr(read, "stacks"):
        read = _native(read)
    left = None if left is None else min(left, sys.maxsize)
    items: Iterator[Item]
    if steps_per_call > 1:
        items = aligned_stacks(read, steps_per_call, step, left)
    else:
        items = _one_by_one(itertools.islice(read, left))
    # The thread of prefetch also puts batches on the device.
    if prefetch:
        return Prefetched(recent.reading(items), prefetch, put or put_on(device))
    if put is not None:
        items = map(put, items)
    elif device is not None:
        items = ((jax.device_put(batch, device), after, count) for batch, after, count in items)
    return contextlib.nullcontext(items)


def _native(read: Iterator[tuple[Any, Position]]) -> Iterator[tuple[Any, Position]]:
    for batch, after in read:
        # A walk over the tree takes longer than all else that happens to a small batch here.
        if type(batch) is not tuple or not all(
            type(leaf) is np.ndarray and leaf.dtype in _USUAL for leaf in batch
        ):
            batch = native_tree(batch, "the batch")
        yield batch, after


def _one_by_one(read: Iterator[tuple[Any, Position]]) -> Iterator[Item]:
    for batch, after in read:
        yield batch, after, 1


# Where a loop waits for its source.
interruptible(_one_by_one, GRACE)
interruptible(aligned_stacks, GRACE)
interruptible(Prefetched.__next__, GRACE)
interruptible(RecentBatches.find, GRACE)
