"""Errors that say where, what was expected and what was got.

How to read this file: the classes and their text come first. An error climbs from the layer that
failed to the call that the user made; on its way each parent adds its child's name and the shapes
of the layers before it (``error_context``), so that no global stack of frames is needed to know the
path. ``public_api`` is the last stop: it removes the frames that are not the user's, and turns a
call that does not fit a signature into an error with an answer (``unknown.py``).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import jax

from .tracebacks import called_within, drop_jax_notes, nearest_frame, raised_by_call, users_frames

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# The mistakes that a wrong shape, name or type makes in Python and JAX. All others, a file that is
# missing for instance, have nothing to do with the layer (docs/notes/0002-errors-climb.md).
_TRANSLATED = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    NameError,
    OverflowError,
    ZeroDivisionError,
)
# The first that fits is shown: the last is the base class of others.
_HINTS = (
    (jax.errors.TracerBoolConversionError, "jnp.where or jax.lax.cond instead of Python's if"),
    (jax.errors.TracerArrayConversionError, "jnp instead of np"),
    (jax.errors.TracerIntegerConversionError, "index an array, not a list, with an array"),
    (jax.errors.NonConcreteBooleanIndexError, "jnp.where(mask, x, 0) instead of x[mask]"),
    (jax.errors.ConcretizationTypeError, "Python numbers and shapes cannot depend on them"),
)
# JAX's errors for something other than an array name its class.
_NO_ARRAY = "jlayers.Sequence'>"
# Of a deep model's layers before the one that failed, the last ones matter.
_SHOWN = 12
_WIDTH = 72


# A protocol, because layers are defined above errors.
class Described(Protocol):
    """What an error says of a layer: what made it, its ``repr`` on one line, and where."""

    @property
    def maker(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def site(self) -> str: ...

    def short(self) -> str: ...


class JlayersError(ValueError):
    """The base of all errors of jlayers: something is not what it has to be.

    The text has one fact a line: where and what on the first, then the layer and the line that
    built it, what was expected, what was got, the shapes before the layer, and a hint.

    Attributes:
      problem: what is wrong, one line.
      expected, got, hint: texts, or None.
      path: names from the model down to the layer, empty for the model itself.
      before: (path, input shapes, output shapes) of the layers that ran before.
    """

    # The name users import it by, in tracebacks too.
    __module__ = "jlayers"

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ):
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.got = got
        self.hint = hint
        self.path: tuple[str, ...] = ()
        self.before: tuple[tuple[str, str, str], ...] = ()
        self.maker: str | None = None
        self.layer: str | None = None
        self.site: str | None = None

    def __str__(self) -> str:
        # Written when it is read: the path still grows while the error climbs.
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
            space = "" if self.got.startswith("\n") else " " * 6
            lines.append(f"  got:{space}{self.got}")
        before = self.before[-_SHOWN:]
        width = max((len(path) for path, _, _ in before), default=0)
        for i, (path, x, y) in enumerate(before):
            label = "" if i else "before:"
            lines.append(f"  {label:<10}{path:<{width}}  {x} -> {y}")
        if self.hint is not None:
            lines.append(f"  hint:     {self.hint}")
        return "\n".join(lines)

    def attribute_to(self, maker: str, layer: str | None = None, site: str | None = None) -> None:
        """Names the layer that failed, unless a layer further inside was named before."""
        if self.maker is None:
            self.maker, self.layer, self.site = maker, layer, site

    def add_parent_context(self, name: str, before: list[tuple[str, str, str]]) -> None:
        """Adds a parent's view: the child's ``name`` and the siblings that ran ``before`` it."""
        prefix = f"{name}/" if name else ""
        below = tuple((prefix + path, x, y) for path, x, y in self.before)
        self.before = (*before, *below)
        self.path = ((name,) if name else ()) + self.path


class LayerError(JlayersError):
    """A layer, its input or its parameters are not what they have to be."""

    __module__ = "jlayers"


class CheckpointError(JlayersError):
    """A checkpoint cannot be written, read, or restored into what is asked for."""

    __module__ = "jlayers"


class DataError(JlayersError):
    """Data, or a position in it, is not what a source of batches has to be."""

    __module__ = "jlayers"


class InteropError(JlayersError):
    """A file of another library cannot be read, or its arrays are not those of the model."""

    __module__ = "jlayers"


class ProcessError(JlayersError):
    """One of several processes differs from the others, has ended, or does not come."""

    __module__ = "jlayers"


class TrainingError(JlayersError):
    """A training step, loop or log is set up wrongly, or gives what it must not."""

    __module__ = "jlayers"


# Python has a ``TypeError`` for a call that does not fit a signature: ours are one as well.
_CALL_ERRORS: dict[type[JlayersError], type[JlayersError]] = {
    kind: type(kind.__name__, (kind, TypeError), {"__module__": "jlayers"})
    for kind in (LayerError, CheckpointError, DataError, TrainingError)
}
# The checks of arguments are shared; the package of the function that was called names the class.
_OF_PACKAGE: dict[str, type[JlayersError]] = {
    "jlayers.checkpoint": CheckpointError,
    "jlayers.data": DataError,
    "jlayers.records": TrainingError,
    "jlayers.training": TrainingError,
}


@contextlib.contextmanager
def error_context(
    layer: Described, name: str = "", before: Callable[[], list[tuple[str, str, str]]] = list
) -> Iterator[None]:
    """Blames ``layer`` for what fails inside, seen from a parent that calls it ``name``.

    Mistakes that Python or JAX report become a ``LayerError`` with the original as its cause. All
    other exceptions, a user's own classes among them, stay what they are, so that ``except``
    clauses keep working, and get a note that says where.
    """
    try:
        yield
    except Exception as error:
        failure = _failure(error)
        old_note = str(failure)
        failure.attribute_to(layer.maker, layer.short(), layer.site)
        failure.add_parent_context(name, before())
        if failure is error:
            raise
        if _is_translated(error):
            raise failure from error
        # Every parent replaces the note of its child, so that one is left, with the whole path.
        notes = [note for note in getattr(error, "__notes__", []) if note != old_note]
        error.__notes__ = [*notes, str(failure)]
        raise


@contextlib.contextmanager
def calling_user_code(
    what: str,
    kind: type[JlayersError] = LayerError,
    facts: Callable[[], tuple[str, str | None]] | None = None,
) -> Iterator[None]:
    """Says that it was ``what`` that raised, where something that a user gave is called.

    Mistakes that Python or JAX report become an error of ``kind``, with ``facts``: what it got, and
    a hint.
    """
    try:
        yield
    except Exception as error:
        known = hasattr(error, "_jlayers_failure")  # of a layer inside
        failure = _failure(error, what, kind)
        if failure is error or not _is_translated(error):
            raise
        if facts is not None and not known:
            failure.got, hint = facts()
            failure.hint = failure.hint or hint
        raise failure from error


def _unusable(error: object) -> tuple[str, str] | None:
    """Problem and hint, where JAX refused an array that a user held for too long."""
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return (
            "an array is a tracer, which has left the function that was traced",
            "return it from the function under jax.jit, and use what the call gives",
        )
    # The text is all that tells it from other errors of the runtime.
    if isinstance(error, RuntimeError) and str(error).startswith("Array has been deleted"):
        shape = str(error).partition("shape=")[2].rstrip(".")
        hint = "its memory was donated to a jitted function: use what that returned"
        return f"an array {shape} has been deleted", hint
    return None


def _is_translated(error: Exception) -> bool:
    if _unusable(error) is not None:
        return True
    # A user's own subclass of ValueError is for the user's own except clause.
    named = type(error).__module__.split(".")[0] in ("builtins", "jax")
    return named and isinstance(error, _TRANSLATED)


def _failure(error: Any, subject: str = "", kind: type[JlayersError] = LayerError) -> JlayersError:
    """The ``JlayersError`` that says where ``error`` came from; the same one all the way up."""
    if isinstance(error, JlayersError):
        return error
    if not hasattr(error, "_jlayers_failure"):
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        problem = f"{subject} raised {type(error).__name__}" + (f": {first}" if first else "")
        hints = [hint for refused, hint in _HINTS if isinstance(error, refused)]
        hint = f"a layer is traced, its values are not known: {hints[0]}" if hints else None
        if _NO_ARRAY in str(error):
            problem = "expected an array here, got a Sequence, which would lose its mask"
            hint = "x.map(function), or the function as a child of its own; arithmetic works"
        problem, hint = _unusable(error) or (problem, hint)
        # Kept with the exception, since every parent on the way up adds to it.
        error._jlayers_failure = kind(problem.strip(), hint=hint)
    return error._jlayers_failure  # type: ignore[no-any-return]


def public_api(function: Callable[P, R], name: str | None = None) -> Callable[P, R]:
    """Keeps JAX's and jlayers' own frames out of the traceback of an error.

    ``jax.config.update("jax_traceback_filtering", "off")`` brings them back. An error that names no
    layer names the function (by ``name``, where users know it by another one), and has the class of
    the function's package.
    """
    special = function.__name__.startswith("__")
    owner = name or (function.__qualname__.split(".")[0] if special else function.__name__)
    kind = _OF_PACKAGE.get(".".join(function.__module__.split(".")[:2]))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # pytest leaves out frames with this name.
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except Exception as caught:
            error: Exception = caught
            if type(caught) is TypeError and raised_by_call(caught):
                error = call_error(owner, inspect.signature(function), args, kwargs, kind) or caught
            elif isinstance(caught, JlayersError) or _unusable(caught) is not None:
                error = _failure(caught)
                if kind is not None and type(error) is LayerError:
                    error = _of_kind(kind, error, owner)
                # By what the user called: partition, inside train_state, says nothing to them.
                if (name or not special) and not called_within(call.__code__):  # type: ignore[attr-defined]
                    error.attribute_to(owner)
            if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
                if error is caught:
                    raise
                raise error.with_traceback(caught.__traceback__) from caught.__cause__
            cause = caught.__cause__
        # Raised outside the handler, so that the frames below are not its context either.
        if not isinstance(error, JlayersError):
            raise error.with_traceback(users_frames(error.__traceback__))
        drop_jax_notes(error)
        if cause is not None:
            drop_jax_notes(cause)
            cause.__traceback__ = users_frames(cause.__traceback__)
        # One frame of jlayers remains, since Python adds the one that raises.
        raise error.with_traceback(None) from cause

    return call


def public_init(name: str) -> Callable[[type[T]], type[T]]:
    """``public_api`` for the ``__init__`` that a dataclass was given."""

    def decorate(cls: type[T]) -> type[T]:
        cls.__init__ = public_api(cls.__init__, name)  # type: ignore[method-assign]
        return cls

    return decorate


def call_error(
    name: str,
    signature: inspect.Signature,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    kind: type[JlayersError] | None = None,
) -> JlayersError | None:
    """The error of a call that does not fit a signature, or None where it does."""
    # Here, so that programs without mistakes do not import the tables of words.
    from .unknown import misfit

    found = misfit(name, signature, args, kwargs)
    if found is None:
        return None
    error = _CALL_ERRORS[kind or LayerError](
        found.problem, expected=found.expected, got=found.got, hint=found.hint
    )
    error.maker = name
    return error


def _of_kind(kind: type[JlayersError], error: LayerError, owner: str) -> JlayersError:
    """The same facts as an error of ``kind``, where they concern ``owner`` and no layer."""
    if error.layer is not None or error.maker not in (None, owner):
        return error
    other = kind(error.problem, expected=error.expected, got=error.got, hint=error.hint)
    other.maker = error.maker
    return other


def caller_location() -> str:
    """``file:line`` of the nearest frame outside jlayers."""
    frame, _ = nearest_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def warn(text: str) -> None:
    """A ``UserWarning`` of the nearest frame outside jlayers."""
    warnings.warn(text, stacklevel=nearest_frame()[1])


def truncate(text: str) -> str:
    """The text on one line, and no longer than fits beside other text."""
    # A repr over several lines leaves a space after brackets, and a comma before the last.
    text = " ".join(text.split()).replace("( ", "(").replace(", )", ")")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 4] + " ..."
