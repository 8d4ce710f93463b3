"""Batches of rows of like lengths, padded to the length of their bucket and no further."""

from __future__ import annotations

import bisect
import copy
import itertools
from collections.abc import Iterable
from collections.abc import Sequence as Numbers
from typing import Any

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, public_init
from ..base.sequence import Sequence
from ..base.specs import format_short
from ..base.types import PyTree
from .batches import Batches, _Place
from .shuffle import epoch_order
from .stacking import stack


@public_init("LengthBuckets")
class LengthBuckets(Batches):
    """``Batches`` of rows of like lengths: short rows are not padded to the longest of all.

    A row of the data is in the bucket of the first boundary that it fits into, all rows of a batch
    are of one bucket, and its Sequences are cut to the boundary: a compiled step is compiled once
    for each bucket. Order, positions and ``map`` are those of ``Batches``; the order of the batches
    is shuffled as well, so that short ones do not come first.

    Args:
      arrays: as for ``Batches``, with one or several ``Sequence``s of NumPy arrays among them, as
        ``Sequence.from_rows`` makes them. Rows go by the longest of theirs, with padding behind.
      size: rows in a batch.
      boundaries: the lengths that batches are cut to, ascending; one more is the longest row.
      key, last: as for ``Batches``; rows that fill no batch are those of each bucket, and "pad"
        fills up with rows of the same bucket.

    Raises:
      DataError: for arrays without a Sequence, boundaries that do not ascend, and where no bucket
        fills a batch.

    >>> import numpy as np, jlayers as jl
    >>> from jlayers import data
    >>> rows = jl.Sequence.from_rows([np.ones(n, np.float32) for n in (2, 9, 3, 8, 2, 3)])
    >>> batches = data.LengthBuckets((rows,), 2, boundaries=[3, 6])
    >>> [batch[0].values.shape for batch in batches]
    [(2, 3), (2, 3), (2, 9)]
    """

    def __init__(
        self,
        arrays: PyTree,
        size: int,
        *,
        boundaries: Numbers[int],
        key: jax.Array | int | None = None,
        last: str = "drop",
    ):
        if not isinstance(boundaries, Iterable):
            raise DataError(
                f"boundaries must be several lengths, got {boundaries!r}",
                hint=f"boundaries=[{boundaries}]",
            )
        _check_rows(arrays)
        super().__init__(arrays, size, key=key, last="keep" if last == "drop" else last)
        self._last = last
        lengths, longest = _lengths(arrays)
        edges = [arguments.positive("a boundary", edge) for edge in boundaries]
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise DataError("boundaries must ascend", got=format_short(boundaries))
        self._edges = [edge for edge in edges if edge < longest] + [longest]
        self._bucket = np.array([bisect.bisect_left(self._edges, n) for n in lengths])
        self._lengths_digest = [int(np.sum(self._bucket == i)) for i in range(len(self._edges))]
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])
        self._count = len(self._batches_of(0))
        if not self._count:
            raise DataError(
                f"no bucket has the {self._size} rows of a batch",
                got=f"rows of buckets up to {self._edges}: {self._lengths_digest}",
                hint="fewer boundaries, a smaller size, or last='keep' or 'pad'",
            )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """As that of ``Batches``, with the buckets."""
        return super().fingerprint | {"buckets": [self._edges, self._lengths_digest]}

    def with_all_rows(self) -> LengthBuckets:
        """The same buckets, with batches of the rows that ``last="drop"`` leaves out."""
        if self._last != "drop":
            return self
        new = copy.copy(self)
        new._last, new._plan = "keep", (-1, [])
        new._count = len(new._batches_of(0))
        return new

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch; a batch to be filled up has fewer."""
        latest, plan = self._plan
        if latest == epoch:
            return plan
        key = self._key
        order = np.arange(self._rows) if key is None else self._order(epoch, key)
        plan = []
        for bucket in range(len(self._edges)):
            rows = order[self._bucket[order] == bucket]
            parts = [rows[at : at + self._size] for at in range(0, len(rows), self._size)]
            plan += [part for part in parts if self._last != "drop" or len(part) == self._size]
        if key is not None and plan:
            # Far from the epochs, so that this order is not one of the rows.
            plan = [plan[place] for place in epoch_order(len(plan), key, epoch + 2**63)]
        self._plan = (epoch, plan)  # in one assignment: several threads may read
        return plan

    def _row_numbers(self, epoch: int, index: int) -> np.ndarray:
        rows = self._batches_of(epoch)[index]
        return np.resize(rows, self._size) if self._last == "pad" else rows

    def _rows_at(self, epoch: int, index: int) -> PyTree:
        rows = self._row_numbers(epoch, index)
        edge = self._edges[self._bucket[rows[0]]]
        batch = jax.tree.map(
            lambda leaf: leaf[:, :edge] if isinstance(leaf, Sequence) else leaf,
            self._take(rows),
            is_leaf=lambda leaf: isinstance(leaf, Sequence),
        )
        if self._last != "pad":
            return batch
        return (*batch, np.arange(self._size) < len(self._batches_of(epoch)[index]))

    def _stack(self, places: list[_Place]) -> PyTree:
        return stack([self._at(epoch, index) for epoch, index, _ in places])


def _check_rows(arrays: PyTree) -> None:
    """Raises for rows of several lengths in a list, which is a tree of arrays here."""
    for part in [arrays, *(arrays if isinstance(arrays, tuple) else ())]:
        if isinstance(part, list) and len({np.shape(row)[:1] for row in part}) > 1:
            raise DataError(
                "rows of several lengths must be a Sequence, got a list",
                got=format_short(part),
                hint="jl.Sequence.from_rows(rows)",
            )


def _lengths(arrays: PyTree) -> tuple[np.ndarray, int]:
    """The steps of each row up to its last valid one, of the longest Sequence of the row."""
    leaves = jax.tree.leaves(arrays, is_leaf=lambda leaf: isinstance(leaf, Sequence))
    masks = [np.asarray(leaf.mask) for leaf in leaves if isinstance(leaf, Sequence)]
    if not masks:
        raise DataError(
            "there is no Sequence whose rows have lengths",
            got=format_short(arrays),
            hint="Sequence.from_rows(rows), or Sequence.from_lengths(values, lengths)",
        )
    ends = [(mask * np.arange(1, mask.shape[1] + 1)).max(1, initial=0) for mask in masks]
    return np.maximum(np.max(ends, axis=0), 1), max(1, *(mask.shape[1] for mask in masks))
