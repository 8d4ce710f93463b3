"""jlayers, as its users write it."""

from collections.abc import Callable
from typing import Any

import jax

import jlayers as jl

from ..ops.conv import geometry, separable_parts
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, Unavailable, chain, no_weights, pick

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


def recurrent(name: str, *own: str) -> Callable[[Row], Contender]:
    def make(row: Row) -> Contender:
        one = layer(name, row["features"])
        if row["bidirectional"]:
            one = layer("bidirectional", one)
        model = jl.serial(**{f"layer_{i}": one for i in range(row["layers"])})

        def convert(weights: Any) -> dict[str, Any]:
            sides = ("forward", "backward")
            layers = [[pick(*own)(cell) for cell in ways] for ways in weights]
            return {
                f"layer_{i}": dict(zip(sides, ways, strict=True)) if len(ways) == 2 else ways[0]
                for i, ways in enumerate(layers)
            }

        return stateless(model)._replace(convert=convert)

    return make


def batch_norm(row: Row) -> Contender:
    built = layer("BatchNorm", epsilon=EPSILON)
    _, state = built.init(jax.random.key(0), jl.spec(row.x, row.dtype))

    def apply(params: Any, x: Any, state: Any) -> Any:
        return built.apply(params, state, x, train=True)

    return Contender(apply, pick("scale", "bias"), extra=(state,), aux=True)


def pool(name: str) -> Callable[[Row], Contender]:
    def make(row: Row) -> Contender:
        w = window(row)
        return stateless(layer(name, w.window, strides=w.strides, padding=w.pairs))

    return make


def attention(row: Row) -> Contender:
    function = getattr(jl.core, "attention", None)
    if not callable(function):
        raise Unavailable("jlayers has no core.attention yet")
    return Contender(lambda params, x: function(*x, causal=row["causal"]), no_weights)


def dropout(row: Row) -> Contender:
    built = layer("Dropout", row["rate"])

    def apply(params: Any, x: Any, key: Any) -> Any:
        return built.apply({}, {}, x, key=key, train=True)[0]

    return Contender(apply, no_weights, extra=(jax.random.key(0),))


OPS = {
    "dense": lambda row: stateless(layer("Dense", row["features"])),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool("MaxPool"),
    "avg_pool": pool("AvgPool"),
    "batch_norm": batch_norm,
    "layer_norm": lambda row: stateless(layer("LayerNorm", epsilon=EPSILON)),
    "group_norm": lambda row: stateless(layer("GroupNorm", row["groups"], epsilon=EPSILON)),
    "rms_norm": lambda row: stateless(layer("RMSNorm", epsilon=EPSILON)),
    "lstm": recurrent("LSTM", "kernel", "recurrent_kernel", "bias"),
    "gru": recurrent("GRU", "kernel", "recurrent_kernel", "bias", "recurrent_bias"),
    "simple_rnn": recurrent("SimpleRNN", "kernel", "recurrent_kernel", "bias"),
    "attention": attention,
    "embedding": lambda row: stateless(layer("Embedding", row["vocabulary"], row["features"])),
    "dropout": dropout,
}
