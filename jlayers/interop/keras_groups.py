"""Where a ``.weights.h5`` has the variables of a layer: by its class, counted, not by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..base.layer import Layer
from .formats.keras_names import Node, snake_case
from .places import Target

# The class in Keras for a layer here; {n} is the number of axes of its windows.
_CLASSES = {
    "Dense": "Dense",
    "Conv": "Conv{n}D",
    "ConvTranspose": "Conv{n}DTranspose",
    "Embedding": "Embedding",
    "BatchNorm": "BatchNormalization",
    "LayerNorm": "LayerNormalization",
    "GroupNorm": "GroupNormalization",
    "RMSNorm": "RMSNormalization",
    "PReLU": "PReLU",
    "LSTM": "LSTM",
    "GRU": "GRU",
    "SimpleRNN": "SimpleRNN",
}
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")


class Group(NamedTuple):
    """Where the variables of one layer are.

    Attributes:
      path: of the group, such as ``layers/dense_1``.
      kind: the class whose variables they are.
    """

    path: str
    kind: str

    def variables(self, names: Iterable[str]) -> dict[str, str]:
        """For the names of variables the paths in the group: Keras numbers them."""
        known = Node(self.kind, {}).all_variables()
        ordered = sorted(names, key=known.index)
        return {name: f"vars/{i}" for i, name in enumerate(ordered)}


def groups_of(targets: Iterable[Target], layers: Mapping[str, Layer]) -> list[Group | None]:
    """For each place its group, in a model whose layers are one list; None without a class."""
    counts: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def counted(kind: str) -> str:
        name = snake_case(kind)
        number = counts[name] = counts.get(name, -1) + 1
        return f"layers/{name}_{number}" if number else f"layers/{name}"

    found: list[Group | None] = []
    for target in targets:
        place = target.place
        kind = _CLASSES.get(place.maker)
        if kind is None:
            found.append(None)
            continue
        kernel = place.shapes.get("kernel", ())
        kind = kind.format(n=len(kernel) - 2)
        # Of one of several copies without its number.
        _, path, _ = next(iter(target.arrays.values()))
        above = layers.get(path.rpartition("/")[0].rpartition("/")[0])
        parent, _, side = place.path.rpartition("/")
        if above is not None and above.maker == "bidirectional":
            if parent not in pairs:
                pairs[parent] = counted("Bidirectional")
            path = f"{pairs[parent]}/{side}_layer"
        else:
            path = counted(kind)
        if kind in _RECURRENT:
            path, kind = f"{path}/cell", f"{kind}Cell"
        found.append(Group(path, kind))
    return found
