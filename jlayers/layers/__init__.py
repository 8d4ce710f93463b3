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
from .pooling.avg_pool import AvgPool
from .pooling.global_avg_pool import GlobalAvgPool
from .pooling.global_max_pool import GlobalMaxPool
from .pooling.max_pool import MaxPool
from .position.position_embedding import PositionEmbedding
from .position.sinusoidal_positions import SinusoidalPositions
from .recurrent.cell import Cell
from .recurrent.conv_lstm import ConvLSTM, ConvLSTMCell
from .recurrent.gru import GRU, GRUCell
from .recurrent.linear_recurrence import LinearRecurrence, LinearRecurrenceCell
from .recurrent.lstm import LSTM, LSTMCell
from .recurrent.min_gru import MinGRU, MinGRUCell
from .recurrent.rnn import RNN
from .recurrent.simple_rnn import SimpleRNN, SimpleRNNCell
from .regularization.dropout import Dropout
from .shape.flatten import Flatten
from .shape.reshape import Reshape

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool",
    "BatchNorm",
    "Cell",
    "Conv",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvTranspose",
    "CrossAttention",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "LSTMCell",
    "LayerNorm",
    "LinearRecurrence",
    "LinearRecurrenceCell",
    "MaxPool",
    "MinGRU",
    "MinGRUCell",
    "PositionEmbedding",
    "RMSNorm",
    "Reshape",
    "SelfAttention",
    "SimpleRNN",
    "SimpleRNNCell",
    "SinusoidalPositions",
]
