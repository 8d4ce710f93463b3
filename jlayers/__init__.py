"""jlayers: optax for layers. Pure ``init``/``apply`` pairs, and combinators that join them."""

from . import core
from .combinators import (
    add,
    average,
    bidirectional,
    branch,
    concat,
    each_step,
    maximum,
    minimum,
    multiply,
    parallel,
    residual,
    serial,
)
from .compose import Namespace, compose
from .cost import flops
from .errors import LayerError
from .layer import Layer, Pair, factory, lift, stateless, without_state
from .layers import (
    GRU,
    LSTM,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    LayerNorm,
    MaxPool,
    Reshape,
    SimpleRNN,
)
from .paths import flatten, rewrite, select, unflatten, walk
from .specs import spec
from .summary import Summary, summary
from .trace import out_spec
from .wrappers import ensemble, remat, repeat

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Layer",
    "LayerError",
    "LayerNorm",
    "MaxPool",
    "Namespace",
    "Pair",
    "Reshape",
    "SimpleRNN",
    "Summary",
    "add",
    "average",
    "bidirectional",
    "branch",
    "compose",
    "concat",
    "core",
    "each_step",
    "ensemble",
    "factory",
    "flatten",
    "flops",
    "lift",
    "maximum",
    "minimum",
    "multiply",
    "out_spec",
    "parallel",
    "remat",
    "repeat",
    "residual",
    "rewrite",
    "select",
    "serial",
    "spec",
    "stateless",
    "summary",
    "unflatten",
    "walk",
    "without_state",
]
