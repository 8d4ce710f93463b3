"""The layouts of Haiku: kernels (..., in, out) called ``w``, gates in orders of its own.

Its LSTM adds 1 to the forget gate in the forward pass, and has inputs and state in one kernel. The
update gate of its GRU keeps what it is one of in other libraries: it lets the new state in.
"""

from __future__ import annotations

import numpy as np

from .base import Layout, Place, Weights, renamed


def _lstm(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """One kernel (D + H, 4 H) with the gates i, g, f, o."""
    i, g, f, o = np.split(weights["w"], 4, axis=-1)
    both = np.concatenate([i, f, g, o], axis=-1)
    i, g, f, o = np.split(weights["b"], 4)
    size = i.shape[0]
    return {
        "kernel": both[:-size],
        "recurrent_kernel": both[-size:],
        "bias": np.concatenate([i, f + 1, g, o]).astype(weights["b"].dtype),
    }


def _gru(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Gates z, r, a, the new state weighted by z, where here it is by 1 - z = sigmoid(-x)."""
    if place.options.get("reset_after", True):
        raise ValueError("the reset comes before the product")

    def turned(values: np.ndarray) -> np.ndarray:
        z, r, a = np.split(values, 3, axis=-1)
        return np.concatenate([r, np.negative(z), a], axis=-1)

    names = {"w_i": "kernel", "w_h": "recurrent_kernel", "b": "bias"}
    return {ours: turned(weights[name]) for name, ours in names.items()}


def _simple_rnn(inputs: str, state: str) -> Layout:
    """Two linear layers, the second with or without a bias."""

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        bias = weights[f"{inputs}/b"]
        return {
            "kernel": weights[f"{inputs}/w"],
            "recurrent_kernel": weights[f"{state}/w"],
            "bias": bias + weights[f"{state}/b"] if f"{state}/b" in weights else bias,
        }

    needs = (f"{inputs}/w", f"{state}/w", f"{inputs}/b")
    says = "Haiku VanillaRNN: both biases in one"
    return Layout(says, ("SimpleRNN",), needs, (f"{state}/b",), convert)


def _conv_transpose(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(*size, out, in), not turned round."""
    if place.options.get("transpose_kernel"):
        raise ValueError("a layer with transpose_kernel=True has another kernel")
    params = {"kernel": np.swapaxes(weights["w"], -1, -2)}
    return params | ({"bias": weights["b"]} if "b" in weights else {})


def _batch_norm(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Axes of size 1 in all; of a moving average what it is when it is read."""
    names = {"scale": "scale", "offset": "bias"}
    names |= {"~/mean_ema/average": "mean", "~/var_ema/average": "var"}
    return {
        ours: weights[name].reshape(place.shapes[ours])
        for name, ours in names.items()
        if name in weights
    }


def _attention(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    names = {"query": "query", "key": "key", "value": "value", "out": "linear"}
    kinds = {"kernel": "w", "bias": "b"}
    return {
        f"{ours}_{kind}": weights[f"{name}/{end}"]
        for ours, name in names.items()
        for kind, end in kinds.items()
        if f"{name}/{end}" in weights
    }


_AVERAGES = tuple(
    f"~/{name}_ema/{end}" for name in ("mean", "var") for end in ("hidden", "counter")
)
_DENSE = renamed({"w": "kernel", "b": "bias"})
_HEADS = ("query", "key", "value", "linear")
LAYOUTS = (
    Layout("Haiku Linear or Conv", ("Dense", "Conv"), ("w",), ("b",), _DENSE),
    Layout("Haiku ConvTranspose", ("ConvTranspose",), ("w",), ("b",), _conv_transpose),
    Layout(
        "Haiku Embed",
        ("Embedding", "PositionEmbedding"),
        ("embeddings",),
        (),
        renamed({"embeddings": "embedding"}),
    ),
    Layout(
        "Haiku norm",
        ("LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm"),
        ("scale",),
        ("offset",),
        renamed({"scale": "scale", "offset": "bias"}),
    ),
    Layout(
        "Haiku BatchNorm: averages",
        ("BatchNorm",),
        ("~/mean_ema/average", "~/var_ema/average"),
        ("scale", "offset", *_AVERAGES),
        _batch_norm,
    ),
    Layout("Haiku LSTM: gates turned, forget bias + 1", ("LSTM",), ("w", "b"), (), _lstm),
    Layout("Haiku GRU: r before z, z negated", ("GRU",), ("w_i", "w_h", "b"), (), _gru),
    _simple_rnn("linear", "linear_1"),
    Layout(
        "Haiku MultiHeadAttention",
        ("SelfAttention", "CrossAttention"),
        tuple(f"{name}/w" for name in _HEADS),
        tuple(f"{name}/b" for name in _HEADS),
        _attention,
    ),
)
