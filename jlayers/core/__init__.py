"""Numerics: functions on arrays that know nothing of ``Layer``."""

from .attention import attention
from .conv import conv
from .conv_transpose import conv_transpose
from .dense import dense
from .dtypes import at_least_float32
from .norm import batch_statistics, normalize, standardize
from .pool import avg_pool, global_max_pool, max_pool
from .recurrent import gru, lstm, simple_rnn

__all__ = [
    "at_least_float32",
    "attention",
    "avg_pool",
    "batch_statistics",
    "conv",
    "conv_transpose",
    "dense",
    "global_max_pool",
    "gru",
    "lstm",
    "max_pool",
    "normalize",
    "simple_rnn",
    "standardize",
]
