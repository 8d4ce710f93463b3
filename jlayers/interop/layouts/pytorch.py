"""The layouts of torch.nn, and of the attention layers of Hugging Face's transformers.

Kernels are (out, in, ...) with channels first. Gates are in the order i, f, g, o, or r, z, n, with
a bias on either side.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import (
    Layout,
    Place,
    Shapes,
    Weights,
    gru_biases,
    other_axes,
    renamed,
    rows_of_channels_first,
    with_bias,
)

_NORMS = ("LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm")
_NORM = {"weight": "scale", "bias": "bias"}
_RUNNING = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _linear(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    kernel = rows_of_channels_first(weights["weight"].T, place)
    return _with_bias({"kernel": kernel}, weights)


def _linear_shapes(place: Place) -> Shapes:
    before, after = place.shapes["kernel"]
    return with_bias({"weight": (after, before)}, place)


def _conv1d(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    return _with_bias({"kernel": weights["weight"]}, weights)


def _conv(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    return _with_bias({"kernel": _channels_last(weights["weight"])}, weights)


def _conv_of_other_axes(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    kernel = other_axes(_channels_last(weights["weight"]), place)
    return _with_bias({"kernel": kernel}, weights)


def _conv_shapes(place: Place) -> Shapes:
    *size, before, after = place.shapes["kernel"]
    return with_bias({"weight": (after, before, *size)}, place)


def _conv_transpose(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    kernel = weights["weight"]
    groups = place.options.get("groups", 1)
    if not isinstance(groups, int) or kernel.shape[0] % groups:
        raise ValueError("its groups do not divide the channels")
    kernel = np.concatenate(np.split(kernel, groups), axis=1)
    kernel = np.swapaxes(np.flip(kernel, tuple(range(2, kernel.ndim))), 0, 1)
    if place.options.get("transpose_kernel"):
        raise ValueError("a layer with transpose_kernel=True has another kernel")
    return _with_bias({"kernel": _channels_last(kernel)}, weights)


def _conv_transpose_shapes(place: Place) -> Shapes:
    *size, before, after = place.shapes["kernel"]
    groups = place.options.get("groups", 1)
    if not isinstance(groups, int) or after % groups:
        raise ValueError("its groups do not divide the channels")
    return with_bias({"weight": (before * groups, after // groups, *size)}, place)


def _norm_of_images(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Of nn.LayerNorm((channels, height, width))."""
    if weights["weight"].ndim < 2:
        raise ValueError("of one axis, it is as it is")
    return {_NORM[name]: np.moveaxis(array, 0, -1) for name, array in weights.items()}


def _norm_of_images_shapes(place: Place) -> Shapes:
    *size, channels = place.shapes["scale"]
    if not size:
        raise ValueError("of one axis, it is as it is")
    return {a: (channels, *size) for a, b in _NORM.items() if b in place.shapes}


def _batch_norm_shapes(place: Place) -> Shapes:
    shapes = {a: place.shapes[b] for a, b in _RUNNING.items() if b in place.shapes}
    return shapes | {"num_batches_tracked": ()}


def _prelu_shapes(place: Place) -> Shapes:
    return {"weight": place.shapes["slope"] or (1,)}


def _prelu(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """(1,) for one slope, which is () here."""
    return {"slope": weights["weight"].reshape(place.shapes["slope"])}


def _weight_norm(says: str, norm: str, direction: str) -> Layout:
    """A kernel as its lengths, (out, 1, ...), and its direction."""

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        kernel = _channels_last(weights[direction])
        params = {"kernel": kernel, "kernel_norm": weights[norm].reshape(-1)}
        return _with_bias(params, weights)

    def shapes(place: Place) -> Shapes:
        *size, before, after = place.shapes["kernel"]
        lengths = (after, 1, *(1 for _ in size))
        return with_bias({norm: lengths, direction: (after, before, *size)}, place)

    return Layout(says, ("Conv", "Dense"), (norm, direction), ("bias",), convert, shapes)


def _rnn(suffix: str, *, gru: bool = False) -> Layout:
    """Of a layer and direction of a module, such as ``_l0_reverse``, or of a cell, without any."""
    kernel, recurrent = f"weight_ih{suffix}", f"weight_hh{suffix}"
    biases = f"bias_ih{suffix}", f"bias_hh{suffix}"

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        params = {"kernel": weights[kernel].T, "recurrent_kernel": weights[recurrent].T}
        if place.options.get("projection"):
            params["projection_kernel"] = weights[f"weight_hr{suffix}"].T
        if biases[0] in weights:
            one, two = (weights[name] for name in biases)
            params |= gru_biases(one, two, place) if gru else {"bias": one + two}
        return params

    def shapes(place: Place) -> Shapes:
        theirs = {kernel: _turned(place, "kernel"), recurrent: _turned(place, "recurrent_kernel")}
        if "bias" in place.shapes:
            theirs |= dict.fromkeys(biases, place.shapes["bias"])
        if "projection_kernel" in place.shapes:
            theirs[f"weight_hr{suffix}"] = _turned(place, "projection_kernel")
        return theirs

    makers = ("GRU",) if gru else ("LSTM", "SimpleRNN")
    which = suffix.removeprefix("_") or "a cell"
    says = f"torch {'GRU' if gru else 'LSTM or RNN'}, {which}: both biases in one"
    may = (*biases, f"weight_hr{suffix}")
    return Layout(says, makers, (kernel, recurrent), may, convert, shapes)


def _recurrent() -> Iterator[Layout]:
    for layer in range(16):
        for side in ("", "_reverse"):
            yield _rnn(f"_l{layer}{side}")
            yield _rnn(f"_l{layer}{side}", gru=True)


def _fused_attention(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Of nn.MultiheadAttention: the three kernels above each other."""
    params = _split("kernel", np.split(weights["in_proj_weight"], 3), transposed=True)
    params["out_kernel"] = weights["out_proj/weight"].T
    if "in_proj_bias" in weights:
        params |= _split("bias", np.split(weights["in_proj_bias"], 3))
        params["out_bias"] = weights["out_proj/bias"]
    return params


def _fused_shapes(place: Place) -> Shapes:
    width, inner = place.shapes["query_kernel"]
    shapes: Shapes = {"in_proj_weight": (3 * inner, width)}
    shapes["out_proj/weight"] = _turned(place, "out_kernel")
    if "query_bias" in place.shapes:
        shapes |= {"in_proj_bias": (3 * inner,), "out_proj/bias": place.shapes["out_bias"]}
    return shapes


def _gpt2_attention(weights: Weights, place: Place) -> dict[str, np.ndarray]:
    """Of GPT-2: the three kernels (in, out) side by side."""
    params = _split("kernel", np.split(weights["c_attn/weight"], 3, axis=1))
    params |= _split("bias", np.split(weights["c_attn/bias"], 3))
    return params | {"out_kernel": weights["c_proj/weight"], "out_bias": weights["c_proj/bias"]}


def _projections(says: str, query: str, key: str, value: str, out: str) -> Layout:
    """Four linear layers; biases where there are any."""
    names = {"query": query, "key": key, "value": value, "out": out}

    def convert(weights: Weights, place: Place) -> dict[str, np.ndarray]:
        params = {f"{ours}_kernel": weights[f"{name}/weight"].T for ours, name in names.items()}
        for ours, name in names.items():
            if f"{name}/bias" in weights:
                params[f"{ours}_bias"] = weights[f"{name}/bias"]
        return params

    def shapes(place: Place) -> Shapes:
        theirs = {
            f"{name}/weight": _turned(place, f"{ours}_kernel") for ours, name in names.items()
        }
        for ours, name in names.items():
            if f"{ours}_bias" in place.shapes:
                theirs[f"{name}/bias"] = place.shapes[f"{ours}_bias"]
        return theirs

    needs = tuple(f"{name}/weight" for name in names.values())
    may = tuple(f"{name}/bias" for name in names.values())
    return Layout(says, _ATTENTION, needs, may, convert, shapes)


def _split(
    kind: str, parts: list[np.ndarray], *, transposed: bool = False
) -> dict[str, np.ndarray]:
    names = ("query", "key", "value")
    pairs = zip(names, parts, strict=True)
    return {f"{name}_{kind}": part.T if transposed else part for name, part in pairs}


def _with_bias(params: dict[str, np.ndarray], weights: Weights) -> dict[str, np.ndarray]:
    return params | ({"bias": weights["bias"]} if "bias" in weights else {})


def _turned(place: Place, name: str) -> tuple[int, ...]:
    before, after = place.shapes[name]
    return after, before


def _channels_last(kernel: np.ndarray) -> np.ndarray:
    return np.moveaxis(kernel, (0, 1), (-1, -2))


_ATTENTION = ("SelfAttention", "CrossAttention")
CELLS = (_rnn(""), _rnn("", gru=True))
LAYOUTS = (
    Layout(
        "torch Linear: transposed",
        ("Dense",),
        ("weight",),
        ("bias",),
        _linear,
        _linear_shapes,
        channels_first=True,
    ),
    Layout("transformers Conv1D: as it is", ("Dense",), ("weight",), ("bias",), _conv1d),
    Layout("torch Conv: channels last", ("Conv",), ("weight",), ("bias",), _conv, _conv_shapes),
    Layout(
        "torch Conv: channels last, other axes of size 1",
        ("Conv", "Dense"),
        ("weight",),
        ("bias",),
        _conv_of_other_axes,
        loose=True,
    ),
    Layout(
        "torch ConvTranspose: channels last, flipped",
        ("ConvTranspose",),
        ("weight",),
        ("bias",),
        _conv_transpose,
        _conv_transpose_shapes,
    ),
    Layout(
        "torch Embedding",
        ("Embedding", "EmbeddingBag", "PositionEmbedding"),
        ("weight",),
        (),
        renamed({"weight": "embedding"}),
    ),
    # Of several axes, before the other: torch has the channels of an image first.
    Layout(
        "torch LayerNorm: channels last",
        ("LayerNorm", "RMSNorm"),
        ("weight",),
        ("bias",),
        _norm_of_images,
        _norm_of_images_shapes,
    ),
    Layout("torch norm", _NORMS, ("weight",), ("bias",), renamed(_NORM)),
    Layout(
        "torch BatchNorm",
        ("BatchNorm",),
        ("running_mean", "running_var"),
        ("weight", "bias", "num_batches_tracked"),
        renamed(_RUNNING),
        _batch_norm_shapes,
    ),
    Layout("torch PReLU", ("PReLU",), ("weight",), (), _prelu, _prelu_shapes),
    Layout(
        "transformers layer scale",
        ("Affine",),
        ("layer_scale_parameter",),
        (),
        renamed({"layer_scale_parameter": "scale"}),
    ),
    _weight_norm(
        "torch weight norm",
        "parametrizations/weight/original0",
        "parametrizations/weight/original1",
    ),
    _weight_norm("torch weight norm before 2.0", "weight_g", "weight_v"),
    *_recurrent(),
    # Behind those of modules, under whose names parameters are exported.
    *CELLS,
    Layout(
        "torch MultiheadAttention: split in three",
        _ATTENTION,
        ("in_proj_weight", "out_proj/weight"),
        ("in_proj_bias", "out_proj/bias"),
        _fused_attention,
        _fused_shapes,
    ),
    Layout(
        "transformers GPT-2 attention: split in three",
        _ATTENTION,
        ("c_attn/weight", "c_attn/bias", "c_proj/weight", "c_proj/bias"),
        (),
        _gpt2_attention,
    ),
    _projections("transformers q_proj ... o_proj", "q_proj", "k_proj", "v_proj", "o_proj"),
    _projections("transformers q_proj ... out_proj", "q_proj", "k_proj", "v_proj", "out_proj"),
    _projections("transformers T5 attention", "q", "k", "v", "o"),
    _projections(
        "transformers BERT attention", "self/query", "self/key", "self/value", "output/dense"
    ),
    _projections("transformers ALBERT attention", "query", "key", "value", "dense"),
    _projections(
        "transformers ViT attention",
        "attention/query",
        "attention/key",
        "attention/value",
        "output/dense",
    ),
)
