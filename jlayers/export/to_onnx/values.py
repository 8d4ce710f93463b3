"""What a variable of a jaxpr is in ONNX: a known array, a tensor, or a complex pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Known:
    """An array that does not depend on the inputs.

    Its shape may be one that broadcasts to the variable's: what is the same everywhere, is held
    once.

    Attributes:
      array: the values.
      hint: the path of the parameter that it is or was made from, or ``""``.
    """

    array: np.ndarray
    hint: str = ""

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.array.shape


@dataclass(frozen=True)
class Tensor:
    """What a node or an input gives, by its name.

    Attributes:
      name: in the graph.
      shape: its own shape, which may be one that broadcasts to the variable's.
    """

    name: str
    shape: tuple[Any, ...]


@dataclass(frozen=True)
class Pair:
    """A complex array: ONNX has no arithmetic of these, so that it is two real ones."""

    real: Known | Tensor
    imag: Known | Tensor


Value = Known | Tensor | Pair
