"""Several batches as one, for a compiled step that does several steps in one call."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base import arguments
from ..base.errors import DataError, public_api
from ..base.specs import format_short, format_spec, path_text
from ..base.types import PyTree
from . import host_arrays
from .ownership import owned_items, owns, owns_its_items
from .source import Position


@public_api
def stack_batches(
    items: Iterable[tuple[PyTree, Position]], steps: int
) -> Iterator[tuple[PyTree, Position, int]]:
    """Batches in stacks of ``steps``, for a step that was built with ``steps=``.

    Args:
      items: (batch, position after it), as ``read`` of a source returns them.
      steps: how many batches a stack holds.

    Returns:
      An iterator of (the stack, the position after its last batch, how many batches it holds). The
      arrays of a stack have one more first axis, over its batches. The last stack may hold fewer.
      Arrays in host memory become NumPy arrays, those on a device stay there.

    Raises:
      DataError: if the arrays of two batches differ in structure, shape or dtype.

    >>> import numpy as np
    >>> from jlayers import data
    >>> batches = data.Batches((np.arange(14), np.arange(14) % 2), 2)
    >>> for (x, label), position, count in data.stack_batches(batches.read(epochs=1), 4):
    ...     print(x.shape, position, count)
    (4, 2) [0, 4] 4
    (3, 2) [1, 0] 3
    """
    steps = arguments.positive("steps", steps)
    return _stacks_of(items if owns(items) else owned_items(items), steps)


def _stacks_of(items: Any, steps: int) -> Iterator[tuple[PyTree, Position, int]]:
    if hasattr(items, "stacks"):  # of Batches, which gathers a stack at once: no second copy
        return items.stacks(steps)  # type: ignore[no-any-return]
    return _stacks(iter(items), steps)


def aligned_stacks(
    items: Any, steps: int, taken: int, left: int | None
) -> Iterator[tuple[PyTree, Position, int]]:
    """Stacks of ``steps`` batches, of ``left`` in total, from items in memory of their own.

    After an end between two calls the first goes up to where the next call would have been.
    """
    # So the calls of a resumed loop are those of one that was not interrupted (docs/notes/0011).
    head = -taken % steps if left is None else min(-taken % steps, left)
    yield from _stacks_of(itertools.islice(items, head), steps)
    if left is None:
        yield from _stacks_of(items, steps)
        return
    whole, rest = divmod(left - head, steps)
    yield from itertools.islice(_stacks_of(items, steps), whole)
    yield from _stacks_of(itertools.islice(items, rest), steps)


def _stacks(
    items: Iterator[tuple[PyTree, Position]], steps: int
) -> Iterator[tuple[PyTree, Position, int]]:
    batches, position = [], None
    for batch, position in items:
        batches.append(batch)
        if len(batches) == steps:
            yield stack(batches), position, steps
            batches = []
    if batches:
        assert position is not None
        yield stack(batches), position, len(batches)


owns_its_items(_stacks)


def stack(batches: list[PyTree]) -> PyTree:
    """One tree of several, with one more first axis in every array."""
    flat, _ = jax.tree.flatten_with_path(batches[0])
    others: list[tuple[list[Any], Any]] = [jax.tree.flatten(batch) for batch in batches]
    # Compared before leaves are: ``zip`` would pair those of different trees.
    treedef = others[0][1]
    for batch, (_, other) in zip(batches, others, strict=True):
        if other != treedef:
            raise DataError(
                "batches of different structure cannot be stacked",
                expected=format_short(batches[0]),
                got=format_short(batch),
            )
    columns = zip(*(leaves for leaves, _ in others), strict=True)
    stacks = [_stack(path, leaves) for (path, _), leaves in zip(flat, columns, strict=True)]
    return jax.tree.unflatten(treedef, stacks)


def _stack(path: tuple[Any, ...], leaves: tuple[Any, ...]) -> Any:
    on_device = isinstance(leaves[0], jax.Array) and not _is_on_host(leaves[0])
    arrays = leaves if on_device else [np.asarray(leaf) for leaf in leaves]
    first = arrays[0]
    for array in arrays:
        if array.shape != first.shape or array.dtype != first.dtype:
            raise DataError(
                f"batches that differ at {path_text(path)!r} cannot be stacked",
                expected=format_spec(first),
                got=format_spec(array),
                hint="Batches(..., last='drop') or last='pad'; or one step in a call, steps=1",
            )
    # What is on a device stays there; a copy to the host would wait for it.
    if on_device:
        return jnp.stack(arrays)
    out = host_arrays.empty((len(arrays), *first.shape), first.dtype)
    for i, array in enumerate(arrays):
        out[i] = array
    return out


def _is_on_host(array: jax.Array) -> bool:
    # NumPy has no arrays of typed keys, so these are stacked by JAX wherever they are.
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return not is_key and all(device.platform == "cpu" for device in array.devices())
