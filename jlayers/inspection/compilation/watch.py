"""When a jitted function was compiled again, and why: the leaf, by path, and what changed.

How to read this file: ``CompileWatch`` counts traces and compilations of one function, for nothing
per call, and makes the report when the count moved; ``jit_reporting_recompiles`` is ``jax.jit``
with such a watch. ``signature`` says what JAX compiles a call for and how two calls differ.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

from ...base import arguments
from ...base.errors import TrainingError, public_api, warn
from ...base.specs import format_short
from .signature import Change, Signature, changes, signature

# The event that JAX reports after each compilation, with the program's name as fun_name.
_COMPILED = "/jax/core/compile/backend_compile_duration"
# How many signatures are remembered: a loop of ever new shapes must not fill the memory.
_REMEMBERED = 8
# A report is one warning, and a new optimiser may change thousands of leaves.
_SHOWN = 8
_OUTSIDE = (
    "its arguments are as before: a setting of JAX changed, one that a context manager sets "
    "perhaps, or jax.clear_caches was called"
)


class _Counts:
    """What one thread compiled: ``events`` so far, those of them ``seen``, and if one was traced.

    A function may be called on several threads, and each must be told of its own calls alone.
    """

    __slots__ = ("allowed", "compiles", "events", "most", "seen", "traced")

    def __init__(self) -> None:
        self.events = self.seen = self.compiles = 0
        self.traced = False
        self.allowed: int | None = None
        self.most: int | None = None


class CompileWatch:
    """Counts the compilations of a function, at no cost per call.

    JAX runs the Python body of a jitted function when it traces it, and notifies its listeners
    when it compiles without tracing, for arguments on other devices. Both increment ``events``. So
    a loop compares two integers after each call, and makes a ``report`` where they differ::

        watch = CompileWatch(step)
        jitted = jax.jit(watch.traced)
        with watch:
            for number, batch in enumerate(batches):
                result = jitted(state, batch)
                if watch.events != watch.seen:
                    report = watch.report(number, state, batch)
                state, metrics = result

    Args:
      function: pure, not jitted.
      name: what a report calls it.
      most: how many compilations are allowed, the first among them; None for any number.
      unit: what a report calls the numbers.

    Attributes:
      traced: the function to jit.
      counts: ``events`` and ``seen`` of the calling thread.
      events: grows with each trace and each compilation on the calling thread.
      seen: what ``events`` was at the last report there.
      compiles: the compilations that were reported, the first among them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str = "step",
        most: int | None = None,
        unit: str = "step",
    ):
        self.compiles = 0
        self._local = threading.local()
        self._lock = threading.Lock()
        self._name, self._unit = name, unit
        self._most = most
        self._arguments = _arguments(function)
        # Each with the thread that compiled it.
        self._known: deque[tuple[int, Signature]] = deque(maxlen=_REMEMBERED)

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            counts = self.counts
            counts.events += 1
            counts.traced = True
            return function(*args, **kwargs)

        # A callable object has no name of its own; profiles show this one.
        traced.__name__ = _name_of(function)
        self.traced = traced
        program = f"jit({traced.__name__})"

        # JAX tells the name of what it compiled and nothing else: another function of this name
        # counts too, until ``report`` finds that the arguments are as before.
        def listener(event: str, seconds: float, **about: Any) -> None:
            if event == _COMPILED and about.get("fun_name") == program:
                self.counts.events += 1

        self._listener: Callable[..., None] = listener
        self._listening: set[int] = set()

    @property
    def counts(self) -> _Counts:
        try:
            return self._local.counts  # type: ignore[no-any-return]
        except AttributeError:
            self._local.counts = counts = _Counts()
            return counts

    @property
    def events(self) -> int:
        return self.counts.events

    @property
    def seen(self) -> int:
        return self.counts.seen

    def allow(self, more: int | None) -> None:
        """Allows so many compilations on this thread from here on; None for any number."""
        counts = self.counts
        counts.most = None if more is None else counts.compiles + more
        counts.allowed = more

    def start(self) -> None:
        """Listens to JAX from here on; does nothing where this thread asked for it already."""
        with self._lock:
            if not self._listening:
                jax.monitoring.register_event_duration_secs_listener(self._listener)
            self._listening.add(threading.get_ident())

    def stop(self) -> None:
        """Stops listening, unless another thread asked for it too."""
        with self._lock:
            if self._listening == {threading.get_ident()}:
                self._unregister()
            self._listening.discard(threading.get_ident())

    def _stop_for_all(self) -> None:
        """Stops listening, whichever thread asked for it."""
        with self._lock:
            if self._listening:
                self._unregister()
            self._listening.clear()

    def _unregister(self) -> None:
        # Other code may have cleared all listeners.
        with contextlib.suppress(ValueError, AssertionError):
            jax.monitoring.unregister_event_duration_listener(self._listener)

    def __enter__(self) -> CompileWatch:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def report(self, number: int, *args: Any, **kwargs: Any) -> str | None:
        """Why the call that just was made compiled the function again.

        Args:
          number: of the call, for the text.
          *args: what it was called with, not what it returned. Donated arrays, deleted by then,
            can be used: their shapes are still known.
          **kwargs: those of the call.

        Returns:
          The text; None for the first compilation, and where it was another function of the same
          name that was compiled.

        Raises:
          TrainingError: with the same facts, where there were more compilations than allowed.
        """
        counts, own = self.counts, threading.get_ident()
        counts.seen = counts.events
        traced, counts.traced = counts.traced, False
        new = signature(self._arguments, args, kwargs)
        with self._lock:
            # The nearest of all that are known, not the last: where two sizes take turns, the
            # last call says less of what is new than an earlier one. Of equals the newest is first.
            compared = [(changes(old, new), thread) for thread, old in reversed(self._known)]
            differences = [each for each, _ in compared]
            nearest = min(differences, key=len, default=[])
            # Nothing is new and Python did not run: it was another function that JAX compiled. Or
            # two threads called with the same new shape at once, and compiled it once each.
            elsewhere = any(not each and thread != own for each, thread in compared)
            if differences and not nearest and (elsewhere or not traced):
                return None
            self._known.append((own, new))
            self.compiles += 1
            counts.compiles += 1
            total = self.compiles
        problem = f"{self._name} was compiled again at {self._unit} {number}"
        lines, hint = _lines(nearest), _hint(nearest)
        limits = ((self._most, self._most, total), (counts.most, counts.allowed, counts.compiles))
        if limit := next((name for most, name, n in limits if most is not None and n > most), None):
            raise TrainingError(
                problem,
                expected=f"max_compiles={limit}",
                got=lines[0] if len(lines) == 1 else "".join(f"\n    {line}" for line in lines),
                hint=hint,
            )
        if not differences:
            return None
        if len(lines) == 1:
            return f"{problem}: {lines[0]}" + (f"  (hint: {hint})" if hint else "")
        return "\n  ".join([f"{problem}:", *lines, *([f"hint: {hint}"] if hint else [])])


@public_api
def jit_reporting_recompiles(
    function: Callable[..., Any], *, max_compiles: int | None = None, **options: Any
) -> Callable[..., Any]:
    """``jax.jit`` of a function, with a warning that says when it is compiled again and why.

    A warning names each leaf of the arguments that changed, by its path, and what changed: shape,
    dtype, weak type, devices. A call costs a third of a microsecond more than one of ``jax.jit``.

    Args:
      function: pure, not jitted.
      max_compiles: the compilations allowed, the first among them; one more is an error instead
        of a warning.
      **options: of ``jax.jit``.

    Raises:
      TrainingError: where an argument is not what it has to be; from a call, where it compiled the
        function once more than allowed.

    >>> import jax.numpy as jnp
    >>> from jlayers import inspection
    >>> mean = inspection.jit_reporting_recompiles(lambda x: x.mean(), max_compiles=1)
    >>> float(mean(jnp.ones((32, 4))))
    1.0
    >>> mean(jnp.ones((17, 4)))
    Traceback (most recent call last):
        ...
    jlayers.TrainingError: <lambda> was compiled again at call 2
      expected: max_compiles=1
      got:      x: float32[32, 4] became float32[17, 4]
      hint:     batches of one size: Batches(..., last='drop') or last='pad'
    """
    if not callable(function):
        raise TrainingError("function must be callable", got=format_short(function))
    if hasattr(function, "lower") and hasattr(function, "trace"):
        raise TrainingError("function is jitted already", hint="the function that was jitted")
    if max_compiles is not None:
        arguments.positive("max_compiles", max_compiles)
    watch = CompileWatch(function, _name_of(function), max_compiles, unit="call")
    jitted = jax.jit(watch.traced, **options)
    calls = itertools.count(1)

    @public_api
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        result = jitted(*args, **kwargs)
        counts = watch.counts
        if counts.events != counts.seen:
            try:
                report = watch.report(number, *args, **kwargs)
            except TrainingError as error:
                error.attribute_to("")  # its text begins with the function's name
                raise
            if report is not None:
                warn(report)
        return result

    # JAX keeps its listeners for ever; this one goes with the function that it is for.
    watch.start()
    weakref.finalize(call, watch._stop_for_all)
    return call


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin without a signature
        return []
    # Those that can be passed by position: for keywords the call itself has the names.
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _lines(found: list[Change]) -> list[str]:
    """The changes, those that are the same on one line."""
    if not found:
        return [_OUTSIDE]
    # A new batch size changes all arrays of a batch alike, a new device all of a state.
    alike: dict[str, list[str]] = {}
    for change in found:
        alike.setdefault(change.text, []).append(change.path)
    lines = []
    for text, paths in alike.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        lines.append(f"{paths[0]}{more}: {text}")
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]
    return lines


def _hint(found: list[Change]) -> str | None:
    return next((change.hint for change in found if change.hint is not None), None)
