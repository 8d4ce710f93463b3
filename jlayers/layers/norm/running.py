"""Running statistics: how a batch's mean and variance move those in the state."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ...base.parameters import initialize, make
from ...base.types import State


class Running(NamedTuple):
    """The rule of the running statistics.

    Attributes:
      momentum: the weight of the old ones; None for the mean of all batches.
      debiased: whether the weights of all batches so far add up to one.
      unbiased: whether the running variance is the one of ``count - 1``.
      epsilon_of_roots: with it the running value is that of ``sqrt(variance + epsilon)``, as in
        batch renormalisation.
    """

    momentum: float | None
    debiased: bool = False
    unbiased: bool = False
    epsilon_of_roots: float | None = None

    def init(self, key: jax.Array, x: jax.ShapeDtypeStruct, features: tuple[int, ...]) -> State:
        """mean 0 and variance 1, and the number of batches where the rule depends on it.

        Of roots, it is the root that is 1: the layer starts as the identity, as in Keras.
        """
        variance = initializers.constant(max(1 - (self.epsilon_of_roots or 0), 0))
        # Through initialize as parameters are, so that they get the dtype of storage, float32 at
        # least.
        state = initialize(key, x, mean=(initializers.zeros, features), var=(variance, features))
        if self._counts:
            state["count"] = make(key, "count", initializers.zeros, (), jnp.int32)
        return state

    def updated(
        self,
        state: State,
        mean: jax.Array,
        variance: jax.Array,
        count: int | jax.Array,
    ) -> State:
        """The state after a batch.

        Args:
          mean, variance: of the batch, biased, of as many values as ``state`` has.
          count: of values that share a statistic. An array may be 0: the state then stays.
        """
        if self.unbiased:
            rest = _as_float(count, variance) - 1
            variance = variance * (1 + 1 / jnp.maximum(rest, 1))
        new: State = {}
        for name, value in (("mean", mean), ("var", variance)):
            old = state[name]
            value = value.reshape(old.shape).astype(old.dtype)
            if name == "var" and (epsilon := self.epsilon_of_roots) is not None:
                roots = (jnp.sqrt(part + epsilon) for part in (old, value))
                root = self._moved(state, *roots)
                # By rounding it may be less than epsilon.
                new[name] = jnp.maximum(jnp.square(root) - epsilon, 0)
            else:
                new[name] = self._moved(state, old, value)
        if self._counts:
            new["count"] = state["count"] + 1
        if not isinstance(count, jax.Array):
            return new
        return {name: jnp.where(count > 0, value, state[name]) for name, value in new.items()}

    @property
    def _counts(self) -> bool:
        return self.momentum is None or self.debiased

    def _moved(self, state: State, old: jax.Array, value: jax.Array) -> jax.Array:
        if not self._counts:
            assert self.momentum is not None
            return self.momentum * old + (1 - self.momentum) * value
        share = self._share(state["count"] + 1, old)
        return (1 - share) * old + share * value

    def _share(self, number: jax.Array, like: jax.Array) -> jax.Array:
        """The weight of batch ``number``, from 1 on, among all so far."""
        numbers = number.astype(like.dtype)
        if self.momentum is None or self.momentum == 1:
            return 1 / numbers
        if self.momentum == 0:
            return jnp.ones_like(numbers)
        # (1 - m) / (1 - m ** number), without the difference of two numbers near 1.
        return (self.momentum - 1) / jnp.expm1(math.log(self.momentum) * numbers)


def _as_float(count: int | jax.Array, like: jax.Array) -> jax.Array:
    # A symbolic size has no value until it is compiled.
    return (
        count.astype(like.dtype)
        if isinstance(count, jax.Array)
        else lax.full((), count, like.dtype)
    )
