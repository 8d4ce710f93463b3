"""The layouts of Keras: kernels (..., in, out), gamma and beta, gates of the GRU as z, r, h."""

from __future__ import annotations

import numpy as np

from .base import Layout, Place, Shapes, Weights, gru_biases, renamed, with_bias

_NORM = {"gamma": "scale", "beta": "bias"}


def _depthwise(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(*size, in, multiplier), here (*size, 1, in * multiplier)."""
    kernel = weights["kernel"]
    kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return {"kernel": kernel} | _bias(weights)


def _conv_transpose(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(*size, out, in), of the convolution that this is the gradient of."""
    kernel = weights["kernel"]
    if not place.options.get("transpose_kernel"):
        kernel = np.swapaxes(np.flip(kernel, tuple(range(kernel.ndim - 2))), -1, -2)
    return {"kernel": kernel} | _bias(weights)


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


def _swapped(values: np.ndarray) -> np.ndarray:
    z, r, h = np.split(values, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def _bias(weights: Weights) -> dict[str, np.ndarray]:
    return {"bias": weights["bias"]} if "bias" in weights else {}


_RECURRENT = ("kernel", "recurrent_kernel")
LAYOUTS = (
    Layout(
        "as it is",
        ("Dense", "Conv"),
        ("kernel",),
        ("bias",),
        renamed({"kernel": "kernel", "bias": "bias"}),
    ),
    Layout("Keras DepthwiseConv", ("Conv",), ("kernel",), ("bias",), _depthwise),
    Layout(
        "Keras ConvTranspose: flipped",
        ("ConvTranspose",),
        ("kernel",),
        ("bias",),
        _conv_transpose,
        _conv_transpose_shapes,
    ),
    Layout(
        "Keras Embedding", ("Embedding",), ("embeddings",), (), renamed({"embeddings": "embedding"})
    ),
    Layout(
        "Keras BatchNormalization",
        ("BatchNorm",),
        ("moving_mean", "moving_variance"),
        ("gamma", "beta"),
        renamed(_NORM | {"moving_mean": "mean", "moving_variance": "var"}),
    ),
    Layout("Keras norm", ("LayerNorm", "GroupNorm"), ("gamma",), ("beta",), renamed(_NORM)),
    Layout("Keras RMSNormalization", ("RMSNorm",), ("scale",), (), renamed({"scale": "scale"})),
    Layout(
        "Keras LSTM or SimpleRNN",
        ("LSTM", "SimpleRNN"),
        _RECURRENT,
        ("bias",),
        renamed({name: name for name in (*_RECURRENT, "bias")}),
    ),
    Layout("Keras GRU: r before z", ("GRU",), _RECURRENT, ("bias",), _gru, _gru_shapes),
    Layout("Keras PReLU", ("PReLU",), ("alpha",), (), renamed({"alpha": "slope"})),
)
