"""The layouts of Keras: kernels (..., in, out), gamma and beta, gates of the GRU as z, r, h."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .base import Layout, Place, Shapes, Weights, gru_biases, other_axes, renamed, with_bias

_NORM = {"gamma": "scale", "beta": "bias"}


def _depthwise(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(*size, in, multiplier), here (*size, 1, in * multiplier)."""
    kernel = weights["kernel"]
    kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return {"kernel": kernel} | _bias(weights)


def _conv_of_other_axes(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    return {"kernel": other_axes(weights["kernel"], place)} | _bias(weights)


def _conv_transpose(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(*size, out, in), of the convolution that this is the gradient of."""
    kernel = weights["kernel"]
    if not place.options.get("transpose_kernel"):
        kernel = np.swapaxes(np.flip(kernel, tuple(range(kernel.ndim - 2))), -1, -2)
    return {"kernel": kernel} | _bias(weights)


def _attention(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Theirs have an axis of heads, the queries' last but one and the output's first."""
    params: dict[str, np.ndarray] = {}
    for name, ours in _HEADS.items():
        kernel = weights[f"{name}/kernel"]
        rows = kernel.shape[:-1] if ours == "out" else kernel.shape[:1]
        params[f"{ours}_kernel"] = kernel.reshape(int(np.prod(rows)), -1)
        if f"{name}/bias" in weights:
            params[f"{ours}_bias"] = weights[f"{name}/bias"].reshape(-1)
    return params


def _shared_slopes(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(1, 1, features) with shared_axes=[1, 2], here (features,)."""
    alpha, shape = weights["alpha"], place.shapes["slope"]
    if alpha.shape == shape or [size for size in alpha.shape if size != 1] != [
        size for size in shape if size != 1
    ]:
        raise ValueError("slopes of other axes")
    return {"slope": alpha.reshape(shape)}


def _separable(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    return _depthwise({"kernel": weights["depthwise_kernel"]}, place)


def _conv_transpose_shapes(place: Place) -> Shapes:
    *size, before, after = place.shapes["kernel"]
    if place.options.get("transpose_kernel"):
        before, after = after, before
    return with_bias({"kernel": (*size, after, before)}, place)


def _gru_shapes(place: Place) -> Shapes:
    shapes = {name: place.shapes[name] for name in _RECURRENT}
    if "recurrent_bias" in place.shapes:
        return shapes | {"bias": (2, *place.shapes["bias"])}
    return with_bias(shapes, place)


def _gru(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    params = {name: _swapped(weights[name]) for name in ("kernel", "recurrent_kernel")}
    if "bias" in weights:
        bias = _swapped(weights["bias"])
        params |= {"bias": bias} if bias.ndim == 1 else gru_biases(bias[0], bias[1], place)
    return params


def _gate_by_gate(gates: str) -> Convert:
    """Of Keras 1, which has three arrays for each gate, named here in our order."""

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        if place.options.get("reset_after") and gates == "rzh":
            raise ValueError("the GRU of Keras 1 has reset_after=False")
        return {
            ours: np.concatenate([weights[f"{name}_{gate}"] for gate in gates], axis=-1)
            for name, ours in _KERAS_1.items()
        }

    return convert


def _gru_of_keras_1(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    return _gru({ours: weights[name] for name, ours in _KERAS_1.items()}, place)


def _swapped(values: np.ndarray) -> np.ndarray:
    z, r, h = np.split(values, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def _bias(weights: Weights) -> dict[str, np.ndarray]:
    return {"bias": weights["bias"]} if "bias" in weights else {}


_HEADS = {"query": "query", "key": "key", "value": "value", "attention_output": "out"}
_RECURRENT = ("kernel", "recurrent_kernel")
_KERAS_1 = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}
Convert = Callable[[Weights, Place], dict[str, np.ndarray]]
LAYOUTS = (
    Layout(
        "as it is",
        ("Dense", "Conv"),
        ("kernel",),
        ("bias",),
        renamed({"kernel": "kernel", "bias": "bias"}),
    ),
    Layout(
        "Keras Conv: other axes of size 1",
        ("Conv", "Dense"),
        ("kernel",),
        ("bias",),
        _conv_of_other_axes,
        loose=True,
    ),
    Layout("Keras DepthwiseConv", ("Conv",), ("kernel",), ("bias",), _depthwise),
    Layout("Keras SeparableConv, depthwise", ("Conv",), ("depthwise_kernel",), (), _separable),
    Layout(
        "Keras SeparableConv, pointwise",
        ("Conv",),
        ("pointwise_kernel",),
        ("bias",),
        renamed({"pointwise_kernel": "kernel", "bias": "bias"}),
    ),
    Layout(
        "Keras ConvTranspose: flipped",
        ("ConvTranspose",),
        ("kernel",),
        ("bias",),
        _conv_transpose,
        _conv_transpose_shapes,
    ),
    Layout(
        "Keras Embedding",
        ("Embedding", "PositionEmbedding"),
        ("embeddings",),
        (),
        renamed({"embeddings": "embedding"}),
    ),
    Layout(
        "Keras BatchNormalization",
        ("BatchNorm",),
        ("moving_mean", "moving_variance"),
        ("gamma", "beta"),
        renamed(_NORM | {"moving_mean": "mean", "moving_variance": "var"}),
    ),
    Layout("Keras norm", ("LayerNorm", "GroupNorm"), ("gamma",), ("beta",), renamed(_NORM)),
    Layout("Keras norm without gamma", ("LayerNorm", "GroupNorm"), ("beta",), (), renamed(_NORM)),
    Layout("Keras RMSNormalization", ("RMSNorm",), ("scale",), (), renamed({"scale": "scale"})),
    Layout(
        "Keras LSTM or SimpleRNN",
        ("LSTM", "SimpleRNN"),
        _RECURRENT,
        ("bias",),
        renamed({name: name for name in (*_RECURRENT, "bias")}),
    ),
    Layout(
        "Keras MultiHeadAttention or GroupQueryAttention: heads in one axis",
        ("SelfAttention", "CrossAttention"),
        tuple(f"{name}/kernel" for name in _HEADS),
        tuple(f"{name}/bias" for name in _HEADS),
        _attention,
    ),
    Layout("Keras GRU: r before z", ("GRU",), _RECURRENT, ("bias",), _gru, _gru_shapes),
    Layout("Keras 1 Dense", ("Dense",), ("W",), ("b",), renamed({"W": "kernel", "b": "bias"})),
    *(
        Layout(
            f"Keras 1 {maker}, gate by gate",
            (maker,),
            tuple(f"{name}_{gate}" for gate in gates for name in _KERAS_1),
            (),
            _gate_by_gate(gates),
        )
        for maker, gates in (("LSTM", "ifco"), ("GRU", "rzh"))
    ),
    Layout(
        "Keras 1 LSTM or SimpleRNN",
        ("LSTM", "SimpleRNN"),
        tuple(_KERAS_1),
        (),
        renamed(_KERAS_1),
    ),
    Layout("Keras 1 GRU: r before z", ("GRU",), tuple(_KERAS_1), (), _gru_of_keras_1),
    Layout("Keras 1 Embedding", ("Embedding",), ("W",), (), renamed({"W": "embedding"})),
    Layout(
        # Its "std" is a variance: Keras 1 adds epsilon to it and takes the root.
        "Keras 1 BatchNormalization",
        ("BatchNorm",),
        ("running_mean", "running_std"),
        ("gamma", "beta"),
        renamed(_NORM | {"running_mean": "mean", "running_std": "var"}),
    ),
    Layout("Keras PReLU", ("PReLU",), ("alpha",), (), renamed({"alpha": "slope"})),
    Layout("Keras PReLU: without its shared axes", ("PReLU",), ("alpha",), (), _shared_slopes),
)
