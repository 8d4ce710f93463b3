"""Linear recurrences whose state is a matrix for each head: linear attention and its kin.

With a state S (K, V), in the order in which steps run::

    S' = exp(log_decay) S + exp(log_write) k u'      y = q S'

where u is the value v, or by the delta rule ``beta (v - k (exp(log_decay) S))``, which replaces
what is stored under k.

How to read this file: ``matrix_step`` takes one step, ``matrix_scan`` all of them, a chunk at a
time: inside a chunk the steps meet as in attention, as products of matrices, and the state passes
from one chunk to the next. On CPU small states go one step after the other, ``_in_steps``, where
there is no gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dispatch import compiled_when_eager
from ..dtypes import is_symbolic
from .stepwise import expand

# Steps that meet in one product: its scores are (steps, steps) for each head.
_CHUNK = 64
# On CPU, where more is done with the scores than two products: exponents, or a triangular system.
_SMALL_CHUNK = 16
# On CPU a step at a time is faster for keys of up to this size, whatever the size of values; and by
# the delta rule, without its triangular system, for a head's state of up to so many numbers.
_SMALL_KEY = 16
_SMALL_DELTA_STATE = 4096


class MatrixSteps(NamedTuple):
    """What the recurrence reads of each step, each (..., heads, size) or (..., heads).

    Attributes:
      query, key: (..., heads, K). value: (..., heads, V).
      log_decay: (..., heads), or None for no decay.
      log_write: (..., heads), or None for 1. It may be large: the state is then kept divided by
        ``exp(m)``, where m is the largest exponent so far.
      beta: (..., heads), for the delta rule, or None.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    log_decay: jax.Array | None = None
    log_write: jax.Array | None = None
    beta: jax.Array | None = None


class MatrixState(NamedTuple):
    """matrix (batch, heads, K, V), and m (batch, heads) where there is a ``log_write``."""

    matrix: jax.Array
    largest: jax.Array | None = None


_Outputs = tuple[jax.Array, jax.Array | None]
_Carry = tuple[jax.Array, jax.Array]


class _Update(NamedTuple):
    """``MatrixSteps`` with factors in place of exponents, and keys times those of ``log_write``."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    decay: jax.Array | None
    beta: jax.Array | None


def matrix_step(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    """One step of (batch, heads, ...): ((y (batch, heads, V), m), the state after it)."""
    largest = state.largest
    if at.log_write is not None:
        assert largest is not None
        kept = _kept(largest, at.log_decay)
        largest = jnp.maximum(kept, at.log_write)
        update = _factors(at, kept, largest)
    else:
        update = _factors(at)
    y, matrix = _step(update, state.matrix)
    return (y, largest), MatrixState(matrix, largest)


def _kept(largest: jax.Array, log_decay: jax.Array | None) -> jax.Array:
    """The exponent in which the state was kept, after the decay of a step."""
    return largest if log_decay is None else largest + log_decay


def _factors(
    at: MatrixSteps, kept: jax.Array | None = None, largest: jax.Array | None = None
) -> _Update:
    """Of any leading axes; with ``log_write`` by the largest exponents before and after a step."""
    key, log_decay = at.key, at.log_decay
    if at.log_write is not None:
        assert kept is not None
        assert largest is not None
        key = key * jnp.exp(at.log_write - largest)[..., None]
        # The state was kept divided by the exponential of the old one.
        log_decay = kept - largest
    decay = None if log_decay is None else jnp.exp(log_decay)
    return _Update(at.query, key, at.value, decay, at.beta)


def _step(at: _Update, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    value = at.value
    if at.beta is not None:
        stored = jnp.einsum("bhk,bhkv->bhv", at.key, matrix)
        # Decayed here and once more below: a decayed state that two read is written for them.
        stored = stored if at.decay is None else stored * at.decay[..., None]
        value = at.beta[..., None] * (value - stored)
    if at.decay is not None:
        matrix = matrix * at.decay[..., None, None]
    matrix = matrix + at.key[..., None] * value[..., None, :]
    return jnp.einsum("bhk,bhkv->bhv", at.query, matrix), matrix


@compiled_when_eager("reverse")
def matrix_scan(
    at: MatrixSteps, state: MatrixState, *, reverse: bool = False, mask: jax.Array | None = None
) -> tuple[_Outputs, MatrixState]:
    """``matrix_step`` for each step of (batch, time, heads, ...).

    Args:
      at: the steps; ``log_write`` and ``beta`` exclude each other.
      state: before the first step.
      reverse: from the last step to the first.
      mask: bools (batch, time): a step where it is False is skipped.

    Returns:
      ((y (batch, time, heads, V), m (batch, time, heads) or None), the last state).
    """
    if mask is not None:
        at = _skipping(at, mask)
    if reverse:
        at = jax.tree.map(lambda part: jnp.flip(part, 1), at)
    if is_symbolic(at.key.shape[1]):
        state, outputs = _in_turns(lambda state, at: matrix_step(at, state)[::-1], state, at, 1)
    else:
        outputs, state = (_by_steps if _is_small(at) else _by_chunks)(at, state)
    if reverse:
        outputs = jax.tree.map(lambda part: jnp.flip(part, 1), outputs)
    return outputs, state


def _is_small(at: MatrixSteps) -> bool:
    """Whether on CPU a step costs less than its part of a chunk (docs/notes/0017)."""
    size = at.key.shape[-1]
    if at.beta is None:
        return size <= _SMALL_KEY
    return size * at.value.shape[-1] <= _SMALL_DELTA_STATE


def _by_chunks(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    steps = at.key.shape[1]
    plain = at.log_decay is None and at.log_write is None and at.beta is None
    small = _CHUNK if plain else _SMALL_CHUNK
    cpu, default = (functools.partial(_in_chunks, size=size) for size in (small, _CHUNK))
    if steps <= small or small == _CHUNK:
        return default(at, state)
    return lax.platform_dependent(at, state, cpu=cpu, default=default)  # type: ignore[no-any-return]


@jax.custom_jvp
def _by_steps(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    """A step at a time on CPU; its gradient is that of chunks, which store no state of a step."""
    default = functools.partial(_in_chunks, size=_CHUNK)
    return lax.platform_dependent(at, state, cpu=_in_steps, default=default)  # type: ignore[no-any-return]


@_by_steps.defjvp
def _by_steps_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    return jax.jvp(_by_chunks, primals, tangents)


def _in_steps(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    """``matrix_scan`` in the order of the steps, which are read and written where they lie."""
    matrix, largest, each = state.matrix, state.largest, None
    if at.log_write is None:
        update = _factors(at)
    else:
        # All exponents first: in the loop each of them is a kernel of a few numbers.
        assert largest is not None
        before, each = _exponents(at.log_decay, at.log_write, largest)
        update, largest = _factors(at, before, each), each[:, -1]
    # A loop passes on what varies over the devices as the steps do.
    first = update.key[:, 0, ..., None] * update.value[:, 0, ..., None, :]
    carry = matrix + jnp.zeros_like(first), jnp.zeros_like(update.value)

    def step(carry: _Carry, at: jax.Array) -> tuple[_Carry, None]:
        matrix, outputs = carry
        now = jax.tree.map(lambda part: lax.dynamic_index_in_dim(part, at, 1, False), update)
        y, matrix = _step(now, matrix)
        return (matrix, lax.dynamic_update_slice_in_dim(outputs, y[:, None], at, axis=1)), None

    (matrix, outputs), _ = lax.scan(step, carry, lax.iota(np.int32, at.key.shape[1]))
    return (outputs, each), MatrixState(matrix, largest)


def _exponents(
    log_decay: jax.Array | None, log_write: jax.Array, largest: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of each step the exponent that the state was kept in, decayed, and the largest one."""

    def step(largest: jax.Array, at: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        kept = _kept(largest, at[0])
        largest = jnp.maximum(kept, at[1])
        return largest, (kept, largest)

    logs = jax.tree.map(lambda part: jnp.swapaxes(part, 0, 1), (log_decay, log_write))
    _, each = lax.scan(step, largest + jnp.zeros_like(logs[1][0]), logs)
    kept, largest = (jnp.swapaxes(part, 0, 1) for part in each)
    return kept, largest


def _in_chunks(at: MatrixSteps, state: MatrixState, *, size: int) -> tuple[_Outputs, MatrixState]:
    """``matrix_scan`` in the order of the steps, ``size`` of them at a time."""
    steps = at.key.shape[1]
    if steps <= size:
        return _chunk(at, state)
    whole = _skipping_end(at, -steps % size)
    # In a scan XLA cannot merge the two computations, so that it need not be prevented.
    take = jax.checkpoint(lambda state, at: _chunk(at, state)[::-1], prevent_cse=False)
    state, outputs = _in_turns(take, state, whole, size)
    return jax.tree.map(lambda part: part[:, :steps], outputs), state


def _chunk(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    """``matrix_scan`` of (batch, steps, heads, ...) as products of matrices."""
    size = at.key.shape[1]
    causal = np.tril(np.ones((1, 1, size, size), bool))
    # The log of the decay from the chunk's start to each step, (batch, heads, steps).
    since = jnp.zeros_like(at.key[..., 0]).swapaxes(1, 2)
    if at.log_decay is not None:
        since = jnp.cumsum(at.log_decay.swapaxes(1, 2), -1)
    between = since[..., :, None] - since[..., None, :]
    largest = None
    first = since
    if at.log_write is not None:
        assert state.largest is not None
        between = between + at.log_write.swapaxes(1, 2)[..., None, :]
        first = since + state.largest[..., None]
    # Masked before exp, which could overflow, and its gradient be NaN.
    below = jnp.where(causal, jnp.zeros((), between.dtype), -jnp.inf)
    between = between + jnp.broadcast_to(below, between.shape)
    if at.log_write is not None:
        largest = jnp.maximum(first, jnp.max(between, -1))
        between, first = between - largest[..., None], first - largest
    weights, first = jnp.exp(between), jnp.exp(first)
    query, key, value = (part.swapaxes(1, 2) for part in at[:3])
    if at.beta is not None:
        value = _corrected(key, value, at.beta.swapaxes(1, 2), weights, first, state.matrix)
    scores = jnp.einsum("bhik,bhjk->bhij", query, key) * weights
    y = jnp.einsum("bhij,bhjv->bhiv", scores, value)
    y = y + jnp.einsum("bhik,bhkv->bhiv", query, state.matrix) * first[..., None]
    last = weights[..., -1, :]
    matrix = jnp.einsum("bhjk,bhjv->bhkv", key * last[..., None], value)
    matrix = matrix + state.matrix * first[..., -1][..., None, None]
    if largest is None:
        return (y.swapaxes(1, 2), None), MatrixState(matrix)
    return (y.swapaxes(1, 2), largest.swapaxes(1, 2)), MatrixState(matrix, largest[..., -1])


def _corrected(
    key: jax.Array,
    value: jax.Array,
    beta: jax.Array,
    weights: jax.Array,
    first: jax.Array,
    matrix: jax.Array,
) -> jax.Array:
    """The u of all steps of a chunk: each depends on those before it, in a triangular system."""
    beta = beta[..., None]
    size = key.shape[2]
    below = jnp.asarray(np.tril(np.ones((1, 1, size, size)), -1), key.dtype)
    system = jnp.einsum("bhik,bhjk->bhij", key, key) * weights * beta * below
    stored = jnp.einsum("bhik,bhkv->bhiv", key, matrix) * first[..., None]
    return _solve(system, beta * (value - stored))


def _solve(system: jax.Array, right: jax.Array) -> jax.Array:
    """``(1 + system)^-1 right`` for a system with zeros on its diagonal and above it.

    By inverses of diagonal blocks, twice as large in each round: products of matrices, where XLA's
    solver goes row by row, and has no gradient for arrays that are sharded explicitly. A product of
    powers, ``(1 - N)(1 + N^2)(1 + N^4) ...``, would lose all digits where keys are much alike.
    """
    inverse = _inverse(lax.stop_gradient(system))
    # Its gradient is one more solution: without this, that of each round.
    result: jax.Array = lax.custom_linear_solve(
        lambda x: x + system @ x,
        right,
        lambda _, b: inverse @ b,
        lambda _, b: inverse.swapaxes(-1, -2) @ b,
    )
    return result


def _inverse(system: jax.Array) -> jax.Array:
    size = system.shape[-1]
    rows, columns = np.indices((size, size))
    inverse = jnp.broadcast_to(jnp.eye(size, dtype=system.dtype)[None, None], system.shape)
    inverse = inverse + jnp.zeros_like(system)
    block = 1
    while block < size:
        # What is below the left one of two neighbouring blocks.
        pair = rows // (2 * block) == columns // (2 * block)
        corner = pair & (rows // block % 2 == 1) & (columns // block % 2 == 0)
        part = system * jnp.asarray(corner[None, None], system.dtype)
        inverse = inverse - inverse @ part @ inverse
        block *= 2
    return inverse


def _skipping(at: MatrixSteps, mask: jax.Array) -> MatrixSteps:
    """Where the mask is False, steps that change no state: keys are zero, and decays 1."""

    def masked(values: jax.Array | None, fill: float = 0) -> jax.Array | None:
        if values is None:
            return None
        return jnp.where(expand(mask, values.shape), values, jnp.full_like(values, fill))

    key = masked(at.key)
    assert key is not None
    return at._replace(
        key=key,
        log_decay=masked(at.log_decay),
        log_write=masked(at.log_write, -np.inf),
        beta=masked(at.beta),
    )


def _skipping_end(at: MatrixSteps, left: int) -> MatrixSteps:
    """With ``left`` steps more, which change no state."""

    def padded(values: jax.Array | None, fill: float = 0) -> jax.Array | None:
        if values is None:
            return None
        edges = [(0, left) if axis == 1 else (0, 0) for axis in range(values.ndim)]
        return jnp.pad(values, edges, constant_values=fill)

    parts: dict[str, Any] = {name: padded(part) for name, part in at._asdict().items()}
    return MatrixSteps(**parts)._replace(log_write=padded(at.log_write, -np.inf))


def _in_turns(take: Callable[..., Any], state: MatrixState, at: MatrixSteps, size: int) -> Any:
    """A scan of ``take(state, at) -> (state, outputs)`` over chunks of ``size`` steps, or steps."""

    def split(values: jax.Array) -> jax.Array:
        if size > 1:
            count = values.shape[1] // size
            values = values.reshape(values.shape[0], count, size, *values.shape[2:])
        return jnp.swapaxes(values, 0, 1)

    def join(values: jax.Array) -> jax.Array:
        values = jnp.swapaxes(values, 0, 1)
        if size > 1:
            count = values.shape[1] * size
            values = values.reshape(values.shape[0], count, *values.shape[3:])
        return values

    state, outputs = lax.scan(take, state, jax.tree.map(split, at))
    return state, jax.tree.map(join, outputs)
