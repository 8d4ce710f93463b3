"""The frameworks. Each file has ``OPS``: name of an operation to a function of the row."""

import functools
import importlib
import importlib.metadata
from types import ModuleType
from typing import Any

from ..row import Row
from .contender import Contender, Unavailable

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
PEERS = tuple(name for name in FRAMEWORKS if name not in ("jlayers", "torch"))


def build(framework: str, row: Row) -> Any:
    """The row in a framework: a ``Contender``, or a ``TorchContender`` for torch.

    Raises:
      Unavailable: where there is none, saying why.
    """
    adapter = _adapter(framework)
    if row.op not in adapter.OPS:
        raise Unavailable(adapter.LACKS.get(row.op, f"{framework} has no such layer"))
    return adapter.OPS[row.op](row)


@functools.cache
def _adapter(framework: str) -> ModuleType:
    try:
        return importlib.import_module(f".{framework}", __name__)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from None


def installed() -> dict[str, str | None]:
    """The version of each framework here, or None."""
    versions: dict[str, str | None] = {}
    for name, distribution in FRAMEWORKS.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


__all__ = ["FRAMEWORKS", "PEERS", "Contender", "Unavailable", "build", "installed"]
