"""The operators of a file that holds a whole graph, and the arrays that they use.

Names in such files are often numbers (``onnx::MatMul_123``); what an array is follows from the
operator that takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .binary import LazyArrays


class Node(NamedTuple):
    """An operator.

    Attributes:
      operator: its kind, as the format calls it.
      inputs, outputs: its values in order; one that is an array of the file has its name there, and
        one that is left out is ``""``.
      attributes: of whole numbers, of texts, and of lists of either.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]


class GraphArrays(LazyArrays):
    """Arrays with the operators that use them.

    Attributes:
      library: whose graph it is, a name of the layouts.
    """

    def __init__(
        self,
        entries: Mapping[str, np.ndarray | Callable[[], np.ndarray]],
        library: str,
        nodes: Callable[[], Sequence[Node]],
    ) -> None:
        super().__init__(entries)
        self.library, self._nodes = library, nodes

    @functools.cached_property
    def nodes(self) -> Sequence[Node]:
        """In the order in which they run."""
        return self._nodes()
