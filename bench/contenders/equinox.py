"""Equinox, as its users write it: one example a module, channels first, under ``jax.vmap``."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, chain, no_weights, stacked

LACKS = {
    "simple_rnn": "equinox has no plain recurrent cell",
    "attention": "equinox has attention only with its projections",
}
Run = Callable[[Any, Any], Any]


def key() -> jax.Array:
    return jax.random.key(0)


def module(
    built: Any,
    convert: Callable[[Any], dict[str, Any]],
    channels_first: bool = False,
    run: Run = lambda module, x: jax.vmap(module)(x),
) -> Contender:
    """``convert`` gives the arrays by attribute; ``run(module, x)`` is how a batch goes through."""
    params, static = eqx.partition(built, eqx.is_inexact_array)

    def filled(weights: Any) -> Any:
        values = convert(weights)
        return eqx.tree_at(
            lambda tree: [getattr(tree, name) for name in values], params, list(values.values())
        )

    def apply(params: Any, x: Any) -> Any:
        return run(eqx.combine(params, static), x)

    return Contender(apply, filled, channels_first=channels_first)


def kernel_first(kernel: Any) -> Any:
    """(*size, in, out) to (out, in, *size)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def conv_weights(rank: int) -> Callable[[Any], dict[str, Any]]:
    def convert(weights: Any) -> dict[str, Any]:
        converted = {"weight": kernel_first(weights["kernel"])}
        if "bias" in weights:
            converted["bias"] = weights["bias"].reshape(-1, *(1,) * rank)
        return converted

    return convert


def conv(row: Row) -> Contender:
    g = geometry(row)
    built = eqx.nn.Conv(
        g.rank,
        g.channels,
        g.features,
        g.kernel,
        g.strides,
        g.padding,
        g.dilation,
        g.groups,
        use_bias=g.bias,
        dtype=row.dtype,
        key=key(),
    )
    return module(built, conv_weights(g.rank), channels_first=True)


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)
    built = eqx.nn.ConvTranspose(
        g.rank,
        g.channels,
        g.features,
        g.kernel,
        g.strides,
        row["padding"],
        dtype=row.dtype,
        key=key(),
    )
    return module(built, conv_weights(g.rank), channels_first=True)


def pool(names: tuple[str, ...]) -> Callable[[Row], Contender]:
    def make(row: Row) -> Contender:
        w = window(row)
        built = getattr(eqx.nn, names[len(w.window) - 1])(w.window, w.strides, w.padding)
        return module(built, no_weights, channels_first=True)

    return make


def avg_pool(row: Row) -> Contender:
    # Padding counts as zeros there; where it must not, users divide it out again.
    made = pool(("AvgPool1d", "AvgPool2d", "AvgPool3d"))(row)
    w = window(row)
    if not any(w.padding):
        return made
    ones = np.ones((1, 1, *row.x[1:-1]), row.dtype)

    def apply(params: Any, x: Any) -> Any:
        return made.apply(params, x) / made.apply(params, jnp.asarray(ones))

    return made._replace(apply=apply)


def affine(weights: Any) -> dict[str, Any]:
    names = {"scale": "weight", "bias": "bias"}
    return {theirs: weights[ours] for ours, theirs in names.items() if ours in weights}


def over_last(row: Row) -> Run:
    """A module of one vector on every vector of a batch."""

    def run(module: Any, x: Any) -> Any:
        for _ in range(len(row.x) - 1):
            module = jax.vmap(module)
        return module(x)

    return run


def rms_norm(row: Row) -> Contender:
    built = eqx.nn.RMSNorm(row.x[-1], eps=EPSILON, use_bias=False, dtype=row.dtype)
    return module(built, affine, run=over_last(row))


def layer_norm(row: Row) -> Contender:
    built = eqx.nn.LayerNorm(row.x[-1], eps=EPSILON, dtype=row.dtype)
    return module(built, affine, run=over_last(row))


def group_norm(row: Row) -> Contender:
    built = eqx.nn.GroupNorm(row["groups"], row.x[-1], eps=EPSILON, dtype=row.dtype)
    return module(built, affine, channels_first=True)


def batch_norm(row: Row) -> Contender:
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    built, state = make(row.x[-1], "batch", eps=EPSILON, mode="batch", dtype=row.dtype)
    params, static = eqx.partition(built, eqx.is_inexact_array)

    def convert(weights: Any) -> Any:
        values = [weights["scale"], weights["bias"]]
        return eqx.tree_at(lambda tree: [tree.weight, tree.bias], params, values)

    def apply(params: Any, x: Any, state: Any) -> Any:
        norm = eqx.combine(params, static)
        return jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    return Contender(apply, convert, extra=(state,), aux=True, channels_first=True)


def recurrent(
    cell: Callable[..., Any], convert: Callable[[Any], Any], start: Callable[[Any], Any]
) -> Callable[[Row], Contender]:
    def one(row: Row, channels: int, reverse: bool) -> Contender:
        built = cell(channels, row["features"], dtype=row.dtype, key=key())

        def run(cell: Any, x: Any) -> Any:
            def sequence(steps: Any) -> Any:
                def step(carry: Any, value: Any) -> Any:
                    carry = cell(value, carry)
                    return carry, carry[0] if isinstance(carry, tuple) else carry

                carry = start(jnp.zeros(row["features"], x.dtype))
                return jax.lax.scan(step, carry, steps, reverse=reverse)[1]

            return jax.vmap(sequence)(x)

        return module(built, convert, run=run)

    return functools.partial(stacked, one)


def lstm_weights(w: Any) -> dict[str, Any]:
    return {"weight_ih": w["kernel"].T, "weight_hh": w["recurrent_kernel"].T, "bias": w["bias"]}


def gru_weights(w: Any) -> dict[str, Any]:
    return {**lstm_weights(w), "bias_n": w["recurrent_bias"]}


def dense(row: Row) -> Contender:
    built = eqx.nn.Linear(row.x[-1], row["features"], dtype=row.dtype, key=key())

    def convert(weights: Any) -> dict[str, Any]:
        return {"weight": weights["kernel"].T, "bias": weights["bias"]}

    return module(built, convert, run=over_last(row))


def embedding(row: Row) -> Contender:
    table = jnp.zeros((row["vocabulary"], row["features"]), row.dtype)
    built = eqx.nn.Embedding(weight=table)

    def run(module: Any, x: Any) -> Any:
        for _ in range(len(row.x)):
            module = jax.vmap(module)
        return module(x)

    return module(built, lambda weights: {"weight": weights["embedding"]}, run=run)


def dropout(row: Row) -> Contender:
    built = eqx.nn.Dropout(row["rate"])

    def apply(params: Any, x: Any, key: Any) -> Any:
        return jax.vmap(lambda x, key: built(x, key=key))(x, jax.random.split(key, x.shape[0]))

    return Contender(apply, no_weights, extra=(key(),))


OPS = {
    "dense": dense,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(("MaxPool1d", "MaxPool2d", "MaxPool3d")),
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "rms_norm": rms_norm,
    "lstm": recurrent(eqx.nn.LSTMCell, lstm_weights, lambda zeros: (zeros, zeros)),
    "gru": recurrent(eqx.nn.GRUCell, gru_weights, lambda zeros: zeros),
    "embedding": embedding,
    "dropout": dropout,
}
