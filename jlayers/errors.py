"""Errors that say where, what was expected and what was got.

One exception, :class:`LayerError`, climbs from the layer that failed to the call that the user
made. On its way each parent adds its child's name and the shapes of the layers before it, so no
global stack of frames is kept to know the path.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax

if TYPE_CHECKING:
    from .layer import Layer

P = ParamSpec("P")
R = TypeVar("R")

_OWN_FRAMES = os.path.dirname(os.path.abspath(__file__)) + os.sep
_JAX_FRAMES = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_TRANSLATED = (TypeError, ValueError, LookupError, AttributeError, AssertionError)


class LayerError(ValueError):
    """A layer, its input or its parameters are not what they have to be.

    The text has one fact a line: where and what on the first, then the layer and the line that
    built it, what was expected, what was got, the shapes before the layer, and a mend.

    Attributes:
      problem: what is wrong, one line.
      expected, got, mend: texts, or None.
      path: names from the model down to the layer, empty for the model itself.
      before: (path, input shapes, output shapes) of the layers that ran before.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        mend: str | None = None,
    ):
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.got = got
        self.mend = mend
        self.path: tuple[str, ...] = ()
        self.before: tuple[tuple[str, str, str], ...] = ()
        self.maker: str | None = None
        self.layer: str | None = None
        self.site: str | None = None

    def __str__(self) -> str:
        where = self.maker or ""
        if self.path:
            where += f" at {'/'.join(self.path)!r}"
        first = f"{where.strip()}: {self.problem}" if where else self.problem
        lines = [first]
        if self.layer is not None:
            lines.append(f"  layer:    {self.layer}" + (f"  ({self.site})" if self.site else ""))
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  got:      {self.got}")
        if self.before:
            width = max(len(path) for path, _, _ in self.before)
            for i, (path, x, y) in enumerate(self.before):
                label = "before:" if i == 0 else ""
                lines.append(f"  {label:<10}{path:<{width}}  {x} -> {y}")
        if self.mend is not None:
            lines.append(f"  try:      {self.mend}")
        return "\n".join(lines)

    def blame(self, maker: str, layer: str | None = None, site: str | None = None) -> None:
        """Names the layer that failed; the first (innermost) to do so stands."""
        if self.maker is None:
            self.maker, self.layer, self.site = maker, layer, site

    def climb(self, name: str, before: list[tuple[str, str, str]]) -> None:
        """Adds a parent's view: the child's ``name`` and the siblings that ran ``before`` it."""
        prefix = f"{name}/" if name else ""
        below = tuple((prefix + path, x, y) for path, x, y in self.before)
        self.before = (*before, *below)
        self.path = ((name,) if name else ()) + self.path


@contextlib.contextmanager
def located(
    layer: Layer, name: str = "", before: Callable[[], list[tuple[str, str, str]]] = list
) -> Iterator[None]:
    """Blames ``layer`` for what fails inside, seen from a parent that calls it ``name``.

    Built-in and JAX exceptions become a ``LayerError`` with the original as its cause. A user's
    own exception class stays what it is, so that ``except`` clauses keep working, and gets a note.
    """
    try:
        yield
    except LayerError as error:
        error.blame(layer.maker, layer.short(), layer.site)
        error.climb(name, before())
        raise
    except _TRANSLATED as error:
        if type(error).__module__.split(".")[0] not in ("builtins", "jax"):
            error.add_note(f"in {layer.short()} {name!r} ({layer.site})")
            raise
        failure = _translate(error)
        failure.blame(layer.maker, layer.short(), layer.site)
        failure.climb(name, before())
        raise failure from error


def _translate(error: Exception) -> LayerError:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    mend = None
    if isinstance(error, jax.errors.ConcretizationTypeError):
        mend = "a layer is traced: jnp.where or jax.lax.cond in the place of Python's if on values"
    return LayerError(f"its function raised {type(error).__name__}: {first}", mend=mend)


def boundary(function: Callable[P, R]) -> Callable[P, R]:
    """Keeps JAX's and jlayers' own frames out of the traceback of a ``LayerError``.

    ``jax.config.update("jax_traceback_filtering", "off")`` brings them back.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except LayerError as error:
            if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
                raise
            failure, cause = error, error.__cause__
        _drop_jax_notes(failure)
        if cause is not None:
            _drop_jax_notes(cause)
            cause.__traceback__ = _users_frames(cause.__traceback__)
        # Raised outside the handler, so that the frames below are not its context either.
        raise failure.with_traceback(None) from cause

    return call


def _drop_jax_notes(error: BaseException) -> None:
    # JAX notes that it removed frames at each nested trace; the text speaks of its own setting.
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if "JAX_TRACEBACK_FILTERING" not in note]


def _users_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith((_OWN_FRAMES, _JAX_FRAMES)):
            frames.append(trace)
        trace = trace.tb_next
    kept = None
    for frame in reversed(frames):
        kept = types.TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def caller_site() -> str:
    """``file:line`` of the nearest frame outside jlayers."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FRAMES):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
