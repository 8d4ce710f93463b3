"""The frameworks, each in a folder of its own with everything about it.

* ``__init__``: ``layout``, which takes jlayers' arrays to the framework's own, and ``PARTS``, its
  names for the parts of the models;
* ``ops``: ``OPS``, the name of an operation to a function of the row; ``LACKS``, why there is none;
* ``models``: ``MODELS``, the models of the whole steps as its users write them, by name;
* ``train``: ``training``, a step as its documentation has it, and how parameters are made.

Frameworks are imported when they are used: a fresh process shows what one costs to start.
"""

import importlib
import importlib.metadata
from types import ModuleType
from typing import Any

from ..row import Row

# Name to the distribution that brings it. jlayers is first: every ratio is to it.
FRAMEWORKS = {
    "jlayers": "jlayers",
    "lax": "jax",
    "linen": "flax",
    "nnx": "flax",
    "equinox": "equinox",
    "haiku": "dm-haiku",
    "keras": "keras",
    "torch": "torch",
}
# "lax" is code written by hand and has no large models.
LIBRARIES = tuple(name for name in FRAMEWORKS if name != "lax")


class Unavailable(Exception):  # noqa: N818  (not an error: the row goes on without this framework)
    """A framework is not installed, or has no such layer; the text says which."""


def part(framework: str, name: str) -> ModuleType:
    """One of the modules of a framework: "ops", "models" or "train".

    Raises:
      Unavailable: where the framework is not installed.
    """
    try:
        return importlib.import_module(f".{framework}.{name}", __name__)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from None


def build(framework: str, row: Row) -> Any:
    """The ``Implementation`` of a row in a framework.

    Raises:
      Unavailable: where there is none, saying why.
    """
    ops = part(framework, "ops")
    if row.op == "separable":
        from ..ops.conv import separable_parts

        parts = [build(framework, part) for part in separable_parts(row)]
        return parts[0].chain(parts)
    if row.op not in ops.OPS:
        lacks = getattr(ops, "LACKS", {})
        raise Unavailable(lacks.get(row.op, f"{framework} has no such layer"))
    return ops.OPS[row.op](row)


def installed() -> dict[str, str | None]:
    """The version of each framework here, or None."""
    versions: dict[str, str | None] = {}
    for name, distribution in FRAMEWORKS.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
