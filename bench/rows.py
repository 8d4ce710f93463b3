"""The rows: which operations, in which shapes. Data alone; a new shape is a line."""

from collections.abc import Iterator
from typing import Any

from .row import Row


def _shape(*sizes: int) -> str:
    return "x".join(map(str, sizes))


def _conv(
    group: str,
    label: str,
    x: tuple[int, ...],
    features: int,
    kernel: int | tuple[int, ...],
    dtype: str = "float32",
    op: str = "conv",
    **options: Any,
) -> Row:
    name = f"{label}-{_shape(*x)}-{features}" + ("-bf16" if dtype == "bfloat16" else "")
    return Row(name, group, op, x, {"features": features, "kernel": kernel, **options}, dtype)


def _dense() -> Iterator[Row]:
    for dtype in ("float32", "bfloat16"):
        # The layers of a digit classifier, of a vision model's head and of a transformer's MLP.
        for x, features in [((32, 784), 128), ((64, 512), 1000), ((8, 512, 256), 1024)]:
            name = f"dense-{_shape(*x)}-{features}" + ("-bf16" if dtype == "bfloat16" else "")
            yield Row(name, "dense", "dense", x, {"features": features}, dtype)


def _convs() -> Iterator[Row]:
    group, bf16 = "conv", {"dtype": "bfloat16"}
    same = {"padding": 1}
    # From the first block of a network to the last: images shrink, channels grow.
    for x, features in [
        ((1, 128, 128, 32), 32),
        ((8, 56, 56, 64), 64),
        ((8, 28, 28, 128), 128),
        ((64, 16, 16, 64), 64),
        ((8, 14, 14, 256), 256),
        ((8, 7, 7, 512), 512),
        ((1, 7, 7, 512), 512),
    ]:
        yield _conv(group, "conv-3x3", x, features, 3, **same)
    yield _conv(group, "conv-3x3", (8, 224, 224, 3), 16, 3, **same)
    yield _conv(group, "conv-3x3", (64, 32, 32, 3), 64, 3, **same)
    yield _conv(group, "conv-3x3", (8, 56, 56, 64), 64, 3, **same, **bf16)
    for x, features in [
        ((8, 56, 56, 64), 256),
        ((8, 56, 56, 256), 64),
        ((8, 14, 14, 256), 512),
        ((1, 28, 28, 128), 128),
        ((64, 7, 7, 512), 128),
    ]:
        yield _conv(group, "conv-1x1", x, features, 1)
    yield _conv(group, "conv-1x1", (8, 56, 56, 64), 256, 1, **bf16)
    yield _conv(group, "conv-1x1-s2", (8, 56, 56, 64), 128, 1, strides=2)
    yield _conv(group, "conv-3x3-s2", (8, 56, 56, 64), 128, 3, strides=2, **same)
    yield _conv(group, "conv-3x3-s2", (8, 14, 14, 256), 512, 3, strides=2, **same)
    yield _conv(group, "conv-3x3-s2", (8, 224, 224, 3), 32, 3, strides=2, **same)
    yield _conv(group, "conv-7x7-s2", (8, 112, 112, 3), 64, 7, strides=2, padding=3)
    yield _conv(group, "conv-7x7-s2", (1, 224, 224, 3), 64, 7, strides=2, padding=3)
    yield _conv(group, "conv-16x16-s16", (8, 224, 224, 3), 192, 16, strides=16)
    yield _conv(group, "conv-5x5", (8, 28, 28, 32), 64, 5, padding=2)
    yield _conv(group, "conv-3x3-d2", (8, 28, 28, 128), 128, 3, dilation=2, padding=2)
    yield _conv(group, "conv-3x3-d4", (2, 56, 56, 64), 64, 3, dilation=4, padding=4)


def _depthwise() -> Iterator[Row]:
    def row(label: str, x: tuple[int, ...], kernel: int, **options: Any) -> Row:
        options = {"padding": kernel // 2, "groups": x[-1], **options}
        return _conv("depthwise", label, x, x[-1], kernel, **options)

    yield row("depthwise-3x3", (8, 56, 56, 96), 3)
    yield row("depthwise-3x3", (1, 112, 112, 32), 3)
    yield row("depthwise-3x3", (64, 14, 14, 256), 3)
    yield row("depthwise-3x3", (8, 7, 7, 512), 3)
    yield row("depthwise-3x3", (8, 56, 56, 96), 3, dtype="bfloat16")
    yield row("depthwise-3x3-s2", (8, 28, 28, 192), 3, strides=2)
    yield row("depthwise-3x3-s2", (8, 112, 112, 64), 3, strides=2)
    yield row("depthwise-5x5", (8, 28, 28, 128), 5)
    yield row("depthwise-7x7", (8, 28, 28, 192), 7)
    yield row("depthwise-7x7", (8, 56, 56, 96), 7)
    yield row("depthwise-k31", (8, 512, 256), 31)
    yield row("depthwise-3x3x3", (2, 8, 28, 28, 64), 3)
    for x, features in [((8, 56, 56, 64), 128), ((8, 14, 14, 256), 256)]:
        yield _conv("depthwise", "separable-3x3", x, features, 3, op="separable", padding=1)


def _grouped() -> Iterator[Row]:
    for groups, x, dtype in [
        (2, (8, 28, 28, 128), "float32"),
        (2, (8, 14, 14, 256), "float32"),
        (4, (8, 28, 28, 128), "float32"),
        (16, (8, 14, 14, 256), "float32"),
        (32, (8, 28, 28, 128), "float32"),
        (32, (8, 14, 14, 256), "float32"),
        (32, (2, 14, 14, 256), "bfloat16"),
    ]:
        label = f"grouped-{groups}-3x3"
        yield _conv("grouped", label, x, x[-1], 3, dtype, groups=groups, padding=1)
    yield _conv(
        "grouped", "grouped-32-3x3-s2", (8, 28, 28, 256), 256, 3, groups=32, strides=2, padding=1
    )


def _transposed() -> Iterator[Row]:
    # SAME gives twice the size; an odd kernel has no SAME that all frameworks agree on.
    for kernel, x, features in [
        (2, (8, 28, 28, 64), 64),
        (3, (8, 28, 28, 64), 64),
        (4, (8, 28, 28, 64), 64),
        (4, (8, 7, 7, 256), 128),
        (4, (8, 32, 32, 64), 3),
        (2, (1, 64, 64, 64), 32),
    ]:
        how = {
            "op": "conv_transpose",
            "strides": 2,
            "padding": "SAME" if kernel % 2 == 0 else "VALID",
        }
        yield _conv("transposed", f"transposed-{kernel}x{kernel}-s2", x, features, kernel, **how)
    how = {"op": "conv_transpose", "strides": 2, "padding": "SAME"}
    yield _conv("transposed", "transposed-k4-s2", (8, 256, 64), 64, 4, **how)
    yield _conv("transposed", "transposed-2x2x2-s2", (1, 8, 16, 16, 32), 32, 2, **how)
    yield _conv("transposed", "transposed-4x4-s2", (8, 28, 28, 64), 64, 4, "bfloat16", **how)


def _conv_1d() -> Iterator[Row]:
    for label, x, features, kernel, options in [
        ("conv-k3", (8, 1024, 128), 128, 3, {"padding": 1}),
        ("conv-k3-d8", (8, 2048, 64), 64, 3, {"dilation": 8, "padding": 8}),
        ("conv-k5-s2", (8, 2048, 64), 128, 5, {"strides": 2, "padding": 2}),
        ("conv-k10-s5", (4, 16000, 1), 256, 10, {"strides": 5}),
        ("conv-k31", (8, 512, 128), 128, 31, {"padding": 15}),
        ("conv-k129", (8, 2048, 16), 16, 129, {"padding": 64}),
        ("conv-k400-s160", (4, 16000, 1), 80, 400, {"strides": 160}),
    ]:
        yield _conv("conv1d", label, x, features, kernel, **options)


def _conv_3d() -> Iterator[Row]:
    for label, x, features, kernel, options in [
        ("conv-3x3x3", (2, 16, 32, 32, 16), 32, 3, {"padding": 1}),
        ("conv-3x3x3", (1, 8, 14, 14, 128), 128, 3, {"padding": 1}),
        ("conv-3x3x3-s2", (2, 16, 32, 32, 32), 64, 3, {"strides": 2, "padding": 1}),
        ("conv-1x3x3", (2, 8, 28, 28, 64), 64, (1, 3, 3), {"padding": (0, 1, 1)}),
        ("conv-3x1x1", (2, 8, 28, 28, 64), 64, (3, 1, 1), {"padding": (1, 0, 0)}),
        (
            "conv-3x7x7-s122",
            (1, 8, 112, 112, 3),
            64,
            (3, 7, 7),
            {"strides": (1, 2, 2), "padding": (1, 3, 3)},
        ),
    ]:
        yield _conv("conv3d", label, x, features, kernel, **options)


def _pool() -> Iterator[Row]:
    for kind, label, x, window, options in [
        ("max", "2x2", (8, 56, 56, 64), 2, {}),
        ("max", "2x2", (64, 28, 28, 32), 2, {}),
        ("max", "3x3-s2", (8, 56, 56, 64), 3, {"strides": 2, "padding": 1}),
        ("max", "3x3-s2", (8, 112, 112, 64), 3, {"strides": 2, "padding": 1}),
        ("max", "3x3-s2-valid", (8, 35, 35, 192), 3, {"strides": 2}),
        ("max", "3x3-s1", (8, 28, 28, 192), 3, {"strides": 1, "padding": 1}),
        ("max", "k2", (8, 1024, 64), 2, {}),
        ("max", "2x2x2", (2, 16, 32, 32, 32), 2, {}),
        ("avg", "2x2", (8, 56, 56, 64), 2, {}),
        ("avg", "3x3-s1", (8, 56, 56, 64), 3, {"strides": 1, "padding": 1}),
        ("avg", "3x3-s2", (8, 56, 56, 64), 3, {"strides": 2, "padding": 1}),
        ("avg", "7x7", (64, 7, 7, 512), 7, {}),
    ]:
        name = f"{kind}-pool-{label}-{_shape(*x)}"
        yield Row(name, "pool", f"{kind}_pool", x, {"window": window, **options})
    for kind, options in [
        ("max", {"window": 2}),
        ("max", {"window": 3, "strides": 2, "padding": 1}),
    ]:
        x, label = (8, 56, 56, 64), "2x2" if options["window"] == 2 else "3x3-s2"
        name = f"{kind}-pool-{label}-{_shape(*x)}-bf16"
        yield Row(name, "pool", f"{kind}_pool", x, options, "bfloat16")


def _norm() -> Iterator[Row]:
    for op, x, options, dtype in [
        ("batch_norm", (8, 56, 56, 64), {}, "float32"),
        ("batch_norm", (64, 14, 14, 256), {}, "float32"),
        ("batch_norm", (64, 512), {}, "float32"),
        ("layer_norm", (64, 256, 512), {}, "float32"),
        ("layer_norm", (8, 128, 768), {}, "float32"),
        ("layer_norm", (8, 128, 768), {}, "bfloat16"),
        ("group_norm", (8, 28, 28, 128), {"groups": 32}, "float32"),
        ("group_norm", (8, 56, 56, 64), {"groups": 8}, "float32"),
        ("rms_norm", (64, 256, 512), {}, "float32"),
        ("rms_norm", (8, 128, 768), {}, "float32"),
        ("rms_norm", (8, 128, 768), {}, "bfloat16"),
    ]:
        groups = f"-{options['groups']}" if options else ""
        end = "-bf16" if dtype == "bfloat16" else ""
        name = f"{op.replace('_', '-')}{groups}-{_shape(*x)}{end}"
        yield Row(name, "norm", op, x, options, dtype)


def _recurrent() -> Iterator[Row]:
    sizes = [(1, 256, 64, 128), (32, 128, 128, 256), (64, 64, 256, 512), (128, 100, 64, 128)]
    plain = {"bidirectional": False, "layers": 1}
    for op in ("lstm", "gru", "simple_rnn"):
        for *x, features in sizes:
            name = f"{op.replace('_', '-')}-{_shape(*x, features)}"
            yield Row(name, "recurrent", op, tuple(x), {"features": features, **plain})
    for op in ("lstm", "gru"):
        for label, options in [
            ("bidirectional", {"bidirectional": True, "layers": 1}),
            ("2-layers", {"bidirectional": False, "layers": 2}),
        ]:
            name, x = f"{op}-{label}-32x128x128x256", (32, 128, 128)
            yield Row(name, "recurrent", op, x, {"features": 256, **options})
    bf16 = {"features": 256, **plain}
    yield Row("lstm-32x128x128x256-bf16", "recurrent", "lstm", (32, 128, 128), bf16, "bfloat16")


def _attention() -> Iterator[Row]:
    for batch, steps in [(16, 128), (4, 512), (2, 1024), (1, 2048)]:
        for causal in (True, False):
            x, label = (batch, steps, 8, 64), "causal" if causal else "full"
            name = f"attention-{label}-{_shape(*x)}"
            yield Row(name, "attention", "attention", x, {"causal": causal})
    x = (4, 512, 8, 64)
    name = f"attention-causal-{_shape(*x)}-bf16"
    yield Row(name, "attention", "attention", x, {"causal": True}, "bfloat16")


def _embedding() -> Iterator[Row]:
    for x, vocabulary, features in [((64, 256), 30_000, 256), ((32, 64), 1_000, 64)]:
        name = f"embedding-{vocabulary}x{features}-{_shape(*x)}"
        yield Row(
            name, "embedding", "embedding", x, {"vocabulary": vocabulary, "features": features}
        )


def _dropout() -> Iterator[Row]:
    for x in [(64, 256, 512), (128, 1024)]:
        yield Row(f"dropout-{_shape(*x)}", "dropout", "dropout", x, {"rate": 0.1})


_GROUPS = (
    _dense,
    _convs,
    _depthwise,
    _grouped,
    _transposed,
    _conv_1d,
    _conv_3d,
    _pool,
    _norm,
    _recurrent,
    _attention,
    _embedding,
    _dropout,
)
ROWS: dict[str, Row] = {row.name: row for group in _GROUPS for row in group()}
