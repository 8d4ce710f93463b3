"""The operations by name: weights, a float64 reference, and what they must cost at least."""

from .attention import ATTENTION
from .conv import CONV, CONV_TRANSPOSE, SEPARABLE
from .norm import BATCH_NORM, GROUP_NORM, LAYER_NORM, RMS_NORM
from .op import Op
from .pool import AVG_POOL, MAX_POOL
from .recurrent import RECURRENT
from .simple import DENSE, DROPOUT, EMBEDDING

OPS: dict[str, Op] = {
    "dense": DENSE,
    "conv": CONV,
    "conv_transpose": CONV_TRANSPOSE,
    "separable": SEPARABLE,
    "max_pool": MAX_POOL,
    "avg_pool": AVG_POOL,
    "batch_norm": BATCH_NORM,
    "layer_norm": LAYER_NORM,
    "group_norm": GROUP_NORM,
    "rms_norm": RMS_NORM,
    "lstm": RECURRENT,
    "gru": RECURRENT,
    "simple_rnn": RECURRENT,
    "attention": ATTENTION,
    "embedding": EMBEDDING,
    "dropout": DROPOUT,
}
