"""Files of installed packages, and how two runs of a network are compared."""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class MissingFileError(Exception):
    """The package with a network's files is not installed."""


def path(package: str, file: str) -> pathlib.Path:
    """Where a file of a package lies; the package is not imported, for its code is not wanted."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := pathlib.Path(folder, file)).exists():
            return found
    raise MissingFileError(f"{package}/{file}: `make pretrained` installs it")


class Result(NamedTuple):
    """One network beside its original.

    Attributes:
      network: what was rebuilt, and from which file.
      runtime: what ran the original.
      inputs: what both were given.
      difference: the largest absolute difference of any output.
      scale: the largest absolute output of the original.
      streamed: the largest difference of the streaming run to the whole, or None.
    """

    network: str
    runtime: str
    inputs: str
    difference: float
    scale: float
    streamed: float | None = None


def largest_difference(ours: Sequence[object], theirs: Sequence[object]) -> tuple[float, float]:
    """The largest absolute difference of outputs in the same order, and the largest output."""
    difference, scale = 0.0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        got, want = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if got.shape != want.shape:
            raise ValueError(f"ours has the shape {got.shape}, the original {want.shape}")
        # A NaN on one side is a difference, not a number to be skipped.
        difference = max(difference, float(np.max(np.abs(got - want), initial=0.0)))
        if np.isnan(got).any() or np.isnan(want).any():
            difference = float("nan")
        scale = max(scale, float(np.max(np.abs(want), initial=0.0)))
    return difference, scale
