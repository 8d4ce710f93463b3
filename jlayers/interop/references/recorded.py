"""Recorded activations: names and arrays, as somebody wrote them down where the original runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...base.errors import InteropError
from ...base.types import PyTree
from ..reading import read
from .base import Given, Reference

# Formats of arrays alone. A file of another library's weights would be taken for activations.
_ENDS = (".npz", ".safetensors")
_OUTPUTS = ("", "output", "outputs")
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
    arrays = {n: np.asarray(array) for n, array in arrays_of(reference).items() if n != INPUT}
    if not arrays:
        raise InteropError("the recording holds no activations")
    output = next((name for name in _OUTPUTS if name in arrays), [*arrays][-1])
    given = [Given(name, "", array) for name, array in arrays.items() if name != output]
    return [*given, Given("", "", arrays[output])]


REFERENCE = Reference(
    "recorded activations (a mapping of names to arrays, an .npz or a .safetensors file)",
    _takes,
    _run,
)
