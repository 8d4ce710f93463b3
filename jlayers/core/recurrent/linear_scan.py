"""All steps of ``h' = a h + b``, elementwise. The gradient is one such loop, the other way round.

How to read this file: ``linear_scan`` picks one of two algorithms. ``_in_place`` takes a step at a
time, and reads and writes the arrays where they lie: on CPU it is two to eight times as fast
(docs/notes/0017). ``_associative`` takes all steps at once, in log2(time) rounds.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import with_custom_gradient
from ..dispatch import compiled_when_eager
from ..dtypes import is_symbolic

_Pair = tuple[jax.Array, jax.Array]


@compiled_when_eager("reverse")
def linear_scan(
    decay: jax.Array, update: jax.Array, h: jax.Array, *, reverse: bool = False
) -> jax.Array:
    """h after each step, (batch, time, H).

    Args:
      decay: (batch, time, H), or (1, time, H) where it is the same for all rows.
      update: (batch, time, H). h: (batch, H), before the first step. All of one dtype.
      reverse: from the last step to the first.
    """
    # With the sharding of the update, which a loop requires of what it passes on.
    h = h[:, None] + jnp.zeros_like(update[:, :1])
    first = -1 if reverse else 0

    def run(*arguments: jax.Array, reverse: bool, following: bool) -> jax.Array:
        cpu, default = (
            functools.partial(algorithm, reverse=reverse, following=following)
            for algorithm in (_in_place, _associative)
        )
        # How many rounds there are has to be known.
        if is_symbolic(update.shape[1]):
            return cpu(*arguments)
        return lax.platform_dependent(*arguments, cpu=cpu, default=default)  # type: ignore[no-any-return]

    def forward(*arguments: jax.Array) -> _Pair:
        outputs = run(*arguments, reverse=reverse, following=False)
        return outputs, outputs

    def backward(
        arguments: tuple[jax.Array, ...], outputs: jax.Array, ct: jax.Array
    ) -> tuple[jax.Array, ...]:
        decay, _, h = arguments
        # What a step passes on is multiplied by the decay of the step that follows it.
        dupdate = run(decay, ct, jnp.zeros_like(h), reverse=not reverse, following=True)
        before = [outputs[:, 1:], h] if reverse else [h, outputs[:, :-1]]
        slope = dupdate * jnp.concatenate(before, 1)
        # A decay that is the same for all rows has one.
        same = tuple(i for i, size in enumerate(decay.shape) if size != slope.shape[i])
        dh = decay[:, first] * dupdate[:, first]
        return slope.sum(same, keepdims=True) if same else slope, dupdate, dh[:, None]

    return with_custom_gradient(forward, backward)(decay, update, h)


def _in_place(
    decay: jax.Array, update: jax.Array, h: jax.Array, *, reverse: bool, following: bool
) -> jax.Array:
    """h after each step; with ``following`` a step has the decay of the one that runs before it."""

    # Rematerialised: see custom_gradient.py on loops in a gradient.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state: _Pair, at: jax.Array) -> tuple[_Pair, None]:
        h, outputs = state
        place = at
        if following:
            # Of the step that runs first any decay does, as it meets zeros; beyond the end a slice
            # is that of the last step.
            place = at + 1 if reverse else lax.max(at - 1, lax.full_like(at, 0))
        h = take(decay, place) * h + take(update, at)
        return (h, lax.dynamic_update_slice_in_dim(outputs, h, at, axis=1)), None

    def take(values: jax.Array, at: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(values, at, 1, axis=1)

    steps = lax.iota(np.int32, update.shape[1])
    (_, outputs), _ = lax.scan(step, (h, jnp.zeros_like(update)), steps, reverse=reverse)
    return outputs


def _associative(
    decay: jax.Array, update: jax.Array, h: jax.Array, *, reverse: bool, following: bool
) -> jax.Array:
    """The same, all steps at once."""
    if following:
        edge = jnp.zeros_like(decay[:, :1])
        parts = [decay[:, 1:], edge] if reverse else [edge, decay[:, :-1]]
        decay = jnp.concatenate(parts, 1)
    first = -1 if reverse else 0
    # The state before all steps is a part of the first update, so that the scan starts from zero.
    update = update.at[:, first].add(decay[:, first] * h[:, 0])
    outputs: jax.Array
    _, outputs = lax.associative_scan(_compose, (decay, update), reverse=reverse, axis=1)
    return outputs


def _compose(first: _Pair, second: _Pair) -> _Pair:
    """The coefficients of two consecutive steps taken as one."""
    return first[0] * second[0], second[0] * first[1] + second[1]
