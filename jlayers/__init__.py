"""jlayers: optax for layers. Pure ``init``/``apply`` pairs, and combinators that join them."""

from . import core
from .base.constructors import (
    Pair,
    lift,
    on_sequence,
    out_spec,
    stateless,
    without_state,
)
from .base.errors import CheckpointError, DataError, JlayersError, LayerError, TrainingError
from .base.factory import factory
from .base.layer import Layer
from .base.paths import (
    flatten,
    rewrite,
    select,
    unflatten,
    walk,
)
from .base.receptive_field import ReceptiveField
from .base.scope import Scope
from .base.sequence import Sequence
from .base.sequence_mode import SequenceMode
from .base.specs import spec
from .base.step_pair import StepPair
from .combinators.compose import compose
from .combinators.merge import (
    add,
    average,
    concat,
    maximum,
    minimum,
    multiply,
    residual,
)
from .combinators.serial import branch, parallel, serial
from .combinators.stack import ensemble, remat, repeat
from .combinators.time import bidirectional, each_step
from .inspection.explain import Decision, Explanation, explain
from .inspection.flops import flops
from .inspection.summary import Summary, summary
from .layers import (
    GRU,
    LSTM,
    AvgPool,
    BatchNorm,
    Conv,
    ConvLSTM,
    ConvTranspose,
    CrossAttention,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    LinearRecurrence,
    MaxPool,
    MinGRU,
    Reshape,
    RMSNorm,
    SelfAttention,
    SimpleRNN,
)
from .sequences.streaming import causal, receptive_field, stream

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "AvgPool",
    "BatchNorm",
    "CheckpointError",
    "Conv",
    "ConvLSTM",
    "ConvTranspose",
    "CrossAttention",
    "DataError",
    "Decision",
    "Dense",
    "Dropout",
    "Embedding",
    "Explanation",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "JlayersError",
    "Layer",
    "LayerError",
    "LayerNorm",
    "LinearRecurrence",
    "MaxPool",
    "MinGRU",
    "Pair",
    "RMSNorm",
    "ReceptiveField",
    "Reshape",
    "Scope",
    "SelfAttention",
    "Sequence",
    "SequenceMode",
    "SimpleRNN",
    "StepPair",
    "Summary",
    "TrainingError",
    "add",
    "average",
    "bidirectional",
    "branch",
    "causal",
    "compose",
    "concat",
    "core",
    "each_step",
    "ensemble",
    "explain",
    "factory",
    "flatten",
    "flops",
    "lift",
    "maximum",
    "minimum",
    "multiply",
    "on_sequence",
    "out_spec",
    "parallel",
    "receptive_field",
    "remat",
    "repeat",
    "residual",
    "rewrite",
    "select",
    "serial",
    "spec",
    "stateless",
    "stream",
    "summary",
    "unflatten",
    "walk",
    "without_state",
]
