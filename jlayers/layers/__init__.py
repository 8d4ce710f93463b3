"""Layers: thin pairs over ``jlayers.core``, one concept a file."""

from .activation.prelu import PReLU
from .activation.snake import Snake
from .attention.cross_attention import CrossAttention
from .attention.relative import ShawPositions, T5Bias
from .attention.self_attention import SelfAttention
from .conv.conv import Conv
from .conv.conv_transpose import ConvTranspose
from .linear.affine import Affine
from .linear.bilinear import Bilinear
from .linear.dense import Dense
from .linear.einsum import Einsum
from .linear.embedding import Embedding
from .linear.embedding_bag import EmbeddingBag
from .norm.batch_norm import BatchNorm
from .norm.batch_renorm import BatchRenorm
from .norm.data_norm import DataNorm
from .norm.film import FiLM
from .norm.filter_response_norm import FilterResponseNorm
from .norm.group_norm import GroupNorm
from .norm.instance_norm import InstanceNorm
from .norm.layer_norm import LayerNorm
from .norm.local_response_norm import LocalResponseNorm
from .norm.rms_norm import RMSNorm
from .norm.unit_norm import UnitNorm
from .pooling.avg_pool import AvgPool
from .pooling.global_avg_pool import GlobalAvgPool
from .pooling.global_max_pool import GlobalMaxPool
from .pooling.lp_pool import LpPool
from .pooling.max_pool import MaxPool
from .pooling.min_pool import MinPool
from .pooling.sum_pool import SumPool
from .position.position_embedding import PositionEmbedding
from .position.sinusoidal_positions import SinusoidalPositions
from .recurrent.cell import Cell
from .recurrent.conv_gru import ConvGRU, ConvGRUCell
from .recurrent.conv_lstm import ConvLSTM, ConvLSTMCell
from .recurrent.gated_delta_net import GatedDeltaNet, GatedDeltaNetCell
from .recurrent.gru import GRU, GRUCell
from .recurrent.ind_rnn import IndRNN, IndRNNCell
from .recurrent.linear_attention import LinearAttention, LinearAttentionCell
from .recurrent.linear_recurrence import LinearRecurrence, LinearRecurrenceCell
from .recurrent.lstm import LSTM, LSTMCell
from .recurrent.mamba import Mamba, MambaCell
from .recurrent.mamba2 import Mamba2, Mamba2Cell
from .recurrent.mgu import MGU, MGUCell
from .recurrent.min_gru import MinGRU, MinGRUCell
from .recurrent.min_lstm import MinLSTM, MinLSTMCell
from .recurrent.mlstm import MLSTM, MLSTMCell
from .recurrent.qrnn import QRNN, QRNNCell
from .recurrent.rnn import RNN
from .recurrent.s5 import S5, S5Cell
from .recurrent.selective_ssm import SelectiveSSM, SelectiveSSMCell
from .recurrent.simple_rnn import SimpleRNN, SimpleRNNCell
from .recurrent.slstm import SLSTM, SLSTMCell
from .recurrent.sru import SRU, SRUCell
from .regularization.activity_penalty import ActivityPenalty
from .regularization.alpha_dropout import AlphaDropout
from .regularization.drop_block import DropBlock
from .regularization.dropout import Dropout
from .regularization.gaussian_dropout import GaussianDropout
from .regularization.gaussian_noise import GaussianNoise
from .regularization.spatial_dropout import SpatialDropout
from .regularization.stochastic_depth import StochasticDepth
from .resampling.channel_shuffle import ChannelShuffle
from .resampling.pixel_shuffle import PixelShuffle
from .resampling.pixel_unshuffle import PixelUnshuffle
from .resampling.resize import Resize
from .shape.crop import Crop
from .shape.flatten import Flatten
from .shape.pad import Pad
from .shape.rearrange import Rearrange
from .shape.reshape import Reshape

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
    "ActivityPenalty",
    "Affine",
    "AlphaDropout",
    "AvgPool",
    "BatchNorm",
    "BatchRenorm",
    "Bilinear",
    "Cell",
    "ChannelShuffle",
    "Conv",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvTranspose",
    "Crop",
    "CrossAttention",
    "DataNorm",
    "Dense",
    "DropBlock",
    "Dropout",
    "Einsum",
    "Embedding",
    "EmbeddingBag",
    "FiLM",
    "FilterResponseNorm",
    "Flatten",
    "GRUCell",
    "GatedDeltaNet",
    "GatedDeltaNetCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "IndRNN",
    "IndRNNCell",
    "InstanceNorm",
    "LSTMCell",
    "LayerNorm",
    "LinearAttention",
    "LinearAttentionCell",
    "LinearRecurrence",
    "LinearRecurrenceCell",
    "LocalResponseNorm",
    "LpPool",
    "MGUCell",
    "MLSTMCell",
    "Mamba",
    "Mamba2",
    "Mamba2Cell",
    "MambaCell",
    "MaxPool",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "MinPool",
    "PReLU",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "PositionEmbedding",
    "QRNNCell",
    "RMSNorm",
    "Rearrange",
    "Reshape",
    "Resize",
    "S5Cell",
    "SLSTMCell",
    "SRUCell",
    "SelectiveSSM",
    "SelectiveSSMCell",
    "SelfAttention",
    "ShawPositions",
    "SimpleRNN",
    "SimpleRNNCell",
    "SinusoidalPositions",
    "Snake",
    "SpatialDropout",
    "StochasticDepth",
    "SumPool",
    "T5Bias",
    "UnitNorm",
]
