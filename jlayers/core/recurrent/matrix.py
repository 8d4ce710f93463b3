"""Linear recurrences whose state is a matrix for each head: linear attention and its kin.

With a state S (K, V), in the order in which steps run::

    S' = exp(log_decay) S + exp(log_write) k u'      y = q S'

where u is the value v, or by the delta rule ``beta (v - k (exp(log_decay) S))``, which replaces
what is stored under k.

How to read this file: ``matrix_step`` takes one step, ``matrix_scan`` all of them, a chunk at a
time: inside a chunk the steps meet as in attention, as products of matrices, and the state passes
from one chunk to the next.
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


def matrix_step(at: MatrixSteps, state: MatrixState) -> tuple[_Outputs, MatrixState]:
    """One step of (batch, heads, ...): ((y (batch, heads, V), m), the state after it)."""
    matrix, largest, key = state.matrix, state.largest, at.key
    log_decay = at.log_decay
    if at.log_write is not None:
        assert largest is not None
        kept = largest if log_decay is None else largest + log_decay
        largest = jnp.maximum(kept, at.log_write)
        key = key * jnp.exp(at.log_write - largest)[..., None]
        # The state was kept divided by the exponential of the old one.
        log_decay = kept - largest
    if log_decay is not None:
        matrix = matrix * jnp.exp(log_decay)[..., None, None]
    value = at.value
    if at.beta is not None:
        value = at.beta[..., None] * (value - jnp.einsum("bhk,bhkv->bhv", at.key, matrix))
    matrix = matrix + key[..., None] * value[..., None, :]
    y = jnp.einsum("bhk,bhkv->bhv", at.query, matrix)
    return (y, largest), MatrixState(matrix, largest)


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
    steps = at.key.shape[1]
    if is_symbolic(steps):
        state, outputs = _in_turns(lambda state, at: matrix_step(at, state)[::-1], state, at, 1)
    else:
        small = _SMALL_CHUNK if at.log_write is not None or at.beta is not None else _CHUNK
        cpu, default = (functools.partial(_in_chunks, size=size) for size in (small, _CHUNK))
        if steps <= small or small == _CHUNK:
            outputs, state = default(at, state)
        else:
            outputs, state = lax.platform_dependent(at, state, cpu=cpu, default=default)
    if reverse:
        outputs = jax.tree.map(lambda part: jnp.flip(part, 1), outputs)
    return outputs, state


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
    return inverse @ right


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
