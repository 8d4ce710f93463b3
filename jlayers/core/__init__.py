"""Numerics: functions on arrays that know nothing of ``Layer``.

What is exported here is for users; layers import what else they need from its module.
"""

# `core.attention` and `core.conv` are the functions: they replace the packages of these names as
# attributes. Import from a package in full, `from jlayers.core.attention.mask import ...`.
from .adaptive_pooling import adaptive_avg_pool, adaptive_max_pool
from .attention.attention import attention, attention_with_weights
from .attention.cache import Cache, cached_attention
from .attention.mask import alibi_slopes
from .attention.relative import DistanceBuckets, RelativeTables
from .attention.rotary import Rope, apply_rope
from .axes_norm import axes_norm
from .blur_pooling import blur_pool
from .conv.conv import conv
from .conv.transpose import conv_transpose
from .dense import dense
from .fractional_pooling import fractional_max_pool
from .global_pooling import global_max_pool, global_min_pool
from .grid_sampling import affine_grid, grid_sample
from .nearest import nearest
from .norm import masked_normalize, normalize, standardize
from .pool_indices import max_unpool
from .pooling import avg_pool, max_pool, min_pool, sum_pool
from .position_norm import position_norm
from .positions import positions_from_mask, sinusoids
from .quantized import dequantize, quantize, quantized_dense
from .recurrent.fused import gru, lstm, simple_rnn
from .resampling import Interpolation, resize
from .roi_align import roi_align
from .segments import segment_reduce, segment_softmax
from .signal.frames import frame, overlap_add
from .signal.mel import mel_filters

__all__ = [
    "Cache",
    "DistanceBuckets",
    "Interpolation",
    "RelativeTables",
    "Rope",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "affine_grid",
    "alibi_slopes",
    "apply_rope",
    "attention",
    "attention_with_weights",
    "avg_pool",
    "axes_norm",
    "blur_pool",
    "cached_attention",
    "conv",
    "conv_transpose",
    "dense",
    "dequantize",
    "fractional_max_pool",
    "frame",
    "global_max_pool",
    "global_min_pool",
    "grid_sample",
    "gru",
    "lstm",
    "masked_normalize",
    "max_pool",
    "max_unpool",
    "mel_filters",
    "min_pool",
    "nearest",
    "normalize",
    "overlap_add",
    "position_norm",
    "positions_from_mask",
    "quantize",
    "quantized_dense",
    "resize",
    "roi_align",
    "segment_reduce",
    "segment_softmax",
    "simple_rnn",
    "sinusoids",
    "standardize",
    "sum_pool",
]
