"""Losses that layers add from inside: ``f.add_loss`` of a compose body, and who collects them.

Only while ``collected`` runs a function is there anything that takes them; elsewhere they are
dropped. Whatever runs a layer inside a JAX transformation (``repeat``, ``ensemble``, ``remat``)
collects inside it, returns them as outputs, and adds them again outside, so that no value leaves a
transformation other than as its output. docs/notes/0013-training-says.md says why
they are not part of the state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import jax
import jax.numpy as jnp

from ..core.dtypes import at_least_float32
from .errors import LayerError
from .specs import format_short

Result = TypeVar("Result")

_collector: ContextVar[list[jax.Array] | None] = ContextVar("added losses", default=None)


def add_loss(value: jax.Array) -> None:
    """Hands a loss to what collects, if anything does."""
    losses = _collector.get()
    if losses is not None:
        losses.append(value)


def check_loss(value: object) -> jax.Array:
    """A floating scalar, as an array.

    Raises:
      LayerError: for anything else.
    """
    array = jnp.asarray(value) if isinstance(value, int | float) else value
    if (
        not isinstance(array, jax.Array)
        or array.shape
        or not jnp.issubdtype(array.dtype, jnp.floating)
    ):
        raise LayerError(
            "add_loss takes a floating scalar",
            got=format_short(value),
            hint="its .mean() or .sum()" if getattr(value, "ndim", 0) else None,
        )
    return array


def is_collecting() -> bool:
    """Whether a loss that is added now goes anywhere."""
    return _collector.get() is not None


@contextlib.contextmanager
def _into(losses: list[jax.Array] | None) -> Iterator[None]:
    token = _collector.set(losses)
    try:
        yield
    finally:
        _collector.reset(token)


def collected(function: Callable[[], Result]) -> tuple[Result, list[jax.Array]]:
    """What a function returns, and the losses that layers added while it ran."""
    losses: list[jax.Array] = []
    with _into(losses):
        return function(), losses


def muted(function: Callable[[], Result]) -> Result:
    """What a function returns; losses that are added while it runs go nowhere."""
    with _into(None):
        return function()


def total(losses: list[jax.Array]) -> jax.Array:
    """Their sum, in float32 at least; 0 for none.

    Raises:
      LayerError: for a loss that comes from inside a transformation that the user called.
    """
    result = jnp.zeros((), jnp.float32)
    try:
        for loss in losses:
            # Narrow floats would lose a small loss beside a large one.
            wide = max(at_least_float32(loss.dtype), result.dtype, key=lambda dtype: dtype.itemsize)
            result = result.astype(wide) + loss.astype(wide)
    except jax.errors.UnexpectedTracerError as error:
        raise LayerError(
            "a loss was added inside a transformation of JAX that the body calls",
            expected="f.add_loss of a value that the transformation returned",
            hint="jl.repeat, jl.ensemble and jl.remat collect what is added inside them",
        ) from error
    return result
