"""Which algorithm computes an operation, and why: chosen by static rules, recorded on request.

Each operation has a function ``choose_<operation>(shapes, ..., platform)`` that looks at static
shapes and the platform alone, so the choice is fixed when the program is traced. The thresholds in
these functions are measured: docs/notes/0008 and 0009, docs/benchmarks.md. ``jl.explain`` shows the
choices by tracing a model inside ``recording``.

How to read this file: the record of choices comes first, then ``traced_once``, for the operations,
and ``compiled_when_eager``, for what surrounds them. Outside ``jax.jit`` both compile: by itself
``lax.scan`` compiles its body, and finds the program again only for the same function object. A
body that closes over a call's arrays is a new function each time: compiled at every call, and never
freed.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import jax
from jax import lax

P = ParamSpec("P")
R = TypeVar("R")


class AlgorithmChoice(NamedTuple):
    """An algorithm and the reason for it, in words."""

    method: str
    reason: str


class Record(NamedTuple):
    """One call of a core function.

    Attributes:
      operation: the core function's name.
      choice: what runs on the platform that is asked about.
    """

    operation: str
    choice: AlgorithmChoice


# Context variables and not arguments: the core functions are called from inside layers, which
# know nothing of who is recording. They are local to a thread, as tracing is.
_records: contextvars.ContextVar[list[Record] | None] = contextvars.ContextVar(
    "jlayers_choices", default=None
)
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("jlayers_platform", default="cpu")


@contextlib.contextmanager
def recording(platform: str) -> Iterator[list[Record]]:
    """Collects the choices of the core functions that are traced inside, for ``platform``."""
    records: list[Record] = []
    tokens = _records.set(records), _platform.set(platform)
    try:
        yield records
    finally:
        _records.reset(tokens[0])
        _platform.reset(tokens[1])


def record_choice(
    operation: str, cpu: AlgorithmChoice, default: AlgorithmChoice, method: str | None
) -> None:
    """Records a call, inside ``recording``; a ``method`` that the caller gave overrides the choice.

    Args:
      operation: the core function's name.
      cpu: the choice on CPU.
      default: the choice on all other platforms.
      method: the core function's own argument of this name.
    """
    # Looking up a context variable is all that a call costs while nothing is recorded.
    records = _records.get()
    if records is None:
        return
    if method is not None:
        choice = AlgorithmChoice(method, "given by method=")
    else:
        choice = cpu if _platform.get() == "cpu" else default
    records.append(Record(operation, choice))


def check_method(method: str | None, methods: Sequence[str], operation: str) -> None:
    """Raises a ``ValueError`` unless ``method`` is None or one of ``methods``."""
    if method is not None and method not in methods:
        names = ", ".join(map(repr, methods))
        raise ValueError(f"{operation} has no method {method!r} for these arguments, but {names}")


def traced_once(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """One trace for all calls of equal shapes, dtypes and options; for operations on arrays alone.

    The function, its derivative and its transpose are traced for the first of such calls and then
    copied into the programs of the others, as if they had been traced there (JAX 0.12 copies when
    it lowers, and until then has a call): the layers of a deep model mostly repeat each other.
    Outside ``jax.jit`` the operation is a program of its own.

    Args:
      static: names of arguments that are not arrays. A call in which one is not hashable is traced
        by itself.

    >>> import jax.numpy as jnp
    >>> @traced_once("n")
    ... def power(x, *, n):
    ...     print("traced")
    ...     return x if n == 1 else x * power(x, n=n - 1)
    >>> float(jax.jit(lambda x: power(x, n=1) + power(x, n=1))(2.0))
    traced
    4.0
    """
    return _compiled(static, inline=True, needed=lambda arguments: _records.get() is None)


def compiled_when_eager(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs the function under ``jax.jit`` where nothing else compiles it.

    Inside ``jit``, ``eval_shape``, a scan and the like the function itself is traced, as if it had
    no decorator. Outside, and under ``grad`` and ``vmap`` that are not inside ``jit``, it is one
    program for its shapes and static arguments.

    Args:
      static: as for ``traced_once``.

    >>> import jax.numpy as jnp
    >>> @compiled_when_eager("n")
    ... def power(x, *, n):
    ...     return jax.lax.fori_loop(0, n, lambda i, y: y * x, jnp.ones_like(x))
    >>> float(power(jnp.array(2.0), n=3))
    8.0
    """
    return _compiled(static, inline=False, needed=lambda arguments: not is_staged(arguments))


def _compiled(
    static: Sequence[str], *, inline: bool, needed: Callable[[object], bool]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Calls the function through ``jax.jit`` where that is ``needed``, and as it is elsewhere."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        jitted: Callable[..., R] = jax.jit(function, static_argnames=static, inline=inline)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not needed((args, kwargs)):
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
