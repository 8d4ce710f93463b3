"""jlayers, as its users write it."""

from typing import Any

import jlayers as jl

from ..ops.conv import geometry, separable_parts
from ..row import Row
from .contender import Contender, Unavailable, chain, pick

LACKS: dict[str, str] = {}


def layer(name: str, *arguments: Any, **options: Any) -> Any:
    try:
        factory = getattr(jl, name)
    except AttributeError:
        raise Unavailable(f"jlayers has no {name} yet") from None
    return factory(*arguments, **options)


def stateless(built: Any) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        return built.apply(params, {}, x)[0]

    return Contender(apply, pick("kernel", "bias", "scale", "embedding"))


def conv(row: Row) -> Contender:
    g = geometry(row)
    return stateless(
        layer(
            "Conv",
            g.features,
            g.kernel,
            strides=g.strides,
            padding=g.pairs,
            dilation=g.dilation,
            groups=g.groups,
            bias=g.bias,
        )
    )


def conv_transpose(row: Row) -> Contender:
    return stateless(
        layer(
            "ConvTranspose",
            row["features"],
            row["kernel"],
            strides=row["strides"],
            padding=row["padding"],
        )
    )


OPS = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
}
