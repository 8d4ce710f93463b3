"""A metric over many batches: sums that are added up, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError, public_api
from ..base.specs import format_short


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metric:
    """Sums over examples, and the function that makes the metric of them.

    The metric of two batches is ``first + second``, of any number ``sum`` of them, in any order and
    on any device: it is exactly that of all their examples, which a mean of means is not. It is a
    pytree, so that it is returned by ``jit``, added up in ``scan``, and summed over devices by
    ``jax.lax.psum``. ``training.make_evaluator`` takes it in place of a number.

    Args:
      sums: a pytree of arrays.
      finish: ``finish(sums)``, the metric.
      merge: ``merge(first, second)``, the sums of both, where it is not enough to add them up.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> first = metrics.accuracy(jnp.eye(3), jnp.array([0, 1, 1]))
    >>> second = metrics.accuracy(jnp.eye(3)[:1], jnp.array([0]))
    >>> float((first + second).value())
    0.75
    """

    sums: Any
    finish: Callable[[Any], Any] = dataclasses.field(metadata={"static": True})
    merge: Callable[[Any, Any], Any] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    @public_api
    def value(self) -> Any:
        """The metric of all examples so far; NaN where there are none."""
        return self.finish(self.sums)

    def then(self, function: Callable[[Any], Any]) -> Metric:
        """The metric ``function(self.value())`` of the same sums.

        >>> import jax.numpy as jnp
        >>> from jlayers import metrics
        >>> error = metrics.mean(jnp.array([1.0, 4.0, 4.0])).then(jnp.sqrt)
        >>> round(float(error.value()), 4)
        1.7321
        """
        return Metric(self.sums, _Then(self.finish, function), self.merge)

    @public_api
    def __add__(self, other: Metric) -> Metric:
        if not isinstance(other, Metric):
            return NotImplemented
        own: object = jax.tree.structure(self.sums)
        if self.finish != other.finish or own != jax.tree.structure(other.sums):
            raise TrainingError(
                "two different metrics cannot be added",
                expected=format_short(self.finish),
                got=format_short(other.finish),
                hint="both from the same function with the same options",
            )
        if self.merge is not None:
            return Metric(self.merge(self.sums, other.sums), self.finish, self.merge)
        return Metric(jax.tree.map(jnp.add, self.sums, other.sums), self.finish)

    def __radd__(self, other: object) -> Metric:
        # ``sum`` begins with 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented


@dataclasses.dataclass(frozen=True)
class _Then:
    """One function after another, equal where both are."""

    first: Callable[[Any], Any]
    second: Callable[[Any], Any]

    def __call__(self, sums: Any) -> Any:
        return self.second(self.first(sums))
