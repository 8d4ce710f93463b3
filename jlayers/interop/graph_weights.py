"""The arrays of a file that holds a graph, by the operators that take them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from .formats.graph import GraphArrays
from .layouts import onnx, tflite
from .layouts.operators import Found, Graph

# What a module's own names end with, where an exporter has kept them.
_OWN = re.compile(
    r"[./](weight|bias|kernel|gamma|beta|scale|W|R|B|mean|var|running_\w+|moving_\w+|embeddings?"
    r"|alpha|slope|(weight|bias)_[ih]h_l\d+\w*)$"
)
_OPERATORS = {"onnx": onnx.found, "tflite": tflite.found}


class GraphWeights(Mapping[str, np.ndarray]):
    """The arrays of each layer as ``prefix/kind:name``, and those that no layer is known to take.

    The prefix is what the names in the file begin with where these end as a module's do
    (``fc.weight``), and otherwise the first of these names. Layouts are in ``layouts/graph.py``.

    Attributes:
      origin: the names in the file, by the names here.
    """

    def __init__(self, arrays: GraphArrays) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self.origin: dict[str, tuple[str, ...]] = {}
        graph = Graph(arrays)
        taken: set[str] = set()
        known: set[tuple[object, ...]] = set()
        for found in _OPERATORS[arrays.library](graph):
            # Several operators may share their arrays, which are then of one layer.
            same = (found.kind, found.part, *found.sources.items())
            taken.update(name for names in found.sources.values() for name in names)
            if same not in known:
                known.add(same)
                self._add(found)
        for name in graph.unexplained(taken):
            self._arrays[name] = arrays[name]
            self.origin[name] = (name,)

    def _add(self, found: Found) -> None:
        files = [name for names in found.sources.values() for name in names]
        own = [_OWN.sub("", name) for name in files if _OWN.search(name)]
        prefix = own[0] if own else files[0]
        prefix = f"{prefix}/{found.part}" if found.part else prefix
        number, free = 1, prefix
        while any(f"{free}/{found.kind}:{name}" in self._arrays for name in found.arrays):
            free, number = f"{prefix}#{number}", number + 1
        for name, array in found.arrays.items():
            key = f"{free}/{found.kind}:{name}"
            self._arrays[key] = array
            self.origin[key] = found.sources.get(name, tuple(files[:1]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
