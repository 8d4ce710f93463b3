"""init of a whole model at once: every parameter is asked for first, then all are drawn together.

Called one by one, initialisers compile a program for every shape. Here ``init`` walks the model
with a ``Path`` in the place of the key and gets a ``Wanted`` in the place of each parameter; then
one program draws the parameters of one recipe, constants need none, and what has no recipe is
called as it is. The values are, bit for bit, those of the initialisers called one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .initializer_programs import (
    CHUNK,
    ROW,
    Recipe,
    program,
    recipe_of,
)
from .specs import PyTree

# Rows that are drawn at once, 256 MB; a parameter that is larger is drawn alone.
_MOST_ROWS = 1 << 14


class Path:
    """Stands in the place of a key where parameters are asked for and not drawn.

    Attributes:
      keys: the key; below ``repeat`` and ``ensemble`` those of all copies.
    """

    __slots__ = ("keys",)

    def __init__(self, keys: jax.Array):
        self.keys = keys

    @property
    def copies(self) -> tuple[int, ...]:
        """The sizes of the stacks around it, outermost first."""
        return self.keys.shape

    def fold_in(self, number: int) -> Path:
        return Path(_fold_in()(self.keys, np.uint32(number)))

    def stack(self, n: int) -> Path:
        """The keys of n copies, each with its number folded in."""
        numbers = np.arange(n, dtype=np.uint32).reshape((1,) * len(self.copies) + (n,))
        return Path(_fold_in()(self.keys[..., None], numbers))


@functools.cache
def _fold_in() -> Callable[[jax.Array, Any], jax.Array]:
    return jax.jit(jnp.vectorize(jax.random.fold_in))


class Wanted:
    """A parameter that was asked for and is not drawn yet."""

    __slots__ = ("dtype", "init", "path", "shape")

    def __init__(self, path: Path, init: Any, shape: tuple[int, ...], dtype: Any):
        self.path = path
        self.init = init
        self.shape = shape
        self.dtype = dtype


def path_of(key: jax.Array) -> Path | None:
    """The path that starts at ``key``, or None where parameters must be made one by one.

    Inside ``jit`` and the like it is for XLA to decide what is computed where: the parameters of
    a model that is initialised on many devices must never lie in one block on one of them.
    """
    plain = (
        jax.random.key_impl(key) == "threefry2x32"
        and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
        # Inside a transformation a key from outside turns into a tracer in its first operation.
        and not isinstance(jax.random.key_data(key), jax.core.Tracer)
        and not key.committed
    )
    return Path(key) if plain else None


def make_all(tree: PyTree) -> PyTree:
    """The tree with a parameter in the place of each ``Wanted``."""
    leaves = jax.tree.leaves(tree)
    asked = {id(leaf): i for i, leaf in enumerate(leaves)}
    wanted = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Wanted)]
    constants: list[tuple[int, Any]] = []
    drawn: dict[Any, list[tuple[int, Recipe]]] = {}
    # For this call alone: an initialiser may read a global that is another one tomorrow.
    known: dict[Any, Recipe | None] = {}
    for i in wanted:
        leaf = leaves[i]
        request = (id(leaf.init), leaf.shape, leaf.dtype)
        if request not in known:
            known[request] = recipe_of(leaf.init, leaf.shape, leaf.dtype)
        recipe = known[request]
        if recipe is None or np.prod(leaf.shape) >= 2**32:
            leaves[i] = _called(leaf)
        elif recipe.constant is not None:
            shape = (*leaf.path.copies, *leaf.shape)
            constants.append((i, np.full(shape, recipe.constant)))
        else:
            drawn.setdefault(recipe.steps, []).append((i, recipe))
    ready = constants
    for steps, group in drawn.items():
        for batch in _batches([(leaves[i], recipe, i) for i, recipe in group]):
            values = _drawn(steps, [(leaf, recipe) for leaf, recipe, _ in batch])
            ready += zip([i for _, _, i in batch], values, strict=True)
    # All at once: on the CPU the arrays are used where they lie.
    arrays = jax.device_put([value for _, value in ready])
    for (i, _), array in zip(ready, arrays, strict=True):
        leaves[i] = array

    def filled(tree: PyTree) -> PyTree:
        # Not by jax.tree, which sorts: entries stay in the order in which they were declared.
        if isinstance(tree, dict):
            return {name: filled(entry) for name, entry in tree.items()}
        return leaves[asked[id(tree)]]

    return tuple(map(filled, tree))


def _called(wanted: Wanted) -> jax.Array:
    def make(key: jax.Array) -> Any:
        return wanted.init(key, wanted.shape, wanted.dtype)

    for _ in wanted.path.copies:
        make = jax.vmap(make)
    return jnp.asarray(make(wanted.path.keys))


def _rows_each(wanted: Wanted) -> int:
    return -(-int(np.prod(wanted.shape)) // ROW)


def _rows(wanted: Wanted) -> int:
    return int(np.prod(wanted.path.copies)) * _rows_each(wanted)


def _batches(group: list[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    rows = 0
    for item in group:
        if batch and rows + _rows(item[0]) > _MOST_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(item)
        rows += _rows(item[0])
    yield batch


def _drawn(steps: Any, group: Sequence[tuple[Wanted, Recipe]]) -> list[np.ndarray[Any, Any]]:
    """The values of parameters with the same steps, as views into one block."""
    keys, starts, numbers = [], [], []
    for wanted, recipe in group:
        data = np.asarray(jax.random.key_data(wanted.path.keys)).reshape(-1, 2)
        each = _rows_each(wanted)
        keys.append(np.repeat(data, each, axis=0))
        starts.append(np.tile(np.arange(each, dtype=np.uint32) * np.uint32(ROW), len(data)))
        numbers.append((recipe.numbers, each * len(data)))
    used = sum(map(len, keys))
    # Few sizes of programs: another model in this process will find its own compiled already.
    step = max(CHUNK, 1 << max(0, used.bit_length() - 3))
    spare = -used % step
    columns = [
        np.pad(np.concatenate([np.repeat(of[i], rows) for of, rows in numbers]), (0, spare))
        for i in range(len(numbers[0][0]))
    ]
    block = program(steps)(
        np.pad(np.concatenate(keys), ((0, spare), (0, 0))),
        np.pad(np.concatenate(starts), (0, spare)),
        tuple(columns),
    )
    values = np.asarray(block)
    views, row = [], 0
    for wanted, _ in group:
        rows, size = _rows(wanted), int(np.prod(wanted.shape))
        view = values[row : row + rows].reshape(*wanted.path.copies, -1)[..., :size]
        views.append(view.reshape(*wanted.path.copies, *wanted.shape))
        row += rows
    return views
