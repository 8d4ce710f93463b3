"""The layouts of files that hold a graph, ONNX and TensorFlow Lite.

Arrays come as ``GraphWeights`` names them: by the kind of layer that their operator is, and in our
order of axes and gates as far as the operator alone says it.
"""

from __future__ import annotations

import numpy as np

from .base import Layout, Place, Weights, gru_biases, rows_of_channels_first
from .pytorch import CELLS


def _layout(
    says: str, makers: tuple[str, ...], kind: str, needs: tuple[str, ...], may: tuple[str, ...] = ()
) -> Layout:
    """Arrays of one kind of operator, with axes of size 1 as the layer has them."""

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        given = {name.partition(":")[2]: array for name, array in weights.items()}
        if kind in ("gru", "gru_after"):
            given |= _gru(given, place, after=kind == "gru_after")
            given = {name: array for name, array in given.items() if name in place.shapes}
        if kind == "flat_dense":
            given["kernel"] = rows_of_channels_first(given["kernel"], place)
        return {name: _shaped(array, place.shapes.get(name)) for name, array in given.items()}

    return Layout(
        says,
        makers,
        tuple(f"{kind}:{name}" for name in needs),
        tuple(f"{kind}:{name}" for name in may),
        convert,
        channels_first=kind == "flat_dense",
    )


def _gru(given: Weights, place: Place, *, after: bool) -> dict[str, np.ndarray]:
    """One bias, or two where the reset comes after the product with the state."""
    if bool(place.options.get("reset_after", True)) != after:
        raise ValueError("the reset comes on the other side of the product")
    if "bias" not in given:
        return {}
    one, two = given["bias"], given["recurrent_bias"]
    return gru_biases(one, two, place) if after else {"bias": one + two}


def _shaped(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The array without, or with more, axes of size 1, in the order that it has."""
    if shape is None or array.shape == shape:
        return array
    if [size for size in array.shape if size != 1] != [size for size in shape if size != 1]:
        raise ValueError("another shape")
    return array.reshape(shape)


_NORMS = ("LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "Affine", "FilterResponseNorm")
_RNN = ("kernel", "recurrent_kernel")


# Where the exporter kept what the modules around an attention's dense layers were called.
_PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("self/query", "self/key", "self/value", "output/dense"),
    ("attention/query", "attention/key", "attention/value", "attention/dense"),
)


def _projections(library: str, query: str, key: str, value: str, out: str) -> Layout:
    names = {"query": query, "key": key, "value": value, "out": out}

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        return {
            f"{ours}_{kind}": weights[f"{theirs}/dense:{kind}"]
            for ours, theirs in names.items()
            for kind in ("kernel", "bias")
            if f"{theirs}/dense:{kind}" in weights
        }

    return Layout(
        f"{library} dense {query} ... {out}",
        ("SelfAttention", "CrossAttention"),
        tuple(f"{theirs}/dense:kernel" for theirs in names.values()),
        tuple(f"{theirs}/dense:bias" for theirs in names.values()),
        convert,
    )


def _layouts(library: str) -> tuple[Layout, ...]:
    def of(what: str, *parts: object) -> Layout:
        return _layout(f"{library} {what}", *parts)  # type: ignore[arg-type]

    return (
        of("dense", ("Dense",), "dense", ("kernel",), ("bias",)),
        of("dense", ("Dense",), "flat_dense", ("kernel",), ("bias",)),
        # Of one step, or over all of its input: a product of matrices.
        of("conv as dense", ("Dense",), "conv", ("kernel",), ("bias",)),
        of("conv", ("Conv",), "conv", ("kernel",), ("bias",)),
        of("transposed conv", ("ConvTranspose",), "conv_transpose", ("kernel",), ("bias",)),
        of("batch norm", ("BatchNorm",), "batch_norm", ("mean", "var"), ("scale", "bias")),
        of("norm", _NORMS, "norm", ("scale",), ("bias",)),
        of("multiplication and sum", _NORMS, "affine", ("scale",), ("bias",)),
        of("sum", ("PositionEmbedding",), "sum", ("embedding",)),
        of("table", ("Embedding", "PositionEmbedding"), "table", ("embedding",)),
        of("PReLU", ("PReLU",), "prelu", ("slope",)),
        of("LSTM: gates i, o, f, c turned", ("LSTM",), "lstm", _RNN, ("bias",)),
        of("GRU: r before z", ("GRU",), "gru", _RNN, ("bias", "recurrent_bias")),
        of("GRU: r before z", ("GRU",), "gru_after", _RNN, ("bias", "recurrent_bias")),
        of("RNN", ("SimpleRNN",), "rnn", _RNN, ("bias",)),
        *(_projections(library, *names) for names in _PROJECTIONS),
    )


# torch's exporter turns the gates of a cell while the graph runs: the arrays are as torch has them.
ONNX, TFLITE = (*_layouts("ONNX"), *CELLS), _layouts("TFLite")
