"""The rows: which operations, in which shapes. Data alone; a new shape is a word in a table.

A row's name is its label and its size: ``conv-3x3-8x56x56x64-128-bf16`` has an input of 8x56x56x64
(batch, space, channels), 128 features and dtype bfloat16. Recurrent rows have their features after
the channels: ``lstm-32x128x128x256``. The operation is how the label begins, see ``OPS``.
"""

from collections.abc import Iterator
from typing import Any

from .row import Row

# How labels begin, where that is not the operation itself.
OPS = {"depthwise": "conv", "grouped": "conv", "transposed": "conv_transpose"}
RECURRENT = ("lstm", "gru", "simple_rnn")
TWO_WORDS = ("max", "avg", "batch", "layer", "group", "rms", "simple")

# (label, sizes separated by spaces, options) to rows.
Rows = tuple[str, str, dict[str, Any]]


def rows_of(group: str, label: str, sizes: str, options: dict[str, Any]) -> Iterator[Row]:
    words = label.split("-")
    op = "_".join(words[:2]) if words[0] in TWO_WORDS else OPS.get(words[0], words[0])
    for size in sizes.split():
        shape, *features = size.removesuffix("-bf16").split("-")
        x, own = tuple(map(int, shape.split("x"))), dict(options)
        if op in RECURRENT:
            *x, own["features"] = x
        elif features:
            own["features"] = int(features[0])
        if group == "depthwise" and op == "conv":
            own["groups"] = x[-1]
        dtype = "bfloat16" if size.endswith("-bf16") else "float32"
        yield Row(f"{label}-{size}", group, op, tuple(x), own, dtype)


def _k(kernel: Any, padding: Any = 0, **options: Any) -> dict[str, Any]:
    """The options of a convolution."""
    return {"kernel": kernel, **({"padding": padding} if padding else {}), **options}


def _transposed(label: str, sizes: str, kernel: int) -> Rows:
    # SAME gives twice the size; an odd kernel has no SAME that all frameworks agree on.
    options = _k(kernel, "VALID" if kernel % 2 else "SAME", strides=2)
    return (f"transposed-{label}-s2", sizes, options)


_PLAIN = {"bidirectional": False, "layers": 1}
_BOTH = {"bidirectional": True, "layers": 1}
_SEQUENCES = "1x256x64x128 32x128x128x256 64x64x256x512 128x100x64x128"
_STRIDED_3 = {"window": 3, "strides": 2, "padding": 1}

_TABLE: dict[str, list[Rows]] = {
    "dense": [
        # The layers of a digit classifier, of a vision model's head and of a transformer's MLP.
        ("dense", "32x784-128 64x512-1000 8x512x256-1024", {}),
        ("dense", "32x784-128-bf16 64x512-1000-bf16 8x512x256-1024-bf16", {}),
    ],
    "conv": [
        # From the first block of a network to the last: images shrink, channels grow.
        ("conv-3x3", "1x128x128x32-32 8x56x56x64-64 8x28x28x128-128 64x16x16x64-64", _k(3, 1)),
        ("conv-3x3", "8x14x14x256-256 8x7x7x512-512 1x7x7x512-512", _k(3, 1)),
        ("conv-3x3", "8x224x224x3-16 64x32x32x3-64 8x56x56x64-64-bf16", _k(3, 1)),
        ("conv-1x1", "8x56x56x64-256 8x56x56x256-64 8x14x14x256-512 1x28x28x128-128", _k(1)),
        ("conv-1x1", "64x7x7x512-128 8x56x56x64-256-bf16", _k(1)),
        ("conv-1x1-s2", "8x56x56x64-128", _k(1, strides=2)),
        ("conv-3x3-s2", "8x56x56x64-128 8x14x14x256-512 8x224x224x3-32", _k(3, 1, strides=2)),
        ("conv-7x7-s2", "8x112x112x3-64 1x224x224x3-64", _k(7, 3, strides=2)),
        ("conv-16x16-s16", "8x224x224x3-192", _k(16, strides=16)),
        ("conv-5x5", "8x28x28x32-64", _k(5, 2)),
        ("conv-3x3-d2", "8x28x28x128-128", _k(3, 2, dilation=2)),
        ("conv-3x3-d4", "2x56x56x64-64", _k(3, 4, dilation=4)),
    ],
    "depthwise": [
        ("depthwise-3x3", "8x56x56x96-96 1x112x112x32-32 64x14x14x256-256", _k(3, 1)),
        ("depthwise-3x3", "8x7x7x512-512 8x56x56x96-96-bf16", _k(3, 1)),
        ("depthwise-3x3-s2", "8x28x28x192-192 8x112x112x64-64", _k(3, 1, strides=2)),
        ("depthwise-5x5", "8x28x28x128-128", _k(5, 2)),
        ("depthwise-7x7", "8x28x28x192-192 8x56x56x96-96", _k(7, 3)),
        ("depthwise-k31", "8x512x256-256", _k(31, 15)),
        ("depthwise-3x3x3", "2x8x28x28x64-64", _k(3, 1)),
        ("separable-3x3", "8x56x56x64-128 8x14x14x256-256", _k(3, 1)),
    ],
    "grouped": [
        ("grouped-2-3x3", "8x28x28x128-128 8x14x14x256-256", _k(3, 1, groups=2)),
        ("grouped-4-3x3", "8x28x28x128-128", _k(3, 1, groups=4)),
        ("grouped-16-3x3", "8x14x14x256-256", _k(3, 1, groups=16)),
        ("grouped-32-3x3", "8x28x28x128-128 8x14x14x256-256", _k(3, 1, groups=32)),
        ("grouped-32-3x3", "2x14x14x256-256-bf16", _k(3, 1, groups=32)),
        ("grouped-32-3x3-s2", "8x28x28x256-256", _k(3, 1, groups=32, strides=2)),
    ],
    "transposed": [
        _transposed("2x2", "8x28x28x64-64", 2),
        _transposed("3x3", "8x28x28x64-64", 3),
        _transposed("4x4", "8x28x28x64-64 8x7x7x256-128 8x32x32x64-3", 4),
        _transposed("2x2", "1x64x64x64-32", 2),
        _transposed("k4", "8x256x64-64", 4),
        _transposed("2x2x2", "1x8x16x16x32-32", 2),
        _transposed("4x4", "8x28x28x64-64-bf16", 4),
    ],
    "conv1d": [
        ("conv-k3", "8x1024x128-128", _k(3, 1)),
        ("conv-k3-d8", "8x2048x64-64", _k(3, 8, dilation=8)),
        ("conv-k5-s2", "8x2048x64-128", _k(5, 2, strides=2)),
        ("conv-k10-s5", "4x16000x1-256", _k(10, strides=5)),
        ("conv-k31", "8x512x128-128", _k(31, 15)),
        ("conv-k129", "8x2048x16-16", _k(129, 64)),
        ("conv-k400-s160", "4x16000x1-80", _k(400, strides=160)),
    ],
    "conv3d": [
        ("conv-3x3x3", "2x16x32x32x16-32 1x8x14x14x128-128", _k(3, 1)),
        ("conv-3x3x3-s2", "2x16x32x32x32-64", _k(3, 1, strides=2)),
        ("conv-1x3x3", "2x8x28x28x64-64", _k((1, 3, 3), (0, 1, 1))),
        ("conv-3x1x1", "2x8x28x28x64-64", _k((3, 1, 1), (1, 0, 0))),
        ("conv-3x7x7-s122", "1x8x112x112x3-64", _k((3, 7, 7), (1, 3, 3), strides=(1, 2, 2))),
    ],
    "pool": [
        ("max-pool-2x2", "8x56x56x64 64x28x28x32", {"window": 2}),
        ("max-pool-3x3-s2", "8x56x56x64 8x112x112x64", _STRIDED_3),
        ("max-pool-3x3-s2-valid", "8x35x35x192", {"window": 3, "strides": 2}),
        ("max-pool-3x3-s1", "8x28x28x192", {"window": 3, "strides": 1, "padding": 1}),
        ("max-pool-k2", "8x1024x64", {"window": 2}),
        ("max-pool-2x2x2", "2x16x32x32x32", {"window": 2}),
        ("avg-pool-2x2", "8x56x56x64", {"window": 2}),
        ("avg-pool-3x3-s1", "8x56x56x64", {"window": 3, "strides": 1, "padding": 1}),
        ("avg-pool-3x3-s2", "8x56x56x64", _STRIDED_3),
        ("avg-pool-7x7", "64x7x7x512", {"window": 7}),
        ("max-pool-2x2", "8x56x56x64-bf16", {"window": 2}),
        ("max-pool-3x3-s2", "8x56x56x64-bf16", _STRIDED_3),
    ],
    "norm": [
        ("batch-norm", "8x56x56x64 64x14x14x256 64x512", {}),
        ("layer-norm", "64x256x512 8x128x768 8x128x768-bf16", {}),
        ("group-norm-32", "8x28x28x128", {"groups": 32}),
        ("group-norm-8", "8x56x56x64", {"groups": 8}),
        ("rms-norm", "64x256x512 8x128x768 8x128x768-bf16", {}),
    ],
    "recurrent": [
        *((label, _SEQUENCES, _PLAIN) for label in ("lstm", "gru", "simple-rnn")),
        ("lstm-bidirectional", "32x128x128x256", _BOTH),
        ("lstm-2-layers", "32x128x128x256", {**_PLAIN, "layers": 2}),
        ("gru-bidirectional", "32x128x128x256", _BOTH),
        ("gru-2-layers", "32x128x128x256", {**_PLAIN, "layers": 2}),
        ("lstm", "32x128x128x256-bf16", _PLAIN),
    ],
    "attention": [
        *(
            (f"attention-{kind}", size, {"causal": kind == "causal"})
            for size in ("16x128x8x64", "4x512x8x64", "2x1024x8x64", "1x2048x8x64")
            for kind in ("causal", "full")
        ),
        ("attention-causal", "4x512x8x64-bf16", {"causal": True}),
    ],
    "embedding": [
        ("embedding-30000x256", "64x256", {"vocabulary": 30_000, "features": 256}),
        ("embedding-1000x64", "32x64", {"vocabulary": 1_000, "features": 64}),
    ],
    "dropout": [("dropout", "64x256x512 128x1024", {"rate": 0.1})],
}
_ALL = [rows_of(group, *rows) for group, table in _TABLE.items() for rows in table]
ROWS: dict[str, Row] = {row.name: row for rows in _ALL for row in rows}
