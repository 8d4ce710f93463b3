"""The layouts of Flax linen: kernels (..., in, out), a dense layer for each gate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .base import Layout, Place, Shapes, Weights, renamed

_ATTENTION = ("SelfAttention", "CrossAttention")
_HEADS = ("query", "key", "value", "out")


def _gates(gates: str, bias_on: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a cell has to have, and those of biases."""
    needs = tuple(f"{side}{gate}/kernel" for side in "ih" for gate in gates)
    return needs, tuple(f"{bias_on}{gate}/bias" for gate in gates)


def _lstm(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    params: dict[str, np.ndarray] = _kernels(weights, "ifgo")
    if "hi/bias" in weights:
        params["bias"] = np.concatenate([weights[f"h{gate}/bias"] for gate in "ifgo"])
    return params


def _gru(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    params = _kernels(weights, "rzn")
    if "ir/bias" in weights:
        params["bias"] = np.concatenate([weights[f"i{gate}/bias"] for gate in "rzn"])
        params["recurrent_bias"] = weights["hn/bias"]
    return params


def _gate_shapes(gates: str, bias_on: str) -> Callable[[Place], Shapes]:
    def shapes(place: Place) -> Shapes:
        (before, _), (size, _) = place.shapes["kernel"], place.shapes["recurrent_kernel"]
        theirs: Shapes = {}
        for gate in gates:
            theirs |= {f"i{gate}/kernel": (before, size), f"h{gate}/kernel": (size, size)}
            if "bias" in place.shapes:
                theirs[f"{bias_on}{gate}/bias"] = (size,)
        if "recurrent_bias" in place.shapes:
            theirs["hn/bias"] = place.shapes["recurrent_bias"]
        return theirs

    return shapes


def _simple_rnn_shapes(place: Place) -> Shapes:
    shapes = {"i/kernel": place.shapes["kernel"], "h/kernel": place.shapes["recurrent_kernel"]}
    return shapes | ({"i/bias": place.shapes["bias"]} if "bias" in place.shapes else {})


def _simple_rnn(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    params = {"kernel": weights["i/kernel"], "recurrent_kernel": weights["h/kernel"]}
    return params | ({"bias": weights["i/bias"]} if "i/bias" in weights else {})


def _kernels(weights: Weights, gates: str) -> dict[str, np.ndarray]:
    sides = {"kernel": "i", "recurrent_kernel": "h"}
    return {
        name: np.concatenate([weights[f"{side}{gate}/kernel"] for gate in gates], axis=-1)
        for name, side in sides.items()
    }


def _attention(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Theirs have an axis of heads, the queries' last but one and the output's first."""
    params: dict[str, np.ndarray] = {}
    for name in _HEADS:
        kernel = weights[f"{name}/kernel"]
        rows = kernel.shape[:-1] if name == "out" else kernel.shape[:1]
        params[f"{name}_kernel"] = kernel.reshape(int(np.prod(rows)), -1)
        if f"{name}/bias" in weights:
            params[f"{name}_bias"] = weights[f"{name}/bias"].reshape(-1)
    return params


def _attention_shapes(place: Place) -> Shapes:
    heads = place.options["num_heads"]
    few = place.options.get("num_kv_heads") or heads
    shapes: Shapes = {}
    for name in _HEADS:
        count = few if name in ("key", "value") else heads
        if not isinstance(count, int):
            raise ValueError("the heads must be a number")
        before, after = place.shapes[f"{name}_kernel"]
        split = count, (before if name == "out" else after) // count
        shapes[f"{name}/kernel"] = (*split, after) if name == "out" else (before, *split)
        if f"{name}_bias" in place.shapes:
            shapes[f"{name}/bias"] = (after,) if name == "out" else split
    return shapes


_LSTM, _LSTM_BIAS = _gates("ifgo", "h")
_GRU, _GRU_BIAS = _gates("rzn", "i")
LAYOUTS = (
    Layout(
        "as it is",
        ("Dense", "Conv", "ConvTranspose"),
        ("kernel",),
        ("bias",),
        renamed({"kernel": "kernel", "bias": "bias"}),
    ),
    Layout(
        "as it is",
        ("Embedding", "PositionEmbedding"),
        ("embedding",),
        (),
        renamed({"embedding": "embedding"}),
    ),
    Layout(
        "as it is",
        ("LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm"),
        ("scale",),
        ("bias",),
        renamed({"scale": "scale", "bias": "bias"}),
    ),
    Layout(
        "as it is",
        ("BatchNorm",),
        ("mean", "var"),
        ("scale", "bias"),
        renamed({name: name for name in ("scale", "bias", "mean", "var")}),
    ),
    Layout(
        "Flax LSTMCell: gates side by side",
        ("LSTM",),
        _LSTM,
        _LSTM_BIAS,
        _lstm,
        _gate_shapes("ifgo", "h"),
    ),
    Layout(
        "Flax GRUCell: gates side by side",
        ("GRU",),
        _GRU,
        (*_GRU_BIAS, "hn/bias"),
        _gru,
        _gate_shapes("rzn", "i"),
    ),
    Layout(
        "Flax SimpleCell",
        ("SimpleRNN",),
        ("i/kernel", "h/kernel"),
        ("i/bias",),
        _simple_rnn,
        _simple_rnn_shapes,
    ),
    Layout(
        "Flax attention: heads in one axis",
        _ATTENTION,
        tuple(f"{name}/kernel" for name in _HEADS),
        tuple(f"{name}/bias" for name in _HEADS),
        _attention,
        _attention_shapes,
    ),
    Layout("Flax PReLU", ("PReLU",), ("negative_slope",), (), renamed({"negative_slope": "slope"})),
)
