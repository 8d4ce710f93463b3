"""Layers: thin pairs over ``jlayers.core``, one concept a file."""

from .batch_norm import BatchNorm
from .conv import Conv
from .conv_lstm import ConvLSTM
from .conv_transpose import ConvTranspose
from .cross_attention import CrossAttention
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .group_norm import GroupNorm
from .gru import GRU
from .layer_norm import LayerNorm
from .linear_recurrence import LinearRecurrence
from .lstm import LSTM
from .min_gru import MinGRU
from .pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from .rms_norm import RMSNorm
from .self_attention import SelfAttention
from .shape import Flatten, Reshape
from .simple_rnn import SimpleRNN

__all__ = [
    "GRU",
    "LSTM",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvLSTM",
    "ConvTranspose",
    "CrossAttention",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "LayerNorm",
    "LinearRecurrence",
    "MaxPool",
    "MinGRU",
    "RMSNorm",
    "Reshape",
    "SelfAttention",
    "SimpleRNN",
]
