"""What layers share that change their input at random while training, and are the identity else."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.types import Key, Params, State
from ...core.dtypes import sharded_as


def random_in_training(
    change: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    never: bool,
    expected: str = "one array",
    least_rank: int = 0,
    check: Callable[[jax.ShapeDtypeStruct], object] | None = None,
) -> Layer:
    """The layer whose output in training is ``change(key, x)``, and ``x`` otherwise.

    Args:
      change: gives an array of the shape and dtype of ``x``.
      never: whether the input is never changed (a rate of 0), and no key needed.
      expected: the wanted shape in words, for errors.
      check: raises for an input that does not fit.
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, expected, least_rank=least_rank)
        arguments.floating(x)
        if check is not None:
            check(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: jax.Array, *, key: Key, train: bool
    ) -> tuple[jax.Array, State]:
        if not train or never:
            return x, state
        # Never a fixed key instead: a model that is trained without noise would go unnoticed.
        if key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        return change(key, x), state

    return Layer(init, apply, sequence_mode=SequenceMode.PER_STEP)


def kept(key: jax.Array, x: jax.Array, rate: float, drawn: tuple[int, ...]) -> jax.Array:
    """Bools of the shape of ``x``, each False with probability ``rate``.

    Args:
      drawn: the shape of ``x`` with 1 for the axes along which all values share a draw.
    """
    keep = jax.random.bernoulli(key, 1 - rate, drawn)
    return sharded_as(jnp.broadcast_to(keep, x.shape), x)


def kept_or_zero(key: jax.Array, x: jax.Array, rate: float, drawn: tuple[int, ...]) -> jax.Array:
    """``x / (1 - rate)`` where ``kept``, and otherwise zero: the mean stays as it is."""
    # Nothing is kept, and 0 times the slope of x / 0 would be NaN.
    if rate == 1:
        return jnp.zeros_like(x)
    return jnp.where(kept(key, x, rate, drawn), x / (1 - rate), jnp.zeros_like(x))


def whole_channels(x: jax.Array) -> tuple[int, ...]:
    """What is ``drawn`` where all positions of a channel share a draw."""
    return (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
