"""Where a ``.weights.h5`` has the variables of a layer: by its class, counted, not by its name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..base.layer import Layer
from ..base.paths import join
from .formats.base import Arrays
from .formats.keras_names import Node, attribute_of, snake_case
from .layouts import LAYOUTS
from .layouts.base import Layout, Place, has_shapes
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
# Classes that are only read, for layers that are written as another one or not at all.
_ATTENTION = "MultiHeadAttention"
_NUMBERED = re.compile(r"^(.*)/vars/\d+$")
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
        if self.kind == _ATTENTION:
            # Each of its four projections is a group of its own.
            found = {}
            for name in names:
                layer, _, variable = name.partition("/")
                number = ("kernel", "bias").index(variable)
                found[name] = f"{attribute_of(layer)}/vars/{number}"
            return found
        known = Node(self.kind, {}).all_variables()
        ordered = sorted(names, key=known.index)
        return {name: f"vars/{i}" for i, name in enumerate(ordered)}


def is_numbered(names: Iterable[str]) -> bool:
    """Whether these are names in a ``.weights.h5``."""
    return any(_NUMBERED.match(name) for name in names)


def by_class(
    targets: Iterable[Target], layers: Mapping[str, Layer], names: Mapping[str, str], arrays: Arrays
) -> tuple[dict[str, str], dict[str, str]]:
    """The paths in a ``.weights.h5`` as paths here, by the class and the counter of each layer.

    Args:
      targets, layers: of the model.
      names: for each path, which rules may have changed, the name in the file.

    Returns:
      ``names`` with the paths of what fits, and for each place the reason why nothing does; empty
      where its group does.
    """
    targets = list(targets)
    below: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, name in names.items():
        above = path.split("/")
        for i in range(1, len(above)):
            rest = "/".join(above[i:])
            below.setdefault("/".join(above[:i]), {})[rest] = tuple(arrays[name].shape)
    found, reasons = dict(names), {}
    depthwise = any("depthwise_conv" in name for name in names.values())
    groups = groups_of(targets, layers, depthwise=depthwise, attention=True)
    for target, group in zip(targets, groups, strict=True):
        place = target.place
        if group is None:
            continue
        # A rule may have said which group it is.
        ruled = group._replace(path=place.path)
        for each in (ruled, group):
            held = below.get(each.path, {})
            variables = _variables(each, held, place)
            if variables:
                for variable, number in variables.items():
                    full = join(each.path, number)
                    found[join(place.path, variable)] = found.pop(full)
                if each is group:
                    reasons[place.path] = ""
                break
        else:
            shapes = ", ".join(f"{rest} {list(shape)}" for rest, shape in held.items())
            reasons[place.path] = f"{group.path} has {shapes or 'nothing in the file'}"
    return found, reasons


def _variables(
    group: Group, held: Mapping[str, tuple[int, ...]], place: Place
) -> dict[str, str] | None:
    """Names of the variables of a group, where these and their shapes are the place's."""
    for layout in LAYOUTS["keras"]:
        if place.maker not in layout.makers:
            continue
        for names in _choices(layout, len(held)):
            try:
                numbers = group.variables(names)
            except ValueError:
                # Another class has this layout.
                continue
            if numbers.keys() and {*numbers.values()} == held.keys():
                shapes = {name: held[number] for name, number in numbers.items()}
                if has_shapes(layout, shapes, place):
                    return numbers
    return None


def _choices(layout: Layout, count: int) -> Iterable[tuple[str, ...]]:
    """The names that a layout may have, so many of them."""
    more = count - len(layout.needs)
    for some in itertools.combinations(layout.may, more) if more >= 0 else ():
        yield (*layout.needs, *some)


def groups_of(
    targets: Iterable[Target],
    layers: Mapping[str, Layer],
    *,
    depthwise: bool = False,
    attention: bool = False,
) -> list[Group | None]:
    """For each place its group, in a model whose layers are one list; None without a class.

    Args:
      depthwise: whether a convolution with a group for each channel is one of a class of its own.
      attention: whether attention has a class.
    """
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
        if attention and place.maker in ("SelfAttention", "CrossAttention"):
            kind = _ATTENTION
        if kind is None:
            found.append(None)
            continue
        kernel = place.shapes.get("kernel", ())
        kind = kind.format(n=len(kernel) - 2)
        if depthwise and place.maker == "Conv" and kernel[-2] == 1 and place.options["groups"] != 1:
            kind = f"Depthwise{kind}"
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
