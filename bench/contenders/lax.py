"""Written by hand on ``jax.lax``, as one does without a layer library."""

from typing import Any

from jax import lax

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..row import Row
from .contender import Contender, chain, pick

LACKS: dict[str, str] = {}
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
WITH_BIAS = pick("kernel", "bias")


def conv(row: Row) -> Contender:
    g = geometry(row)

    def apply(params: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(
            x,
            params["kernel"],
            g.strides,
            g.pairs,
            rhs_dilation=g.dilation,
            dimension_numbers=LAYOUTS[g.rank],
            feature_group_count=g.groups,
        )
        return y + params["bias"] if g.bias else y

    return Contender(apply, WITH_BIAS)


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)

    def apply(params: Any, x: Any) -> Any:
        layout = LAYOUTS[g.rank]
        y = lax.conv_transpose(
            x, params["kernel"], g.strides, row["padding"], dimension_numbers=layout
        )
        return y + params["bias"]

    return Contender(apply, WITH_BIAS)


OPS = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
}
