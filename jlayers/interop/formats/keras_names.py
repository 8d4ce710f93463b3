"""The names of Keras's variables, which its files number: by a layer's class and configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def snake_case(name: str) -> str:
    """How Keras turns a class into the name of a group (``keras.src.utils.naming``)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _kernel_and(*names: str) -> Callable[[Config], list[str]]:
    return lambda config: [*names, *(["bias"] if config.get("use_bias", True) else [])]


def _always(*names: str) -> Callable[[Config], list[str]]:
    return lambda config: list(names)


def _scale_and_center(config: Config) -> list[str]:
    scale = ["gamma"] if config.get("scale", True) else []
    return scale + (["beta"] if config.get("center", True) else [])


_KERNEL = _kernel_and("kernel")
_CELL = _kernel_and("kernel", "recurrent_kernel")
# Trainable variables come first, in the order in which ``build`` adds them.
_VARIABLES: dict[str, Callable[[Config], list[str]]] = {
    "Dense": _KERNEL,
    "EinsumDense": lambda config: ["kernel", *(["bias"] if config.get("bias_axes") else [])],
    **dict.fromkeys(
        [f"{kind}{n}D{t}" for kind in ("Conv", "DepthwiseConv") for n in (1, 2, 3)
         for t in ("", "Transpose")],
        _KERNEL,
    ),
    **dict.fromkeys(
        ["SeparableConv1D", "SeparableConv2D"], _kernel_and("depthwise_kernel", "pointwise_kernel")
    ),
    **dict.fromkeys(["LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell"], _CELL),
    "Embedding": _always("embeddings"),
    "ReversibleEmbedding": lambda config: ["embeddings"]
    + ([] if config.get("tie_weights", True) else ["reverse_embeddings"]),
    "BatchNormalization": lambda config: [
        *_scale_and_center(config), "moving_mean", "moving_variance"
    ],
    "LayerNormalization": _scale_and_center,
    "GroupNormalization": _scale_and_center,
    "RMSNormalization": _always("scale"),
    "Normalization": _always("mean", "variance", "count"),
    "PReLU": _always("alpha"),
    "SpectralNormalization": _always("vector_u"),
}  # fmt: skip
# Layers inside a layer: the attribute, which the file has, and the name, which Keras prints.
_INSIDE = {
    "query_dense": "query",
    "key_dense": "key",
    "value_dense": "value",
    "output_dense": "attention_output",
}
# Recurrent layers hold a cell of their own class.
_CELLS = {
    "LSTM": "LSTMCell",
    "GRU": "GRUCell",
    "SimpleRNN": "SimpleRNNCell",
    "ConvLSTM1D": "ConvLSTMCell",
    "ConvLSTM2D": "ConvLSTMCell",
    "ConvLSTM3D": "ConvLSTMCell",
}


def attribute_of(name: str) -> str:
    """The attribute, which a file has, of a layer in a layer that Keras prints as ``name``."""
    return next(attribute for attribute, printed in _INSIDE.items() if printed == name)


class Node:
    """A layer in ``config.json``: its class, name, configuration, and the layers in it."""

    def __init__(self, kind: str, config: Config, module: str = "keras.layers"):
        self.kind, self.config, self.module = kind, config, module

    @classmethod
    def of(cls, value: Any) -> Node | None:
        """The layer that a value of the JSON describes, if it describes one."""
        if not isinstance(value, Mapping) or not isinstance(value.get("class_name"), str):
            return None
        config = value.get("config")
        if not isinstance(config, Mapping):
            config = {}
        if "name" not in config and isinstance(value.get("name"), str):
            config = {**config, "name": value["name"]}
        return cls(value["class_name"], config, str(value.get("module")))

    @property
    def name(self) -> str | None:
        """The layer's name, which the user gave or Keras counted."""
        name = self.config.get("name")
        return name if isinstance(name, str) and name else None

    def child(self, attribute: str) -> Node | None:
        """The layer that is an attribute of this one."""
        if attribute == "cell" and self.kind in _CELLS:
            cell = _CELLS[self.kind]
            name = snake_case(cell) if cell != "ConvLSTMCell" else None
            return Node(cell, {**self.config, "name": name})
        if attribute in ("forward_layer", "backward_layer") and "layer" in self.config:
            return self._half(attribute)
        if attribute in _INSIDE:
            bias = self.config.get("use_bias", True)
            config = {"name": _INSIDE[attribute], "bias_axes": "d" if bias else None}
            return Node("EinsumDense", config)
        return Node.of(self.config.get(attribute))

    def _half(self, attribute: str) -> Node | None:
        """Half of a bidirectional layer: Keras 2 describes one for both."""
        found = Node.of(self.config.get(attribute)) or Node.of(self.config["layer"])
        if found is None or found.name is None:
            return found
        side = attribute.removesuffix("layer")
        if found.name.startswith(side):
            return found
        name = side + found.name.removeprefix("forward_")
        return Node(found.kind, {**found.config, "name": name}, found.module)

    def counted(self, container: str) -> dict[str, Node]:
        """The layers of a list by the names of their groups: the class, counted within the list."""
        values = self.config.get(container)
        nodes: dict[str, Node] = {}
        counts: dict[str, int] = {}
        for value in values if isinstance(values, list) else []:
            node = Node.of(value)
            # An operation between tensors is in the configuration, not in the model's list.
            if node is None or ".ops" in node.module:
                continue
            group = snake_case(node.kind)
            count = counts[group] = counts.get(group, -1) + 1
            nodes[group if not count else f"{group}_{count}"] = node
        return nodes

    def all_variables(self) -> list[str]:
        """Names of the variables of a class that is known, in the order of their numbers."""
        return _VARIABLES[self.kind](self.config)

    def variables(self, keys: list[str]) -> list[str]:
        """Names of variables that are numbered ``keys``; those numbers of an unknown class."""
        names = _VARIABLES.get(self.kind, _always())(self.config)
        numbered = keys == [str(i) for i in range(len(names))]
        return names if names and numbered else keys
