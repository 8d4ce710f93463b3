"""Numerics: functions on arrays that know nothing of ``Layer``."""

from .attention import attention
from .conv import conv
from .conv_transpose import conv_transpose, transposed_padding
from .dense import dense
from .dtypes import at_least_float32, lowest_of
from .norm import batch_statistics, normalize, standardize, standardize_valid
from .pool import avg_pool, global_max_pool, max_pool
from .recurrent import gru, lstm, simple_rnn
from .time_window import SpreadWindow, TimeWindow
from .windows import explicit_padding

__all__ = [
    "SpreadWindow",
    "TimeWindow",
    "at_least_float32",
    "attention",
    "avg_pool",
    "batch_statistics",
    "conv",
    "conv_transpose",
    "dense",
    "explicit_padding",
    "global_max_pool",
    "gru",
    "lowest_of",
    "lstm",
    "max_pool",
    "normalize",
    "simple_rnn",
    "standardize",
    "standardize_valid",
    "transposed_padding",
]
