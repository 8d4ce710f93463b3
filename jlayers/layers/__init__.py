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
from .pooling.adaptive_avg_pool import AdaptiveAvgPool
from .pooling.adaptive_max_pool import AdaptiveMaxPool
from .pooling.attention_pool import AttentionPool
from .pooling.avg_pool import AvgPool
from .pooling.blur_pool import BlurPool
from .pooling.fractional_max_pool import FractionalMaxPool
from .pooling.global_avg_pool import GlobalAvgPool
from .pooling.global_max_pool import GlobalMaxPool
from .pooling.global_min_pool import GlobalMinPool
from .pooling.global_sum_pool import GlobalSumPool
from .pooling.lp_pool import LpPool
from .pooling.max_pool import MaxPool
from .pooling.max_unpool import MaxUnpool
from .pooling.min_pool import MinPool
from .pooling.pool import Pool
from .pooling.sum_pool import SumPool
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
from .regularization.activity_penalty import ActivityPenalty
from .regularization.alpha_dropout import AlphaDropout
from .regularization.drop_block import DropBlock
from .regularization.dropout import Dropout
from .regularization.gaussian_dropout import GaussianDropout
from .regularization.gaussian_noise import GaussianNoise
from .regularization.spatial_dropout import SpatialDropout
from .regularization.stochastic_depth import StochasticDepth
from .resampling.channel_shuffle import ChannelShuffle
from .resampling.grid_sample import GridSample
from .resampling.pixel_shuffle import PixelShuffle
from .resampling.pixel_unshuffle import PixelUnshuffle
from .resampling.resize import Resize
from .resampling.roi_align import RoIAlign
from .shape.crop import Crop
from .shape.flatten import Flatten
from .shape.pad import Pad
from .shape.rearrange import Rearrange
from .shape.reshape import Reshape

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ActivityPenalty",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "Affine",
    "AlphaDropout",
    "AttentionPool",
    "AvgPool",
    "BatchNorm",
    "BatchRenorm",
    "Bilinear",
    "BlurPool",
    "Cell",
    "ChannelShuffle",
    "Conv",
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
    "FractionalMaxPool",
    "GRUCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalMinPool",
    "GlobalSumPool",
    "GridSample",
    "GroupNorm",
    "InstanceNorm",
    "LSTMCell",
    "LayerNorm",
    "LinearRecurrence",
    "LinearRecurrenceCell",
    "LocalResponseNorm",
    "LpPool",
    "MaxPool",
    "MaxUnpool",
    "MinGRU",
    "MinGRUCell",
    "MinPool",
    "PReLU",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Pool",
    "PositionEmbedding",
    "RMSNorm",
    "Rearrange",
    "Reshape",
    "Resize",
    "RoIAlign",
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
