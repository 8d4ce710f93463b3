"""The types of the contract: trees, initialisers, and the pair of functions that a layer is.

The docstrings of ``InitFn`` and ``ApplyFn`` are the contract itself. This module imports no layer,
so that whatever works on layers can say so without an import cycle.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax

# One argument or result of a layer: an array, or nested tuples, lists and dicts of arrays.
PyTree = Any
# Nested dicts of arrays with string keys.
Params = dict[str, Any]
State = dict[str, Any]
Carry = dict[str, Any]
# One typed key, of ``jax.random.key``; None where the caller gave none.
Key = jax.Array | None
Spec = jax.ShapeDtypeStruct


class Initializer(Protocol):
    """``value = initializer(key, shape, dtype)``, as the functions of ``jax.nn.initializers``."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any, /) -> jax.Array: ...


class InitFn(Protocol):
    """``params, state = init(key, x)``.

    ``x`` holds a ``jax.ShapeDtypeStruct`` for every array, so the result depends on shapes and
    dtypes alone. ``params`` and ``state`` are nested dicts of arrays, ``{}`` where there are none.
    The function is pure and works under ``jit``, ``vmap`` and ``eval_shape``.
    """

    # Positional only: an author may name the arguments otherwise.
    def __call__(self, key: jax.Array, x: PyTree, /) -> tuple[Params, State]: ...


class ApplyFn(Protocol):
    """``y, state = apply(params, state, x, key=None, train=False)``.

    The function is pure. The new state has the structure, the shapes and the dtypes of the old
    one; with ``train=False`` it is the old one. ``key`` is a typed key, or None: a layer that
    needs one and gets none raises. ``train`` is a Python bool, so it is static under ``jit``.
    """

    def __call__(
        self, params: Params, state: State, x: PyTree, /, *, key: Key, train: bool
    ) -> tuple[PyTree, State]: ...
