"""The layouts of Hugging Face's transformers that torch.nn has no module for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from .base import Layout, Place, Shapes, Weights, renamed

_GATE_UP = re.compile(r"^(.*experts)([./])gate_up_proj$")


class Unstacked(dict[str, np.ndarray]):
    """Arrays, some of which are parts of one in the file.

    Attributes:
      wholes: for each array that was cut up, its parts: for each expert those above each other.
    """

    wholes: dict[str, list[list[str]]]

    def put_together(self, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays as the file has them, where all parts of one are there."""
        made = dict(parts)
        for whole, experts in self.wholes.items():
            if all(name in made for names in experts for name in names):
                kernels = [np.concatenate([made.pop(n) for n in names]) for names in experts]
                made[whole] = np.stack(kernels)
        return made


def unstacked(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The arrays, with those of all experts of a block cut up: a kernel for each layer of each.

    Since version 5, a module holds ``experts.gate_up_proj`` (experts, 2 hidden, in), the gates
    above the others, and ``experts.down_proj`` (experts, out, hidden). They become
    ``experts.0.gate_proj.weight`` and so on, views of the same memory, in the places of the file.
    """
    if not any(_GATE_UP.match(name) for name in arrays):
        return arrays
    experts = {match[1]: match[2] for name in arrays if (match := _GATE_UP.match(name))}
    found = Unstacked()
    found.wholes = {}
    for name, array in arrays.items():
        prefix = name.rpartition("down_proj")[0][:-1] or name.rpartition("gate_up_proj")[0][:-1]
        if prefix not in experts or array.ndim != 3:
            found[name] = array
            continue
        dot, down = experts[prefix], name.endswith("down_proj")
        for i, kernel in enumerate(np.asarray(array)):
            parts = [("down", kernel)]
            if not down:
                parts = list(zip(("gate", "up"), np.split(kernel, 2), strict=True))
            named = {dot.join((prefix, str(i), f"{part}_proj", "weight")): p for part, p in parts}
            found.update(named)
            found.wholes.setdefault(name, []).append(list(named))
    return found


def _mamba(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    params = {
        "in_kernel": weights["in_proj/weight"].T,
        "conv_kernel": np.moveaxis(weights["conv1d/weight"], (0, 1), (-1, -2)),
        "select_kernel": weights["x_proj/weight"].T,
        "step_kernel": weights["dt_proj/weight"].T,
        "step_bias": weights["dt_proj/bias"],
        "log_decay": weights["A_log"],
        "skip": weights["D"],
        "out_kernel": weights["out_proj/weight"].T,
    }
    biases = {"in_proj/bias": "in_bias", "conv1d/bias": "conv_bias", "out_proj/bias": "out_bias"}
    return params | {ours: weights[name] for name, ours in biases.items() if name in weights}


def _mamba_shapes(place: Place) -> Shapes:
    ours = place.shapes
    width = ours["skip"][0]
    shapes: Shapes = {
        "in_proj/weight": ours["in_kernel"][::-1],
        "conv1d/weight": (width, 1, ours["conv_kernel"][0]),
        "x_proj/weight": ours["select_kernel"][::-1],
        "dt_proj/weight": ours["step_kernel"][::-1],
        "dt_proj/bias": (width,),
        "A_log": ours["log_decay"],
        "D": (width,),
        "out_proj/weight": ours["out_kernel"][::-1],
    }
    biases = {"in_proj/bias": "in_bias", "conv1d/bias": "conv_bias", "out_proj/bias": "out_bias"}
    return shapes | {name: ours[own] for name, own in biases.items() if own in ours}


_NORM = {"gamma": "scale", "beta": "bias"}
LAYOUTS = (
    Layout(
        "transformers T5 relative attention bias",
        ("compose",),
        ("relative_attention_bias/weight",),
        (),
        renamed({"relative_attention_bias/weight": "relative_bias"}),
    ),
    Layout(
        "transformers MambaMixer: transposed",
        ("Mamba",),
        (
            "in_proj/weight",
            "conv1d/weight",
            "x_proj/weight",
            "dt_proj/weight",
            "dt_proj/bias",
            "A_log",
            "D",
            "out_proj/weight",
        ),
        ("in_proj/bias", "conv1d/bias", "out_proj/bias"),
        _mamba,
        _mamba_shapes,
    ),
    # Checkpoints that were converted from TensorFlow keep its names.
    Layout("transformers BERT norm", ("LayerNorm",), ("gamma",), ("beta",), renamed(_NORM)),
)
