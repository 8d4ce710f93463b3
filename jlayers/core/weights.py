"""Lazy weights: parameters that are made of arrays only where a layer computes with them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

T = TypeVar("T")


def static(*, default: Any = dataclasses.MISSING, kw_only: bool = False) -> Any:
    """A field of a lazy weight that holds no array."""
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def lazy(kind: type[T]) -> type[T]:
    """Makes a subclass of ``Weight`` a dataclass that JAX knows as a node of trees."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(kind))


@lazy
class Weight:
    """A weight that is not an array yet: a node of a tree of parameters, whose leaves are arrays.

    A transform of weights puts one where the layer inside has a parameter. ``lax.scan`` and
    ``vmap`` slice its leaves, so that each copy of a ``repeat`` makes its own weight, inside the
    loop. A layer that takes it as it is (``Layer(lazy_weights=)``) calls ``core.dense``; any other
    gets ``array()``.

    Subclasses are decorated with ``lazy``. Their fields are arrays, lazy weights and ``static()``
    values, and the last axes are those of one copy.

    Attributes:
      kernel: the array that the weight is made from, of its shape; or another lazy weight.

    >>> import jax.numpy as jnp
    >>> @lazy
    ... class Twice(Weight):
    ...     def made(self):
    ...         return 2 * array_of(self.kernel)
    >>> weight = Twice(jnp.ones((3, 2))).astype(jnp.bfloat16)
    >>> weight.shape, weight.array().dtype
    ((3, 2), dtype(bfloat16))
    """

    kernel: Any
    cast: np.dtype[Any] | None = static(default=None, kw_only=True)

    def made(self) -> jax.Array:
        """The array, in any floating dtype."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.kernel.shape
        return shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kernel.dtype if self.cast is None else self.cast

    @property
    def T(self) -> Transposed:
        return Transposed(self)

    def astype(self, dtype: DTypeLike) -> Self:
        """The same weight, whose array will have this dtype; its leaves stay as they are."""
        same: Any = self  # a dataclass, as mypy cannot see
        return dataclasses.replace(same, cast=np.dtype(dtype))  # type: ignore[no-any-return]

    def array(self) -> jax.Array:
        """The array that the weight stands for."""
        return self.made().astype(self.dtype)

    def product(self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        """``x @ weight`` over the last axis of ``x`` and the first of two.

        Args:
          x: (..., in), of the weight's dtype.
          dense: ``core.dense``, which takes arrays and lazy weights.
        """
        return dense(x, self.array())

    def product_with_rows(
        self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]
    ) -> jax.Array:
        """``x @ weight.T``, as ``product``."""
        return dense(x, self.array().T)

    def rows(self, ids: jax.Array, lookup: Callable[[Any, jax.Array], jax.Array]) -> jax.Array:
        """The rows of these numbers: ``lookup(array, ids)``."""
        return lookup(self.array(), ids)


@lazy
class Transposed(Weight):
    """The transpose of another weight, of two axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.kernel.shape[::-1]
        return shape

    def made(self) -> jax.Array:
        return self.kernel.array().T  # type: ignore[no-any-return]

    def product(self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        y: jax.Array = self.kernel.astype(x.dtype).product_with_rows(x, dense)
        return y


def is_weight(value: object) -> bool:
    """Whether it is a lazy weight: for ``is_leaf`` of ``jax.tree``."""
    return isinstance(value, Weight)


def array_of(weight: Any, copies: int = 0) -> Any:
    """The array that a lazy weight stands for; an array is returned as it is.

    Args:
      copies: how many axes of copies its leaves have in front.
    """
    if not isinstance(weight, Weight):
        return weight
    make = type(weight).array
    for _ in range(copies):
        make = jax.vmap(make)
    return make(weight)


def arrays_in(params: Any) -> Any:
    """A tree with arrays in place of lazy weights."""
    if isinstance(params, dict):
        return {name: arrays_in(entry) for name, entry in params.items()}
    return array_of(params)


def as_matrix(kernel: jax.Array) -> jax.Array:
    """A kernel as a matrix of all its axes by the last."""
    return lax.reshape(kernel, (math.prod(kernel.shape[:-1]), kernel.shape[-1]))
