"""Calls outside ``jax.jit``: an operation with loops or branches is compiled once for its shapes.

Called by itself, ``lax.scan`` compiles its body, and finds the program again only for the same
function object. A body that closes over a call's arrays is a new function each time: compiled at
every call, and never freed. So these operations have a program of their own for such calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
from jax import lax

P = ParamSpec("P")
R = TypeVar("R")


def compiled_when_eager(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs the function under ``jax.jit`` where nothing else compiles it.

    Inside ``jit``, ``eval_shape``, a scan and the like the function itself is traced, as if it had
    no decorator. Outside, and under ``grad`` and ``vmap`` that are not inside ``jit``, it is one
    program for its shapes and static arguments.

    Args:
      static: names of arguments that are not arrays. A call in which one is not hashable runs
        uncompiled.

    >>> import jax.numpy as jnp
    >>> @compiled_when_eager("n")
    ... def power(x, *, n):
    ...     return jax.lax.fori_loop(0, n, lambda i, y: y * x, jnp.ones_like(x))
    >>> float(power(jnp.array(2.0), n=3))
    8.0
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        jitted: Callable[..., R] = jax.jit(function, static_argnames=static)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if is_staged((args, kwargs)):
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            options = {name: _as_tuples(given.get(name)) for name in static}
            try:
                hash(tuple(options.values()))
            except TypeError:
                return function(*args, **kwargs)
            return jitted(**given | {name: options[name] for name in static if name in given})

        return call

    return decorate


def is_staged(arguments: object) -> bool:
    """Whether operations on these arguments are being written into a program.

    That is not so under a ``grad`` or ``vmap`` outside ``jit``, where there are tracers as well.
    """
    tracers = [a for a in jax.tree.leaves(arguments) if isinstance(a, jax.core.Tracer)]
    # Without tracers there may be a program around constants: one more function in it does no harm.
    if not tracers:
        return False
    if any(isinstance(tracer, _staged_kind()) for tracer in tracers):
        return True
    # What an operation without arguments returns depends on where it runs alone. A literal, which
    # leaves nothing in the program.
    return isinstance(lax.full((), False), jax.core.Tracer)


@functools.cache
def _staged_kind() -> type:
    """The class of the tracers of ``jit``: most calls need no further question."""
    kinds: list[type] = []

    def look(x: jax.Array) -> jax.Array:
        kinds.append(type(x))
        return x

    jax.eval_shape(look, jax.ShapeDtypeStruct((), bool))
    return kinds[0]


def _as_tuples(value: object) -> object:
    """Lists as tuples, which have a hash."""
    if type(value) is list or type(value) is tuple:
        return tuple(_as_tuples(entry) for entry in value)
    return value
