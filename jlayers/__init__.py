"""jlayers: optax for layers. Pure ``init``/``apply`` pairs, and combinators that join them.

The names below are what ``import jlayers as jl`` offers. The subpackages ``jl.training``,
``jl.decoding``, ``jl.transforms``, ``jl.checkpoint``, ``jl.data``, ``jl.records`` and
``jl.testing`` are imported at their first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import core, inspection
from .base.adapters import Pair, out_spec, without_state
from .base.constructors import lift, on_sequence, stateless
from .base.errors import (
    CheckpointError,
    DataError,
    InteropError,
    JlayersError,
    LayerError,
    ProcessError,
    TrainingError,
)
from .base.factory import factory
from .base.layer import Layer
from .base.parameters import ParamSpec
from .base.paths import combine, flatten, partition, select, unflatten
from .base.receptive_field import ReceptiveField
from .base.scope import Scope
from .base.sequence import Sequence
from .base.sequence_mode import SequenceMode
from .base.specs import spec
from .base.step_pair import StepPair
from .combinators.capture import capture
from .combinators.carried import carried
from .combinators.compose import compose
from .combinators.drop_connect import drop_connect
from .combinators.merge import (
    add,
    average,
    concat,
    maximum,
    minimum,
    multiply,
    residual,
)
from .combinators.mixture_of_experts import MixtureOfExperts
from .combinators.modes import inference, with_losses
from .combinators.once import once
from .combinators.orthogonalize import orthogonalize_weights
from .combinators.perturb import patch, perturb
from .combinators.pipeline import pipeline
from .combinators.plain import plain
from .combinators.serial import branch, parallel, serial
from .combinators.spectral_norm import spectral_norm
from .combinators.stack import ensemble, remat, repeat
from .combinators.standardize import standardize_weights
from .combinators.tied import tied
from .combinators.time import bidirectional, each_step
from .combinators.transformer import TransformerBlock, TransformerDecoderBlock
from .combinators.weight_norm import weight_norm
from .core.attention.rope_scaling import LinearScaling, Llama3Scaling, NTKScaling, YarnScaling
from .core.attention.rotary import Rope
from .core.compiler import compiler_options
from .inspection.explain import Decision, Explanation, explain
from .inspection.flops import flops
from .inspection.parameters import parameters, variables
from .inspection.rewriting import rewrite
from .inspection.selectors import select_layers
from .inspection.summary import Summary, summary
from .inspection.traverse import walk
from .layers import (
    GRU,
    LSTM,
    MGU,
    MLSTM,
    QRNN,
    RNN,
    S5,
    SLSTM,
    SRU,
    STFT,
    ActivityPenalty,
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AdditiveAttention,
    Affine,
    AlphaDropout,
    AttentionPool,
    AvgPool,
    BatchNorm,
    BatchRenorm,
    Bilinear,
    BiquadFilter,
    BlurPool,
    Cell,
    ChannelShuffle,
    Conv,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    ConvTranspose,
    Crop,
    CrossAttention,
    DataNorm,
    DeformableConv,
    Delay,
    Dense,
    Downsample,
    DropBlock,
    Dropout,
    Einsum,
    Embedding,
    EmbeddingBag,
    FiLM,
    FilterResponseNorm,
    FIRFilter,
    Flatten,
    Fold,
    FractionalMaxPool,
    Frame,
    GatedDeltaNet,
    GatedDeltaNetCell,
    GaussianDropout,
    GaussianNoise,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalMinPool,
    GlobalSumPool,
    GMMAttention,
    Graph,
    GraphAttention,
    GraphConv,
    GraphPool,
    GridSample,
    GroupNorm,
    GRUCell,
    IIRFilter,
    IndRNN,
    IndRNNCell,
    InstanceNorm,
    InverseSTFT,
    LatentAttention,
    LayerNorm,
    LinearAttention,
    LinearAttentionCell,
    LinearRecurrence,
    LinearRecurrenceCell,
    LocalConv,
    LocalResponseNorm,
    Lookahead,
    LpPool,
    LSTMCell,
    Mamba,
    Mamba2,
    Mamba2Cell,
    MambaCell,
    MaxPool,
    MaxUnpool,
    MelSpectrogram,
    MessagePassing,
    MGUCell,
    MinGRU,
    MinGRUCell,
    MinLSTM,
    MinLSTMCell,
    MinPool,
    MLSTMCell,
    OverlapAdd,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Pool,
    PositionEmbedding,
    PReLU,
    QRNNCell,
    Rearrange,
    Resample,
    Reshape,
    Resize,
    RMSNorm,
    RoIAlign,
    RReLU,
    S5Cell,
    SelectiveSSM,
    SelectiveSSMCell,
    SelfAttention,
    ShawPositions,
    SimpleRNN,
    SimpleRNNCell,
    SinusoidalPositions,
    SLSTMCell,
    Snake,
    SpatialDropout,
    SRUCell,
    StochasticDepth,
    SumPool,
    T5Bias,
    TransformerXLPositions,
    Unfold,
    UnitNorm,
    VectorQuantizer,
    on_nodes,
)
from .sequences.streaming import causal, receptive_field, stream

if TYPE_CHECKING:
    from . import checkpoint as checkpoint
    from . import data as data
    from . import decoding as decoding
    from . import records as records
    from . import testing as testing
    from . import training as training
    from . import transforms as transforms
    from .inspection.drawing.picture import Picture, picture
    from .inspection.model_diff import ModelDiff, diff
    from .inspection.transfer_report import TransferReport
    from .inspection.transferring import Transfer, transfer

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "MLSTM",
    "QRNN",
    "RNN",
    "S5",
    "SLSTM",
    "SRU",
    "STFT",
    "ActivityPenalty",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AdditiveAttention",
    "Affine",
    "AlphaDropout",
    "AttentionPool",
    "AvgPool",
    "BatchNorm",
    "BatchRenorm",
    "Bilinear",
    "BiquadFilter",
    "BlurPool",
    "Cell",
    "ChannelShuffle",
    "CheckpointError",
    "Conv",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvTranspose",
    "Crop",
    "CrossAttention",
    "DataError",
    "DataNorm",
    "Decision",
    "DeformableConv",
    "Delay",
    "Dense",
    "Downsample",
    "DropBlock",
    "Dropout",
    "Einsum",
    "Embedding",
    "EmbeddingBag",
    "Explanation",
    "FIRFilter",
    "FiLM",
    "FilterResponseNorm",
    "Flatten",
    "Fold",
    "FractionalMaxPool",
    "Frame",
    "GMMAttention",
    "GRUCell",
    "GatedDeltaNet",
    "GatedDeltaNetCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalMinPool",
    "GlobalSumPool",
    "Graph",
    "GraphAttention",
    "GraphConv",
    "GraphPool",
    "GridSample",
    "GroupNorm",
    "IIRFilter",
    "IndRNN",
    "IndRNNCell",
    "InstanceNorm",
    "InteropError",
    "InverseSTFT",
    "JlayersError",
    "LSTMCell",
    "LatentAttention",
    "Layer",
    "LayerError",
    "LayerNorm",
    "LinearAttention",
    "LinearAttentionCell",
    "LinearRecurrence",
    "LinearRecurrenceCell",
    "LinearScaling",
    "Llama3Scaling",
    "LocalConv",
    "LocalResponseNorm",
    "Lookahead",
    "LpPool",
    "MGUCell",
    "MLSTMCell",
    "Mamba",
    "Mamba2",
    "Mamba2Cell",
    "MambaCell",
    "MaxPool",
    "MaxUnpool",
    "MelSpectrogram",
    "MessagePassing",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "MinPool",
    "MixtureOfExperts",
    "ModelDiff",
    "NTKScaling",
    "OverlapAdd",
    "PReLU",
    "Pad",
    "Pair",
    "ParamSpec",
    "Picture",
    "PixelShuffle",
    "PixelUnshuffle",
    "Pool",
    "PositionEmbedding",
    "ProcessError",
    "QRNNCell",
    "RMSNorm",
    "RReLU",
    "Rearrange",
    "ReceptiveField",
    "Resample",
    "Reshape",
    "Resize",
    "RoIAlign",
    "Rope",
    "S5Cell",
    "SLSTMCell",
    "SRUCell",
    "Scope",
    "SelectiveSSM",
    "SelectiveSSMCell",
    "SelfAttention",
    "Sequence",
    "SequenceMode",
    "ShawPositions",
    "SimpleRNN",
    "SimpleRNNCell",
    "SinusoidalPositions",
    "Snake",
    "SpatialDropout",
    "StepPair",
    "StochasticDepth",
    "SumPool",
    "Summary",
    "T5Bias",
    "TrainingError",
    "Transfer",
    "TransferReport",
    "TransformerBlock",
    "TransformerDecoderBlock",
    "TransformerXLPositions",
    "Unfold",
    "UnitNorm",
    "VectorQuantizer",
    "YarnScaling",
    "add",
    "average",
    "bidirectional",
    "branch",
    "capture",
    "carried",
    "causal",
    "combine",
    "compiler_options",
    "compose",
    "concat",
    "core",
    "diff",
    "drop_connect",
    "each_step",
    "ensemble",
    "explain",
    "factory",
    "flatten",
    "flops",
    "inference",
    "inspection",
    "lift",
    "maximum",
    "minimum",
    "multiply",
    "on_nodes",
    "on_sequence",
    "once",
    "orthogonalize_weights",
    "out_spec",
    "parallel",
    "parameters",
    "partition",
    "patch",
    "perturb",
    "picture",
    "pipeline",
    "plain",
    "receptive_field",
    "remat",
    "repeat",
    "residual",
    "rewrite",
    "select",
    "select_layers",
    "serial",
    "spec",
    "spectral_norm",
    "standardize_weights",
    "stateless",
    "stream",
    "summary",
    "tied",
    "transfer",
    "unflatten",
    "variables",
    "walk",
    "weight_norm",
    "with_losses",
    "without_state",
]

# Of ``export``, which is imported at the first use of one of them.
_FROM_EXPORT = ("load_model", "save_model")
# Of ``inspection``, which imports them at their first use.
_FROM_INSPECTION = (
    "ModelDiff",
    "Picture",
    "Transfer",
    "TransferReport",
    "diff",
    "picture",
    "transfer",
)
_LAZY = (
    "checkpoint",
    "data",
    "decoding",
    "export",
    "interop",
    "losses",
    "metrics",
    "models",
    "records",
    "sharding",
    "sklearn",
    "testing",
    "training",
    "transforms",
)

# Python binds every imported subpackage to a name of its parent. These are internal, and have
# no place beside the layers. ``from jlayers.base... import`` still finds them in ``sys.modules``.
for _name in ("base", "combinators", "layers", "sequences"):
    del globals()[_name]
del _name


if not TYPE_CHECKING:  # mypy shall not take every name for one that exists

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            import importlib

            return importlib.import_module(f"{__name__}.{name}")
        if name in _FROM_INSPECTION:
            return getattr(inspection, name)
        if name in _FROM_EXPORT:
            from . import export

            return getattr(export, name)
        from .base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __dir__(), ("inspection", *_LAZY))


def __dir__() -> list[str]:
    return sorted([*__all__, *_FROM_EXPORT, *_LAZY, "__version__"])
