"""The order of the rows in an epoch: a function of a key and the epoch that never changes."""

from __future__ import annotations

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError
from ..base.specs import format_short


def epoch_order(rows: int, key: tuple[int, int], epoch: int) -> np.ndarray:
    """The numbers below ``rows`` in the order that ``Batches`` promises for a key and an epoch."""
    # NumPy promises the same raw words in all versions, and nothing of permutation().
    counter = np.array([0, 0, 0, epoch], np.uint64)
    order = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(rows)
    # With the row in the lowest bits all words differ, so any sort, even the fastest, will do.
    low = np.uint64((1 << (rows - 1).bit_length()) - 1)
    order &= ~low
    order |= np.arange(rows, dtype=np.uint64)
    order.sort()
    order &= low
    return order.view(np.int64)


def philox_key(key: jax.Array | int) -> tuple[int, int]:
    """The two words of Philox's key, the lower first, of a seed or a typed key."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        number = arguments.integer("key", key, 0)
    else:
        arguments.typed_key(key)
        number = int.from_bytes(np.asarray(jax.random.key_data(key)).astype(">u4").tobytes())
    # Philox has two words of key; every typed key of JAX fits into them.
    if number >> 128:
        raise DataError(f"key must be less than 2**128, got {format_short(key)}")
    return number & (2**64 - 1), number >> 64
