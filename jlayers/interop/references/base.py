"""What a reference is: another implementation of a model, and what its layers give."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import InteropError
from ...base.types import PyTree


class Given(NamedTuple):
    """What a layer of the other implementation gave in one call.

    Attributes:
      name: as the other library names it. Of the model's output ``""``; of several their names or
        places: ``"logits"``, ``"0"``, ``"past.1"``.
      kind: its class or operator, ``""`` where it is not known.
      value: of several that a layer gave the first.
      arrays: names of the arrays of its file that it is computed with, where they are known.
      output: whether it is one of the model's outputs.
    """

    name: str
    kind: str
    value: np.ndarray
    arrays: frozenset[str] = frozenset()
    output: bool = False


class Reference(NamedTuple):
    """A kind of reference.

    Attributes:
      says: what it is, in words, and in brackets what is taken for it.
      takes: whether an object is one of this kind. It imports nothing.
      run: ``run(reference, inputs)`` gives what its layers give, in the order in which they ran,
        the outputs of the whole last. The inputs are NumPy arrays: one, a tuple, or a dict.
    """

    says: str
    takes: Callable[[object], bool]
    run: Callable[[Any, PyTree], list[Given]]

    @property
    def short(self) -> str:
        return self.says.partition(" (")[0]


def named(
    given: Any, array_of: Callable[[Any], np.ndarray | None], name: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of what a layer or a model gave, by keys, fields and places joined by dots.

    Args:
      given: a tensor, or nested tuples, lists, mappings and named tuples of them.
      array_of: the array of a tensor; None for what holds no numbers.
      name: what is in front of the names.
    """
    entries: Iterable[tuple[Any, Any]]
    if isinstance(given, Mapping):
        entries = given.items()
    elif isinstance(given, list | tuple):
        # A named tuple, by its fields.
        keys = getattr(given, "_fields", range(len(given)))
        entries = zip(keys, given, strict=True)
    else:
        if (array := array_of(given)) is not None:
            yield name, array
        return
    for key, each in entries:
        yield from named(each, array_of, f"{name}.{key}" if name else str(key))


def outputs(kind: str, given: Any, array_of: Callable[[Any], np.ndarray | None]) -> list[Given]:
    """The outputs of a model.

    Raises:
      InteropError: where there is none.
    """
    found = [Given(name, kind, array, output=True) for name, array in named(given, array_of)]
    if not found:
        raise InteropError(
            "the original's output holds no tensor",
            expected="a tensor, or tuples, lists and mappings of tensors",
            got=type(given).__name__,
        )
    return found


def needed(module: str, what: str, package: str | None = None) -> Any:
    """The module, which is imported.

    Raises:
      InteropError: where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module
        raise InteropError(
            f"{what} is run by {name}, which is not installed", hint=f"pip install {name}"
        ) from error
