"""The rows: which operations, in which shapes. Data alone; a new shape is a word in a table.

A row's name is its label and its size: ``conv-3x3-8x56x56x64-128-bf16`` has an input of 8x56x56x64
(batch, space, channels), 128 features and dtype bfloat16. Recurrent rows have their features after
the channels: ``lstm-32x128x128x256``.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .row import Row


class Rows(NamedTuple):
    """Rows of one operation with the same options.

    Args:
      label: how their names begin.
      sizes: how their names go on, separated by spaces.
      options: the operation's own.
      op: by default the group's name.
      depthwise: whether there is a group for each channel.
    """

    label: str
    sizes: str
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    op: str | None = None
    depthwise: bool = False

    def rows(self, group: str) -> Iterator[Row]:
        op = self.op or group
        for size in self.sizes.split():
            shape, *features = size.removesuffix("-bf16").split("-")
            x, options = tuple(map(int, shape.split("x"))), dict(self.options)
            if op in ("lstm", "gru", "simple_rnn"):
                *x, options["features"] = x
            elif features:
                options["features"] = int(features[0])
            if self.depthwise:
                options["groups"] = x[-1]
            dtype = "bfloat16" if size.endswith("-bf16") else "float32"
            yield Row(f"{self.label}-{size}", group, op, tuple(x), options, dtype)


def _k(kernel: Any, padding: Any = 0, **options: Any) -> dict[str, Any]:
    """The options of a convolution."""
    return {"kernel": kernel, **({"padding": padding} if padding else {}), **options}


def _depthwise(label: str, sizes: str, kernel: int, **options: int) -> Rows:
    own = _k(kernel, kernel // 2, **options)
    return Rows(f"depthwise-{label}", sizes, own, "conv", depthwise=True)


def _grouped(groups: int, *sizes: str, label: str = "", **options: Any) -> Rows:
    name = f"grouped-{groups}-3x3{label}"
    return Rows(name, " ".join(sizes), _k(3, 1, groups=groups, **options), "conv")


def _transposed(label: str, kernel: int, *sizes: str) -> Rows:
    # SAME gives twice the size; an odd kernel has no SAME that all frameworks agree on.
    options = _k(kernel, "VALID" if kernel % 2 else "SAME", strides=2)
    return Rows(f"transposed-{label}-s2", " ".join(sizes), options, "conv_transpose")


def _pool(kind: str, label: str, sizes: str, window: int, **options: int) -> Rows:
    return Rows(f"{kind}-pool-{label}", sizes, {"window": window, **options}, f"{kind}_pool")


def _recurrent(op: str, sizes: str, label: str = "", **options: Any) -> Rows:
    every = {"bidirectional": False, "layers": 1, **options}
    return Rows(op.replace("_", "-") + label, sizes, every, op)


_SEQUENCES = "1x256x64x128 32x128x128x256 64x64x256x512 128x100x64x128"

_TABLE: dict[str, list[Rows]] = {
    "dense": [
        # The layers of a digit classifier, of a vision model's head and of a transformer's MLP.
        Rows("dense", "32x784-128 64x512-1000 8x512x256-1024"),
        Rows("dense", "32x784-128-bf16 64x512-1000-bf16 8x512x256-1024-bf16"),
    ],
    "conv": [
        # From the first block of a network to the last: images shrink, channels grow.
        Rows(
            "conv-3x3",
            "1x128x128x32-32 8x56x56x64-64 8x28x28x128-128 64x16x16x64-64 8x14x14x256-256"
            " 8x7x7x512-512 1x7x7x512-512 8x224x224x3-16 64x32x32x3-64 8x56x56x64-64-bf16",
            _k(3, 1),
        ),
        Rows(
            "conv-1x1",
            "8x56x56x64-256 8x56x56x256-64 8x14x14x256-512 1x28x28x128-128 64x7x7x512-128"
            " 8x56x56x64-256-bf16",
            _k(1),
        ),
        Rows("conv-1x1-s2", "8x56x56x64-128", _k(1, strides=2)),
        Rows("conv-3x3-s2", "8x56x56x64-128 8x14x14x256-512 8x224x224x3-32", _k(3, 1, strides=2)),
        Rows("conv-7x7-s2", "8x112x112x3-64 1x224x224x3-64", _k(7, 3, strides=2)),
        Rows("conv-16x16-s16", "8x224x224x3-192", _k(16, strides=16)),
        Rows("conv-5x5", "8x28x28x32-64", _k(5, 2)),
        Rows("conv-3x3-d2", "8x28x28x128-128", _k(3, 2, dilation=2)),
        Rows("conv-3x3-d4", "2x56x56x64-64", _k(3, 4, dilation=4)),
    ],
    "depthwise": [
        _depthwise("3x3", "8x56x56x96-96 1x112x112x32-32 64x14x14x256-256 8x7x7x512-512", 3),
        _depthwise("3x3", "8x56x56x96-96-bf16", 3),
        _depthwise("3x3-s2", "8x28x28x192-192 8x112x112x64-64", 3, strides=2),
        _depthwise("5x5", "8x28x28x128-128", 5),
        _depthwise("7x7", "8x28x28x192-192 8x56x56x96-96", 7),
        _depthwise("k31", "8x512x256-256", 31),
        _depthwise("3x3x3", "2x8x28x28x64-64", 3),
        Rows("separable-3x3", "8x56x56x64-128 8x14x14x256-256", _k(3, 1), "separable"),
    ],
    "grouped": [
        _grouped(2, "8x28x28x128-128", "8x14x14x256-256"),
        _grouped(4, "8x28x28x128-128"),
        _grouped(16, "8x14x14x256-256"),
        _grouped(32, "8x28x28x128-128", "8x14x14x256-256", "2x14x14x256-256-bf16"),
        _grouped(32, "8x28x28x256-256", label="-s2", strides=2),
    ],
    "transposed": [
        _transposed("2x2", 2, "8x28x28x64-64"),
        _transposed("3x3", 3, "8x28x28x64-64"),
        _transposed("4x4", 4, "8x28x28x64-64", "8x7x7x256-128", "8x32x32x64-3"),
        _transposed("2x2", 2, "1x64x64x64-32"),
        _transposed("k4", 4, "8x256x64-64"),
        _transposed("2x2x2", 2, "1x8x16x16x32-32"),
        _transposed("4x4", 4, "8x28x28x64-64-bf16"),
    ],
    "conv1d": [
        Rows("conv-k3", "8x1024x128-128", _k(3, 1), "conv"),
        Rows("conv-k3-d8", "8x2048x64-64", _k(3, 8, dilation=8), "conv"),
        Rows("conv-k5-s2", "8x2048x64-128", _k(5, 2, strides=2), "conv"),
        Rows("conv-k10-s5", "4x16000x1-256", _k(10, strides=5), "conv"),
        Rows("conv-k31", "8x512x128-128", _k(31, 15), "conv"),
        Rows("conv-k129", "8x2048x16-16", _k(129, 64), "conv"),
        Rows("conv-k400-s160", "4x16000x1-80", _k(400, strides=160), "conv"),
    ],
    "conv3d": [
        Rows("conv-3x3x3", "2x16x32x32x16-32 1x8x14x14x128-128", _k(3, 1), "conv"),
        Rows("conv-3x3x3-s2", "2x16x32x32x32-64", _k(3, 1, strides=2), "conv"),
        Rows("conv-1x3x3", "2x8x28x28x64-64", _k((1, 3, 3), (0, 1, 1)), "conv"),
        Rows("conv-3x1x1", "2x8x28x28x64-64", _k((3, 1, 1), (1, 0, 0)), "conv"),
        Rows(
            "conv-3x7x7-s122",
            "1x8x112x112x3-64",
            _k((3, 7, 7), (1, 3, 3), strides=(1, 2, 2)),
            "conv",
        ),
    ],
    "pool": [
        _pool("max", "2x2", "8x56x56x64 64x28x28x32", 2),
        _pool("max", "3x3-s2", "8x56x56x64 8x112x112x64", 3, strides=2, padding=1),
        _pool("max", "3x3-s2-valid", "8x35x35x192", 3, strides=2),
        _pool("max", "3x3-s1", "8x28x28x192", 3, strides=1, padding=1),
        _pool("max", "k2", "8x1024x64", 2),
        _pool("max", "2x2x2", "2x16x32x32x32", 2),
        _pool("avg", "2x2", "8x56x56x64", 2),
        _pool("avg", "3x3-s1", "8x56x56x64", 3, strides=1, padding=1),
        _pool("avg", "3x3-s2", "8x56x56x64", 3, strides=2, padding=1),
        _pool("avg", "7x7", "64x7x7x512", 7),
        _pool("max", "2x2", "8x56x56x64-bf16", 2),
        _pool("max", "3x3-s2", "8x56x56x64-bf16", 3, strides=2, padding=1),
    ],
    "norm": [
        Rows("batch-norm", "8x56x56x64 64x14x14x256 64x512", op="batch_norm"),
        Rows("layer-norm", "64x256x512 8x128x768 8x128x768-bf16", op="layer_norm"),
        Rows("group-norm-32", "8x28x28x128", {"groups": 32}, "group_norm"),
        Rows("group-norm-8", "8x56x56x64", {"groups": 8}, "group_norm"),
        Rows("rms-norm", "64x256x512 8x128x768 8x128x768-bf16", op="rms_norm"),
    ],
    "recurrent": [
        *(_recurrent(op, _SEQUENCES) for op in ("lstm", "gru", "simple_rnn")),
        _recurrent("lstm", "32x128x128x256", "-bidirectional", bidirectional=True),
        _recurrent("lstm", "32x128x128x256", "-2-layers", layers=2),
        _recurrent("gru", "32x128x128x256", "-bidirectional", bidirectional=True),
        _recurrent("gru", "32x128x128x256", "-2-layers", layers=2),
        _recurrent("lstm", "32x128x128x256-bf16"),
    ],
    "attention": [
        *(
            Rows(f"attention-{kind}", size, {"causal": kind == "causal"})
            for size in ("16x128x8x64", "4x512x8x64", "2x1024x8x64", "1x2048x8x64")
            for kind in ("causal", "full")
        ),
        Rows("attention-causal", "4x512x8x64-bf16", {"causal": True}),
    ],
    "embedding": [
        Rows("embedding-30000x256", "64x256", {"vocabulary": 30_000, "features": 256}),
        Rows("embedding-1000x64", "32x64", {"vocabulary": 1_000, "features": 64}),
    ],
    "dropout": [Rows("dropout", "64x256x512 128x1024", {"rate": 0.1})],
}
ROWS: dict[str, Row] = {
    row.name: row for group, table in _TABLE.items() for rows in table for row in rows.rows(group)
}
