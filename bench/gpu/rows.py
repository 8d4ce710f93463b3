"""The rows on a GPU, most important first: larger than those for a processor, which has less.

The names are read as in ``bench.rows``.
"""

from ..row import Row
from ..rows import rows_of

_PLAIN = {"bidirectional": False, "layers": 1}
_CAUSAL, _FULL = {"causal": True}, {"causal": False}


def _k(kernel: int, padding: int = 0, **options: object) -> dict[str, object]:
    return {"kernel": kernel, "padding": padding, **options}


# One or two of each kind, before all others.
_FIRST = [
    ("dense", "dense", "8192x1024-4096 8192x1024-4096-bf16 32x784-128", {}),
    ("conv", "conv-3x3", "64x56x56x64-64 64x56x56x64-64-bf16 64x14x14x256-256", _k(3, 1)),
    ("conv", "conv-1x1", "64x56x56x64-256", _k(1)),
    ("depthwise", "depthwise-3x3", "64x56x56x96-96 64x14x14x512-512-bf16", _k(3, 1)),
    ("recurrent", "lstm", "64x128x256x512 32x128x128x256", _PLAIN),
    ("recurrent", "gru", "64x128x256x512", _PLAIN),
    ("attention", "attention-causal", "2x2048x16x64-bf16 4x512x8x64", _CAUSAL),
    ("attention", "attention-lengths", "2x2048x16x64-bf16", {**_FULL, "lengths": True}),
    ("attention", "attention-window", "2x2048x16x64-bf16", {**_CAUSAL, "window": 256}),
    ("norm", "layer-norm", "64x512x1024 64x512x1024-bf16", {}),
    ("norm", "batch-norm", "64x56x56x64 64x56x56x64-bf16", {}),
    ("embedding", "embedding-32000x1024", "64x512", {"vocabulary": 32_000, "features": 1024}),
]
_REST = [
    ("conv", "conv-3x3-s2", "64x56x56x64-128", _k(3, 1, strides=2)),
    ("conv", "conv-7x7-s2", "32x224x224x3-64", _k(7, 3, strides=2)),
    ("conv", "conv-16x16-s16", "32x224x224x3-768", _k(16, strides=16)),
    ("conv", "conv-3x3-d2", "32x28x28x128-128", _k(3, 2, dilation=2)),
    ("grouped", "grouped-32-3x3", "64x28x28x128-128 64x14x14x256-256-bf16", _k(3, 1, groups=32)),
    ("grouped", "grouped-4-3x3", "64x28x28x128-128", _k(3, 1, groups=4)),
    ("depthwise", "depthwise-7x7", "64x28x28x192-192", _k(7, 3)),
    ("depthwise", "depthwise-3x3-s2", "64x28x28x192-192", _k(3, 1, strides=2)),
    ("depthwise", "depthwise-k31", "16x2048x256-256", _k(31, 15)),
    ("transposed", "transposed-4x4-s2", "32x28x28x64-64", _k(4, strides=2) | {"padding": "SAME"}),
    ("transposed", "transposed-3x3-s2", "32x28x28x64-64", _k(3, strides=2) | {"padding": "VALID"}),
    ("conv1d", "conv-k3", "16x4096x128-128", _k(3, 1)),
    ("conv1d", "conv-k31", "16x2048x128-128", _k(31, 15)),
    ("conv3d", "conv-3x3x3", "4x16x32x32x32-64", _k(3, 1)),
    ("norm", "rms-norm", "64x512x1024 64x512x1024-bf16", {}),
    ("norm", "group-norm-32", "64x28x28x128", {"groups": 32}),
    ("recurrent", "lstm", "1x256x64x128 256x64x128x256 64x128x256x512-bf16", _PLAIN),
    ("recurrent", "gru", "32x128x128x256", _PLAIN),
    ("recurrent", "simple-rnn", "64x128x256x512", _PLAIN),
    ("recurrent", "lstm-bidirectional", "32x128x128x256", {"bidirectional": True, "layers": 1}),
    ("recurrent", "lstm-2-layers", "32x128x128x256", {"bidirectional": False, "layers": 2}),
    ("attention", "attention-full", "2x2048x16x64-bf16 16x128x8x64", _FULL),
    ("attention", "attention-causal", "1x2048x8x64 16x256x12x64-bf16", _CAUSAL),
    ("pool", "max-pool-3x3-s2", "64x112x112x64", {"window": 3, "strides": 2, "padding": 1}),
    ("pool", "max-pool-2x2", "64x56x56x64", {"window": 2}),
    ("pool", "avg-pool-3x3-s1", "64x56x56x64", {"window": 3, "strides": 1, "padding": 1}),
    ("dropout", "dropout", "64x512x1024", {"rate": 0.1}),
    ("dense", "dense", "64x512-1000 8x512x256-1024-bf16", {}),
    ("depthwise", "separable-3x3", "64x56x56x64-128", _k(3, 1)),
]


def _all(table: list[tuple[str, str, str, dict[str, object]]]) -> dict[str, Row]:
    return {row.name: row for entry in table for row in rows_of(*entry)}


FIRST, REST = _all(_FIRST), _all(_REST)
