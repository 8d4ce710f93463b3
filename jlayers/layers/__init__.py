"""Layers: thin pairs over ``jlayers.core``, one concept a file."""

from .attention.cross_attention import CrossAttention
from .attention.self_attention import SelfAttention
from .conv.conv import Conv
from .conv.conv_transpose import ConvTranspose
from .linear.dense import Dense
from .linear.embedding import Embedding
from .norm.batch_norm import BatchNorm
from .norm.group_norm import GroupNorm
from .norm.layer_norm import LayerNorm
from .norm.rms_norm import RMSNorm
from .pooling.pooling import (
    AvgPool,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
)
from .recurrent.conv_lstm import ConvLSTM
from .recurrent.gru import GRU
from .recurrent.linear_recurrence import LinearRecurrence
from .recurrent.lstm import LSTM
from .recurrent.min_gru import MinGRU
from .recurrent.simple_rnn import SimpleRNN
from .regularization.dropout import Dropout
from .shape.shape import Flatten, Reshape

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
