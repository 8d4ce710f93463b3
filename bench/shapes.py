"""Random shapes of each kind of operation, as its users have them.

What is drawn, sizes evenly on a logarithmic scale:

* dense: 1 to 512 rows, or 1 to 16 sequences of 16 to 512 steps; from 16 to 2,048 features to
  10 to 4,096.
* conv: 1 to 32 images of 7 to 128 pixels, 3 to 512 channels to 8 to 512, kernels of 1 to 7,
  strides of 1 or 2, dilation in one of eight; padded to keep the size.
* depthwise: 16 to 512 channels, kernels of 3 to 7. grouped: 2 to 32 groups of 4 to 64 channels.
* transposed: 1 to 16 images of 4 to 64 pixels, kernels of 2 to 4, strides of 2.
* conv1d: 64 to 8,192 steps, kernels of 2 to 31. conv3d: 4 to 16 frames of 7 to 56 pixels.
* pool: maximum and mean, windows of 2 or 3, strides of 1 up to the window.
* norm: batch, layer, group and RMS; 4 to 128 rows of images or sequences, 16 to 1,024 features.
* recurrent: LSTM and GRU, batches of 4 to 256, 30 to 400 steps, 16 to 320 features to 48 to 320.
* attention: causal or not, 1 to 16 sequences of 32 to 2,048 steps, 1 to 16 heads of 32, 64 or 128.
* embedding: 100 to 50,000 vectors of 16 to 1,024 features. dropout: up to 16 million values.

A shape that needs more than ``MOST_FLOPS`` or ``MOST_VALUES`` is drawn again.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .ops import OPS
from .row import Row

MOST_FLOPS = 20e9  # of one forward pass: a tenth of a second on two cores
MOST_VALUES = 16e6  # of the input, and of the output
Drawn = tuple[str, tuple[int, ...], dict[str, Any]]  # operation, shape of the input, options
Draw = Callable[[np.random.Generator], Drawn]


def _log(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number between two, each factor equally likely."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def _even(rng: np.random.Generator, low: int, high: int) -> int:
    """The same as a multiple of 8, or of 4 where it is small, as most channels are."""
    value = _log(rng, low, high)
    step = 8 if value >= 16 else 4 if value >= 4 else 1
    return max(value // step * step, low)


def _one_of(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _kept(kernel: int, strides: int = 1, dilation: int = 1, **options: Any) -> dict[str, Any]:
    """The options of a convolution whose padding keeps the size."""
    shape = {"kernel": kernel, "strides": strides, "dilation": dilation}
    return {**shape, "padding": dilation * (kernel - 1) // 2, **options}


def _dense(rng: np.random.Generator) -> Drawn:
    many = rng.random() < 0.5
    rows = (_log(rng, 1, 16), _log(rng, 16, 512)) if many else (_log(rng, 1, 512),)
    return "dense", (*rows, _even(rng, 16, 2048)), {"features": _log(rng, 10, 4096)}


def _conv(rng: np.random.Generator) -> Drawn:
    size, kernel = _log(rng, 7, 128), _one_of(rng, 1, 3, 3, 3, 5, 7)
    strides = _one_of(rng, 1, 1, 1, 2)
    dilation = 2 if kernel > 1 and strides == 1 and rng.random() < 1 / 8 else 1
    x = (_log(rng, 1, 32), size, size, _even(rng, 3, 512))
    return "conv", x, _kept(kernel, strides, dilation, features=_even(rng, 8, 512))


def _depthwise(rng: np.random.Generator) -> Drawn:
    size, channels = _log(rng, 7, 112), _even(rng, 16, 512)
    options = _kept(_one_of(rng, 3, 3, 5, 7), _one_of(rng, 1, 1, 2))
    x = (_log(rng, 1, 32), size, size, channels)
    return "conv", x, {**options, "features": channels, "groups": channels}


def _grouped(rng: np.random.Generator) -> Drawn:
    size, groups = _log(rng, 7, 56), _one_of(rng, 2, 4, 8, 16, 32)
    channels, features = (groups * _even(rng, 4, 64) for _ in range(2))
    options = _kept(3, _one_of(rng, 1, 1, 2))
    x = (_log(rng, 1, 16), size, size, channels)
    return "conv", x, {**options, "features": features, "groups": groups}


def _transposed(rng: np.random.Generator) -> Drawn:
    size, kernel = _log(rng, 4, 64), _one_of(rng, 2, 3, 4)
    # As in the table of rows: an odd kernel has no SAME that all frameworks agree on.
    padding = "VALID" if kernel % 2 else "SAME"
    options = {"kernel": kernel, "strides": 2, "padding": padding}
    x = (_log(rng, 1, 16), size, size, _even(rng, 8, 256))
    return "conv_transpose", x, {**options, "features": _even(rng, 3, 256)}


def _conv1d(rng: np.random.Generator) -> Drawn:
    kernel, strides = _one_of(rng, 2, 3, 5, 7, 15, 31), _one_of(rng, 1, 1, 2)
    options = _kept(kernel, strides) if kernel % 2 else {"kernel": kernel, "strides": strides}
    x = (_log(rng, 1, 32), _log(rng, 64, 8192), _even(rng, 4, 256))
    return "conv", x, {**options, "features": _even(rng, 8, 256)}


def _conv3d(rng: np.random.Generator) -> Drawn:
    size = _log(rng, 7, 56)
    x = (_log(rng, 1, 4), _log(rng, 4, 16), size, size, _even(rng, 4, 128))
    return "conv", x, _kept(3, _one_of(rng, 1, 1, 2), features=_even(rng, 8, 128))


def _pool(rng: np.random.Generator) -> Drawn:
    size, window = _log(rng, 7, 112), _one_of(rng, 2, 3)
    options = {"window": window, "strides": _one_of(rng, *range(1, window + 1))}
    if window == 3 and rng.random() < 0.5:
        options["padding"] = 1
    x = (_log(rng, 1, 32), size, size, _even(rng, 8, 512))
    return _one_of(rng, "max_pool", "avg_pool"), x, options


def _norm(rng: np.random.Generator) -> Drawn:
    op = _one_of(rng, "batch_norm", "layer_norm", "group_norm", "rms_norm")
    features, size = _even(rng, 16, 1024), _log(rng, 4, 64)
    image = op in ("batch_norm", "group_norm")
    space = (size, size) if image else (_log(rng, 16, 1024),)
    if op != "group_norm":
        return op, (_log(rng, 4, 128), *space, features), {}
    groups = _one_of(rng, 4, 8)
    return op, (_log(rng, 4, 128), *space, features), {"groups": groups}


def _recurrent(rng: np.random.Generator) -> Drawn:
    x = (_log(rng, 4, 256), _log(rng, 30, 400), _log(rng, 16, 320))
    options = {"features": _log(rng, 48, 320), "bidirectional": False, "layers": 1}
    return _one_of(rng, "lstm", "gru"), x, options


def _attention(rng: np.random.Generator) -> Drawn:
    heads, size = _log(rng, 1, 16), _one_of(rng, 32, 64, 64, 128)
    x = (_log(rng, 1, 16), _log(rng, 32, 2048), heads, size)
    return "attention", x, {"causal": bool(rng.random() < 0.5)}


def _embedding(rng: np.random.Generator) -> Drawn:
    options = {"vocabulary": _log(rng, 100, 50_000), "features": _even(rng, 16, 1024)}
    return "embedding", (_log(rng, 1, 128), _log(rng, 16, 1024)), options


def _dropout(rng: np.random.Generator) -> Drawn:
    return "dropout", (_log(rng, 8, 16_384), _log(rng, 16, 1024)), {"rate": 0.1}


KINDS: dict[str, Draw] = {
    "dense": _dense,
    "conv": _conv,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "transposed": _transposed,
    "conv1d": _conv1d,
    "conv3d": _conv3d,
    "pool": _pool,
    "norm": _norm,
    "recurrent": _recurrent,
    "attention": _attention,
    "embedding": _embedding,
    "dropout": _dropout,
}


def random_rows(kind: str, seed: int) -> Iterator[Row]:
    """Rows of a kind without end, the same for the same seed."""
    rng = np.random.default_rng([seed, *kind.encode()])
    while True:
        op, x, options = KINDS[kind](rng)
        row = Row(_name(op, x, options), kind, op, x, options)
        if _affordable(row):
            yield row


def _name(op: str, x: tuple[int, ...], options: dict[str, Any]) -> str:
    usual = {"strides": 1, "dilation": 1, "padding": 0, "bidirectional": False, "layers": 1}
    own = [f"{name}={value}" for name, value in options.items() if usual.get(name) != value]
    return " ".join([op, "x".join(map(str, x)), *own])


def _affordable(row: Row) -> bool:
    values = math.prod(row.x)
    if row.op == "attention":
        # The scores, which peers and the reference store.
        batch, steps, heads, _ = row.x
        values = max(values, batch * heads * steps**2)
    if row.op in ("conv", "conv_transpose"):
        strides = row.options.get("strides", 1) ** (len(row.x) - 2)
        grown = strides if row.op == "conv_transpose" else 1 / strides
        values = max(values, int(values / row.x[-1] * row["features"] * grown))
    elif "features" in row.options:
        values = max(
            values, math.prod(row.x[: 2 if row.op == "embedding" else -1]) * row["features"]
        )
    return values <= MOST_VALUES and OPS[row.op].flops(row) <= MOST_FLOPS
