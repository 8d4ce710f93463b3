"""Numerics: functions on arrays that know nothing of ``Layer``."""

from .attention.attention import attention
from .attention.cache import Cache, cached_attention
from .attention.mask import alibi_slopes
from .attention.rotary import rotary, step_positions
from .conv.conv import conv
from .conv.transpose import conv_transpose, transposed_padding
from .dense import dense
from .dtypes import at_least_float32, lowest_of
from .norm import batch_statistics, normalize, standardize, standardize_valid
from .pooling import avg_pool, global_max_pool, max_pool
from .recurrent.cells import (
    conv_lstm_cell,
    gru_cell,
    lstm_cell,
    simple_rnn_cell,
)
from .recurrent.fused import gru, lstm, simple_rnn
from .recurrent.linear import min_gru, rg_lru
from .recurrent.stepwise import Course, stepwise
from .time_windows import SpreadWindow, TimeWindow
from .windows import explicit_padding

__all__ = [
    "Cache",
    "Course",
    "SpreadWindow",
    "TimeWindow",
    "alibi_slopes",
    "at_least_float32",
    "attention",
    "avg_pool",
    "batch_statistics",
    "cached_attention",
    "conv",
    "conv_lstm_cell",
    "conv_transpose",
    "dense",
    "explicit_padding",
    "global_max_pool",
    "gru",
    "gru_cell",
    "lowest_of",
    "lstm",
    "lstm_cell",
    "max_pool",
    "min_gru",
    "normalize",
    "rg_lru",
    "rotary",
    "simple_rnn",
    "simple_rnn_cell",
    "standardize",
    "standardize_valid",
    "step_positions",
    "stepwise",
    "transposed_padding",
]
