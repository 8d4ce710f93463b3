"""What ``match`` is given, looked at before anything is paired."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..base.errors import InteropError, truncate
from .formats.base import Arrays


def check_arrays(arrays: Any) -> None:
    """Refuses what is not a mapping of names to arrays, and says how to make one of it."""
    if not isinstance(arrays, Mapping):
        raise InteropError(
            "arrays must be a mapping of names to arrays",
            got=repr(os.fspath(arrays)) if _is_path(arrays) else type(arrays).__name__,
            hint=_mapping_of(arrays),
        )
    for name in arrays:
        if not isinstance(name, str):
            raise InteropError("the names of arrays must be text", got=repr(name))
    # A file's own mapping would read each array that is looked at.
    if type(arrays) is dict:
        nested = next((name for name, one in arrays.items() if isinstance(one, Mapping)), None)
        if nested is not None:
            raise InteropError(
                "arrays must be a flat mapping of names to arrays",
                got=f"a mapping at {nested!r}",
                hint="jl.flatten(arrays)",
            )
        for name, one in arrays.items():
            if not hasattr(one, "shape"):
                raise InteropError(f"{name!r} must be an array", got=type(one).__name__)


def views_of(arrays: Arrays) -> Arrays:
    """The arrays of a dict as views of NumPy, which say where their memory is.

    Tensors without numbers, or of a dtype that NumPy lacks, stay, and have a shape all the same.
    """
    if not isinstance(arrays, dict):
        return arrays

    def view(array: Any) -> Any:
        try:
            return np.asarray(array) if hasattr(array, "__array__") else array
        except (TypeError, RuntimeError):
            return array

    return {name: view(array) for name, array in arrays.items()}


def as_numpy(name: str, array: Any) -> np.ndarray:
    """An array that is to be loaded."""
    try:
        found = np.asarray(array)
    except (TypeError, RuntimeError) as error:
        raise InteropError(
            f"{name!r} cannot be read as an array of NumPy",
            got=f"{type(array).__name__}: {truncate(str(error))}",
            hint="tensor.detach().float().numpy()",
        ) from None
    if found.dtype.kind in "OSUMm" or found.dtype.type is np.void:
        raise InteropError(f"{name!r} must be an array of numbers", got=f"dtype {found.dtype}")
    # JAX takes no bytes in the other order.
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _is_path(given: Any) -> bool:
    return isinstance(given, (str, os.PathLike))


def _mapping_of(given: Any) -> str | None:
    if _is_path(given):
        return "jl.interop.read(path)"
    if hasattr(given, "state_dict"):
        return "module.state_dict()"
    if hasattr(given, "get_weights"):
        return "{w.path: w.numpy() for w in model.weights}"
    if isinstance(given, (list, tuple)):
        return "{w.path: array for w, array in zip(model.weights, arrays)}, for Keras's get_weights"
    return None


def check_targets(rules: Sequence[str], paths: Collection[str], names: Collection[str]) -> None:
    """Refuses a rule whose right side is not in the model, nor on the left of a later rule.

    A rule that renames an array itself, and not what lies below a prefix, may call it what it will.
    """
    arrays = {name.replace(".", "/").rpartition("/")[2] for name in names}
    sides = [
        [side.strip().replace(".", "/") for side in rule.partition("->")[::2]] for rule in rules
    ]
    for i, (old, new) in enumerate(sides):
        if old.rpartition("/")[2] in arrays:
            continue
        known = [*paths, *(later for later, _ in sides[i + 1 :])]
        if new and not any(_same_way(new, path) for path in known):
            raise InteropError(
                f"the rule {rules[i]!r} names no layer of the model",
                expected=", ".join(list(paths)[:8]),
                got=repr(new),
                hint='"theirs -> ours": names of the file are on the left',
            )


def _same_way(new: str, path: str) -> bool:
    """Whether one leads to the other, as far as both go."""
    steps = zip(new.split("/"), path.split("/"), strict=False)
    return not path or all(
        fnmatch.fnmatchcase(there, here) or fnmatch.fnmatchcase(here, there)
        for here, there in steps
    )
