"""Layers: thin pairs over ``jlayers.core``, one concept a file."""

from .batch_norm import BatchNorm
from .conv import Conv
from .conv_transpose import ConvTranspose
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .group_norm import GroupNorm
from .gru import GRU
from .layer_norm import LayerNorm
from .lstm import LSTM
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
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "LayerNorm",
    "MaxPool",
    "RMSNorm",
    "Reshape",
    "SelfAttention",
    "SimpleRNN",
]
