"""What several processes compare before they compute together: data, and shapes of batches."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..base import processes
from ..base.types import PyTree
from ..data import Source

# Addresses of callbacks, which are numbers of a process.
_ADDRESS = re.compile(r"\d{9,}")


def text_of_data(source: Source) -> str:
    """What tells data from other data: that of ``Batches``, or the first batch."""
    fingerprint = getattr(source, "fingerprint", None)
    if fingerprint is not None:
        return str(fingerprint)
    if not source.rereads:
        return type(source).__name__
    first = next(iter(source.read(list(source.start), 1)), None)
    if first is None:
        return "no batches"
    leaves = [leaf for leaf in jax.tree.leaves(first[0]) if not isinstance(leaf, jax.Array)]
    checksums = [zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for leaf in leaves]
    shapes = [f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}" for leaf in leaves]
    return f"batches of {', '.join(shapes)}, the first with the checksums {checksums}"


def check_program(where: str, function: Callable[..., Any], *args: Any) -> None:
    """Raises on every process where they are about to run different programs.

    By the program as XLA is given it: rates, losses and constants are in it. It is traced already,
    or will be.
    """
    if processes.count() > 1:
        text = jax.jit(function).lower(*args).as_text()
        processes.agree(where, {"the program of a step": _ADDRESS.sub("", text)})


class Shapes:
    """The shapes of batches that all processes have agreed on.

    Programs for batches of different shapes would exchange what does not belong together, and
    nothing in XLA would notice.

    Args:
      where: for the error.
    """

    def __init__(self, where: str):
        self._where = where
        self._seen: set[tuple[Any, ...]] = set()

    def check(self, batch: PyTree) -> None:
        """Raises where a batch of new shapes is not one on all processes."""
        arrays = [leaf for leaf in jax.tree.leaves(batch) if hasattr(leaf, "dtype")]
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in arrays)
        if shapes not in self._seen and processes.count() > 1:
            text = ", ".join(f"{dtype}{list(shape)}" for shape, dtype in shapes)
            doing = f"with a first batch of {text}"
            processes.agree(self._where, {"the shapes of a batch": text}, doing=doing)
            self._seen.add(shapes)
