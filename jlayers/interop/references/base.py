"""What a reference is: another implementation of a model, and what its layers give."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import InteropError
from ...base.types import PyTree


class Given(NamedTuple):
    """What a layer of the other implementation gave in one call.

    Attributes:
      name: as the other library names it; ``""`` for the model's output.
      kind: its class or operator, ``""`` where it is not known.
      value: of several outputs the first.
      arrays: names of the arrays of its file that it is computed with, where they are known.
    """

    name: str
    kind: str
    value: np.ndarray
    arrays: frozenset[str] = frozenset()


class Reference(NamedTuple):
    """A kind of reference.

    Attributes:
      says: what it is, in words, and in brackets what is taken for it.
      takes: whether an object is one of this kind. It imports nothing.
      run: ``run(reference, inputs)`` gives what its layers give, in the order in which they ran,
        the output of the whole last. The inputs are NumPy arrays: one, a tuple, or a dict.
    """

    says: str
    takes: Callable[[object], bool]
    run: Callable[[Any, PyTree], list[Given]]

    @property
    def short(self) -> str:
        return self.says.partition(" (")[0]


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
