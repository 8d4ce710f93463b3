"""The operations by name: weights, a float64 reference, and what they must cost."""

from .conv import CONV, CONV_TRANSPOSE, SEPARABLE
from .op import Op

OPS: dict[str, Op] = {"conv": CONV, "conv_transpose": CONV_TRANSPOSE, "separable": SEPARABLE}
