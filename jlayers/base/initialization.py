"""init of a whole model at once: all arrays of its table are drawn together.

Called one by one, initialisers compile a program for every shape. Here one program draws all
parameters whose initialisers are the same list of operations (``initializer_programs``), constants
need no program, and other initialisers are called as they are. The values are, bit for bit, those
of the initialisers called one by one.

How to read this file: ``draw`` is the whole of it. ``_Keys`` folds the names of a path into the
key; ``_together`` groups the table by program, and ``_rows_drawn`` runs one of these programs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import error_context
from .initializer_programs import (
    CHUNK,
    ROW,
    InitializerProgram,
    Step,
    compiled,
    initializer_program,
)
from .parameters import OwnInit, PairInit, ParamSpec, stable_hash
from .paths import join
from .tracing import Trace
from .types import Params, PyTree, State

# Rows that are drawn at once, 256 MB; a parameter that is larger is drawn alone.
_MOST_ROWS = 1 << 14

KeyPath = tuple[str | int, ...]
Numbers = np.ndarray[Any, np.dtype[Any]]


def draw(found: Trace, key: jax.Array) -> tuple[Params, State]:
    """The params and the state that the table in a model's abstract pass describes.

    The key of each array follows from ``key``, that of ``init``, and the array's ``key_path``.
    """
    table = [*found.parameters.values(), *found.variables.values()]
    arrays = _arrays(table, key)
    count = len(found.parameters)
    return (
        _filled(found.params, dict(zip(found.parameters, arrays[:count], strict=True))),
        _filled(found.state, dict(zip(found.variables, arrays[count:], strict=True))),
    )


def draw_some(specs: Mapping[str, ParamSpec], key: jax.Array) -> dict[str, jax.Array]:
    """Some entries of a model's table by path: the values that ``init`` gives them."""
    return dict(zip(specs, _arrays([*specs.values()], key), strict=True))


def _filled(specs: PyTree, arrays: Mapping[str, jax.Array], path: str = "") -> PyTree:
    """The nested dict of ``specs`` with an array instead of each spec.

    Not by ``jax.tree``, which sorts: entries keep the order in which they were declared.
    """
    if not isinstance(specs, dict):
        return arrays[path]
    return {name: _filled(entry, arrays, join(path, name)) for name, entry in specs.items()}


def _arrays(specs: Sequence[ParamSpec], key: jax.Array) -> list[jax.Array]:
    """One array for each entry of the table."""
    together = _may_draw_together(key)
    keys = _Keys(key, compiled=together)
    # One layer in two places has one ``init`` and two keys.
    returned: dict[tuple[int, KeyPath], tuple[Params, State]] = {}
    values: list[Any] = [None] * len(specs)
    ours: list[int] = []
    for i, spec in enumerate(specs):
        how = spec.initializer
        if isinstance(how, OwnInit):
            # One call makes all arrays of the layer.
            call = id(how.source), spec.key_path
            if call not in returned:
                returned[call] = _own_init(how.source, spec.key_path, keys)
            values[i] = how.array(returned[call])
        elif together:
            ours.append(i)
        else:
            values[i] = _alone(spec, keys)
    for i, value in zip(ours, _together([specs[i] for i in ours], keys), strict=True):
        values[i] = value
    return values


def _may_draw_together(key: jax.Array) -> bool:
    """Whether the arrays can be drawn in blocks, outside of what the caller compiles.

    Inside ``jit`` and the like it is for XLA to decide what is computed where: the parameters of
    a model that is initialised on many devices must never lie in one block on one of them.
    """
    return bool(
        jax.random.key_impl(key) == "threefry2x32"
        and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
        # Inside a transformation a key from outside turns into a tracer in its first operation.
        and not isinstance(jax.random.key_data(key), jax.core.Tracer)
        and not key.committed
    )


class _Keys:
    """The key of each key path; each prefix is folded once."""

    def __init__(self, key: jax.Array, compiled: bool):
        self._fold_in = _compiled_fold_in if compiled else _fold_in
        self._keys: dict[KeyPath, jax.Array] = {(): key}

    def __getitem__(self, path: KeyPath) -> jax.Array:
        """The key, or an array of the keys of all copies."""
        found = self._keys.get(path)
        if found is not None:
            return found
        parent, step = self[path[:-1]], path[-1]
        if isinstance(step, int):
            numbers = np.arange(step, dtype=np.uint32).reshape((1,) * parent.ndim + (step,))
            found = self._fold_in(parent[..., None], numbers)
        else:
            found = self._fold_in(parent, np.uint32(stable_hash(step)))
        self._keys[path] = found
        return found


def _fold_in(keys: jax.Array, numbers: Numbers | np.uint32) -> jax.Array:
    """``jax.random.fold_in`` for arrays of keys and of numbers."""
    if keys.ndim == numbers.ndim == 0:
        return jax.random.fold_in(keys, numbers)
    folded: jax.Array = jnp.vectorize(jax.random.fold_in)(keys, numbers)
    return folded


_compiled_fold_in = jax.jit(_fold_in)


def _of_copies(function: Callable[[jax.Array], PyTree], keys: jax.Array) -> PyTree:
    """``function`` of one key, or of the keys of all copies: the results are stacked."""
    # One vmap for each stack: a layer in ``repeat`` in ``ensemble`` has two.
    for _ in range(keys.ndim):
        function = jax.vmap(function)
    return function(keys)


def _own_init(source: PairInit, path: KeyPath, keys: _Keys) -> tuple[Params, State]:
    where = "/".join(step for step in path if isinstance(step, str))
    with error_context(source.layer, where):
        made: tuple[Params, State] = _of_copies(lambda key: source.init(key, source.x), keys[path])
        return made


def _alone(spec: ParamSpec, keys: _Keys) -> jax.Array:
    """What the initialiser gives when it is called by itself."""
    init = spec.initializer
    assert not isinstance(init, OwnInit)
    shape, dtype = spec.shape_of_one, spec.dtype
    return jnp.asarray(_of_copies(lambda key: init(key, shape, dtype), keys[spec.key_path]))


def _together(specs: Sequence[ParamSpec], keys: _Keys) -> list[jax.Array]:
    """The same values, with one compiled program for all initialisers of a kind."""
    values: list[Any] = [None] * len(specs)
    blocks: list[tuple[int, Numbers]] = []
    drawn: dict[tuple[Step, ...], list[tuple[int, ParamSpec, InitializerProgram]]] = {}
    # For this call alone: an initialiser may read a global that has another value tomorrow.
    known: dict[Hashable, InitializerProgram | None] = {}
    for i, spec in enumerate(specs):
        assert not isinstance(spec.initializer, OwnInit)
        shape = spec.shape_of_one
        request = (id(spec.initializer), shape, spec.dtype)
        if request not in known:
            known[request] = initializer_program(spec.initializer, shape, spec.dtype)
        program = known[request]
        # The number of an element is 32 bits of the hash.
        if program is None or np.prod(shape) >= 2**32:
            values[i] = _alone(spec, keys)
        elif program.constant is not None:
            # Zeros and ones need no program: biases, scales and statistics.
            blocks.append((i, np.full(spec.shape, program.constant)))
        else:
            drawn.setdefault(program.steps, []).append((i, spec, program))
    for steps, group in drawn.items():
        for batch in _batches(group):
            numbers, chosen, programs = zip(*batch, strict=True)
            blocks += zip(numbers, _rows_drawn(steps, chosen, programs, keys), strict=True)
    # All at once: on the CPU the arrays are used where they lie.
    arrays = jax.device_put([value for _, value in blocks])
    for (i, _), array in zip(blocks, arrays, strict=True):
        values[i] = array
    return values


def _rows_each(spec: ParamSpec) -> int:
    return -(-int(np.prod(spec.shape_of_one)) // ROW)


def _rows(spec: ParamSpec) -> int:
    return int(np.prod(spec.copies)) * _rows_each(spec)


def _batches(
    group: list[tuple[int, ParamSpec, InitializerProgram]],
) -> Iterator[list[tuple[int, ParamSpec, InitializerProgram]]]:
    batch: list[tuple[int, ParamSpec, InitializerProgram]] = []
    rows = 0
    for item in group:
        # A block is one array: its size bounds the memory that init needs on top of the parameters.
        if batch and rows + _rows(item[1]) > _MOST_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(item)
        rows += _rows(item[1])
    yield batch


def _rows_drawn(
    steps: tuple[Step, ...],
    specs: Sequence[ParamSpec],
    programs: Sequence[InitializerProgram],
    keys: _Keys,
) -> list[Numbers]:
    """The values of parameters with the same steps, as views into one block."""
    row_keys, starts, numbers = [], [], []
    for spec, program in zip(specs, programs, strict=True):
        data = np.asarray(jax.random.key_data(keys[spec.key_path])).reshape(-1, 2)
        each = _rows_each(spec)
        # Each row carries its own key and the number of its first element, so rows are independent.
        row_keys.append(np.repeat(data, each, axis=0))
        starts.append(np.tile(np.arange(each, dtype=np.uint32) * np.uint32(ROW), len(data)))
        numbers.append((program.numbers, each * len(data)))
    used = sum(map(len, row_keys))
    # Few sizes of programs: another model in this process will find its own compiled already.
    multiple = max(CHUNK, 1 << max(0, used.bit_length() - 3))
    spare = -used % multiple
    columns = [
        np.pad(np.concatenate([np.repeat(own[i], rows) for own, rows in numbers]), (0, spare))
        for i in range(len(numbers[0][0]))
    ]
    block = compiled(steps)(
        np.pad(np.concatenate(row_keys), ((0, spare), (0, 0))),
        np.pad(np.concatenate(starts), (0, spare)),
        tuple(columns),
    )
    values = np.asarray(block)
    views, row = [], 0
    for spec in specs:
        rows, size = _rows(spec), int(np.prod(spec.shape_of_one))
        # The last row of a parameter is drawn in full; the rest of it is cut off.
        view = values[row : row + rows].reshape(*spec.copies, -1)[..., :size]
        views.append(view.reshape(spec.shape))
        row += rows
    return views
