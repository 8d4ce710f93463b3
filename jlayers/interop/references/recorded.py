"""Recorded activations: names and arrays, as somebody wrote them down where the original runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ...base.errors import InteropError
from ...base.types import PyTree
from ..reading import read
from . import pytorch
from .base import Given, Reference, named

# Formats of arrays alone. A file of another library's weights would be taken for activations.
_ENDS = (".npz", ".safetensors")
_OUTPUT = re.compile("(?:outputs?)?(?:$|[./])")
INPUT = "input"


def _takes(reference: object) -> bool:
    if isinstance(reference, str | os.PathLike):
        return os.fspath(reference).endswith(_ENDS)
    return isinstance(reference, Mapping)


def arrays_of(reference: Any) -> Mapping[str, Any]:
    """The recorded arrays, the input among them."""
    return reference if isinstance(reference, Mapping) else read(reference)


def _run(reference: Any, inputs: PyTree) -> list[Given]:
    # The input was part of the recording: whether it is this one, nothing here can tell.
    arrays = {
        name: array
        for key, each in arrays_of(reference).items()
        if key != INPUT
        for name, array in _arrays(str(key), each)
    }
    if not arrays:
        raise InteropError("the recording holds no activations")
    marked = [name for name in arrays if _OUTPUT.match(name)]
    last = marked or [[*arrays][-1]]
    given = [Given(name, "", array) for name, array in arrays.items() if name not in last]
    for name in last:
        key = name[found.end() :] if (found := _OUTPUT.match(name)) else ""
        given.append(Given(key.replace("/", "."), "", arrays[name], output=True))
    return given


def _arrays(name: str, value: Any) -> list[tuple[str, np.ndarray]]:
    """Those of one entry: a layer may have given several."""
    nested = isinstance(value, list | tuple | Mapping)
    # A list of numbers is an array.
    if nested and not all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(value)):
        return [*named(value, lambda leaf: None if leaf is None else _array(name, leaf), name)]
    return [(name, _array(name, value))]


def _array(name: str, value: Any) -> np.ndarray:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = pytorch.array_of(value)
    array = np.asarray(value)
    if array.dtype.kind in "OUSmM":
        raise InteropError(
            f"the recorded {name!r} is not an array of numbers",
            got=type(value).__name__,
            hint="{name: array} of what layers gave, as NumPy arrays",
        )
    return array


REFERENCE = Reference(
    "recorded activations (a mapping of names to arrays, an .npz or a .safetensors file)",
    _takes,
    _run,
)
