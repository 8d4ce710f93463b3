"""Layers: thin pairs over ``jlayers.core``, one concept a file."""

from .activation.prelu import PReLU
from .activation.rrelu import RReLU
from .activation.snake import Snake
from .attention.additive_attention import AdditiveAttention
from .attention.cross_attention import CrossAttention
from .attention.gmm_attention import GMMAttention
from .attention.latent_attention import LatentAttention
from .attention.relative import ShawPositions, T5Bias, TransformerXLPositions
from .attention.self_attention import SelfAttention
from .conv.conv import Conv
from .conv.conv_transpose import ConvTranspose
from .conv.deformable_conv import DeformableConv
from .conv.fold import Fold
from .conv.local_conv import LocalConv
from .conv.unfold import Unfold
from .graph.graph import Graph
from .graph.graph_attention import GraphAttention
from .graph.graph_conv import GraphConv
from .graph.graph_pool import GraphPool
from .graph.message_passing import MessagePassing
from .graph.on_nodes import on_nodes
from .linear.affine import Affine
from .linear.bilinear import Bilinear
from .linear.dense import Dense
from .linear.einsum import Einsum
from .linear.embedding import Embedding
from .linear.embedding_bag import EmbeddingBag
from .linear.vector_quantizer import VectorQuantizer
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
from .signal.delay import Delay
from .signal.downsample import Downsample
from .signal.fir_filter import FIRFilter
from .signal.frame import Frame
from .signal.iir_filter import BiquadFilter, IIRFilter
from .signal.inverse_stft import InverseSTFT
from .signal.lookahead import Lookahead
from .signal.mel_spectrogram import MelSpectrogram
from .signal.overlap_add import OverlapAdd
from .signal.resample import Resample
from .signal.stft import STFT

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
    "Conv",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvTranspose",
    "Crop",
    "CrossAttention",
    "DataNorm",
    "DeformableConv",
    "Delay",
    "Dense",
    "Downsample",
    "DropBlock",
    "Dropout",
    "Einsum",
    "Embedding",
    "EmbeddingBag",
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
    "InverseSTFT",
    "LSTMCell",
    "LatentAttention",
    "LayerNorm",
    "LinearAttention",
    "LinearAttentionCell",
    "LinearRecurrence",
    "LinearRecurrenceCell",
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
    "OverlapAdd",
    "PReLU",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Pool",
    "PositionEmbedding",
    "QRNNCell",
    "RMSNorm",
    "RReLU",
    "Rearrange",
    "Resample",
    "Reshape",
    "Resize",
    "RoIAlign",
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
    "TransformerXLPositions",
    "Unfold",
    "UnitNorm",
    "VectorQuantizer",
    "on_nodes",
]
