"""What a framework's adapter gives the benchmark for one row."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..row import Row


class Unavailable(Exception):  # noqa: N818  (it is no error: the row goes on without this contender)
    """A framework is not installed, or has no such layer; the text says which."""


class Contender(NamedTuple):
    """A row in a JAX framework, as a pure function that is jitted as it stands.

    Args:
      apply: (params, x, *extra) to y, or to (y, anything) with ``aux``.
      convert: the canonical weights to the framework's own parameters. It only moves values, so
        that it also takes canonical gradients to the framework's own.
      extra: more arguments that are no constants of the program: keys, running statistics.
      aux: whether ``apply`` gives more than y.
      channels_first: whether x and y have the channels before the spatial axes.
    """

    apply: Callable[..., Any]
    convert: Callable[[Any], Any]
    extra: tuple[Any, ...] = ()
    aux: bool = False
    channels_first: bool = False


def pick(*names: str) -> Callable[[Any], dict[str, Any]]:
    """Conversion where names and layout are jlayers' own: those that are there."""
    return lambda weights: {name: weights[name] for name in names if name in weights}


def no_weights(weights: Any) -> dict[str, Any]:
    return {}


def chain(*parts: Contender) -> Contender:
    """One after the other; the weights are a tuple."""

    def apply(params: Any, x: Any) -> Any:
        for part, own in zip(parts, params, strict=True):
            x = part.apply(own, x)
        return x

    def convert(weights: Any) -> Any:
        return tuple(part.convert(own) for part, own in zip(parts, weights, strict=True))

    return Contender(apply, convert, channels_first=parts[0].channels_first)


def side_by_side(*parts: Contender) -> Contender:
    """All on the same input, joined along the last axis; the weights are a tuple."""
    if len(parts) == 1:
        (part,) = parts
        return Contender(
            lambda params, x: part.apply(params[0], x),
            lambda weights: (part.convert(weights[0]),),
        )

    def apply(params: Any, x: Any) -> Any:
        ys = [part.apply(own, x) for part, own in zip(parts, params, strict=True)]
        return jnp.concatenate(ys, axis=-1)

    def convert(weights: Any) -> Any:
        return tuple(part.convert(own) for part, own in zip(parts, weights, strict=True))

    return Contender(apply, convert)


def stacked(one: Callable[[Row, int, bool], Contender], row: Row) -> Contender:
    """A recurrent row out of ``one(row, channels, reverse)``: layers of one or two directions."""
    from ..ops.recurrent import layer_inputs

    ways: Sequence[bool] = (False, True) if row["bidirectional"] else (False,)
    layers = [
        side_by_side(*(one(row, channels, reverse) for reverse in ways))
        for channels in layer_inputs(row)
    ]
    return chain(*layers)
