"""Merges: combinators that join several outputs into one array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.constructors import lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.sequence import (
    Sequence,
    is_sequence,
    join,
    mapped,
)
from ..base.specs import PyTree, format_spec, specs_of
from .compose import composite
from .serial import of_layers


@factory
def concat(*layers: Any, axis: int = -1, **named: Any) -> Layer:
    """Every layer on the one input, the outputs concatenated along ``axis``.

    Without layers it merges a tuple of arrays that comes in, or a dict in the order of its keys.

    Raises:
      LayerError: where the outputs differ in rank, dtype or in a size off the axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.concat(jl.Dense(3), jl.Dense(4)), jl.spec((8, 5))).shape
    (8, 7)
    >>> jl.out_spec(jl.concat(), (jl.spec((8, 2)), jl.spec((8, 3)))).shape
    (8, 5)
    """
    axis = arguments.integer("axis", axis)

    def body(f: Scope, x: PyTree) -> Any:
        named_outputs = _outputs(f, x)
        outputs = list(named_outputs.values())
        rank = outputs[0].ndim
        at = axis + rank if axis < 0 else axis
        if not 0 <= at < rank:
            raise LayerError(f"no axis {axis} in arrays of rank {rank}", got=_shown(named_outputs))
        sides = {(*o.shape[:at], None, *o.shape[at + 1 :]) for o in outputs}
        if len({(o.ndim, o.dtype) for o in outputs}) > 1 or len(sides) > 1:
            raise LayerError(
                f"arrays that do not fit side by side along axis {axis}",
                expected="one dtype, and equal sizes on all other axes",
                got=_shown(named_outputs),
            )
        if at == 1 and f.streaming:
            raise LayerError("cannot be streamed: it puts sequences one after the other")
        return concatenate(outputs, at)

    return of_layers(body, layers, named, lambda *a, **k: concat(*a, axis=axis, **k))


@factory
def add(*layers: Any, **named: Any) -> Layer:
    """The sum of every layer's output for the one input; without layers, of a tuple coming in.

    Raises:
      LayerError: where the outputs differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.add(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, add, jnp.add)


@factory
def multiply(*layers: Any, **named: Any) -> Layer:
    """The product of every layer's output, as ``add`` is the sum: gates, for instance.

    >>> import jax, jlayers as jl
    >>> gated = jl.multiply(jl.Dense(3), gate=jl.serial(jl.Dense(3), jax.nn.sigmoid))
    >>> jl.out_spec(gated, jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, multiply, jnp.multiply)


@factory
def average(*layers: Any, **named: Any) -> Layer:
    """The mean of every layer's output, as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.average(), (jl.spec((8, 3)), jl.spec((8, 3)))).shape
    (8, 3)
    """
    return _merge(layers, named, average, jnp.add, lambda total, count: total / count)


@factory
def maximum(*layers: Any, **named: Any) -> Layer:
    """The elementwise maximum of every layer's output (maxout), as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.maximum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, maximum, jnp.maximum)


@factory
def minimum(*layers: Any, **named: Any) -> Layer:
    """The elementwise minimum of every layer's output, as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.minimum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, minimum, jnp.minimum)


@factory
def residual(layer: Any, shortcut: Any = None) -> Layer:
    """``x + layer(x)``, or ``shortcut(x) + layer(x)`` (He et al., 2015, arXiv:1512.03385).

    The children are named ``body`` and ``shortcut``.

    Raises:
      LayerError: where the two terms differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(8)))
    residual(serial(LayerNorm(), Dense(8)))
    """
    children = {"body": lift_child("body", layer)}
    if shortcut is not None:
        children["shortcut"] = lift_child("shortcut", shortcut)

    def body(f: Scope, x: PyTree) -> Any:
        y = f["body"](x)
        shortcut = f["shortcut"](x) if "shortcut" in children else x
        terms = {"shortcut": shortcut, "body": y}
        _arrays(terms)
        hint = "a shortcut to the shape of the body's output"
        if y.ndim and y.dtype == shortcut.dtype and y.shape[:-1] == shortcut.shape[:-1]:
            hint = f"residual(..., shortcut=Dense({y.shape[-1]}))"
        _same(terms, hint)
        return _together(jnp.add, shortcut, y)

    return composite(body, children, rebuild=lambda new: residual(new["body"], new.get("shortcut")))


def _merge(
    layers: tuple[Any, ...],
    named: Mapping[str, Any],
    again: Callable[..., Layer],
    pair: Callable[[jax.Array, jax.Array], jax.Array],
    finish: Callable[[jax.Array, int], jax.Array] = lambda total, count: total,
) -> Layer:
    def body(f: Scope, x: PyTree) -> Any:
        outputs = _outputs(f, x)
        _same(outputs)
        total = functools.reduce(functools.partial(_together, pair), outputs.values())
        return _together(lambda total: finish(total, len(outputs)), total)

    return of_layers(body, layers, named, again)


def _outputs(f: Scope, x: PyTree) -> dict[str, jax.Array]:
    """The output of each child for ``x``; the entries of ``x`` itself where there are none."""
    outputs = {name: f[name](x) for name in f.children}
    if not outputs:
        if not isinstance(x, tuple | list | dict) or not x:
            raise LayerError(
                "without layers takes a tuple or a dict of arrays", got=format_spec(specs_of(x))
            )
        # In the order of the keys, the only one that a dict keeps through jit, remat and vmap.
        entries = {key: x[key] for key in sorted(x)} if isinstance(x, dict) else dict(enumerate(x))
        outputs = {f"input {name}": entry for name, entry in entries.items()}
    _arrays(outputs)
    return outputs


def concatenate(parts: Any, axis: int) -> Any:
    """Arrays, or Sequences, put together along ``axis``; along the steps, their masks too.

    Raises:
      LayerError: for Sequences and arrays along rows or steps.
    """
    if not any(map(is_sequence, parts)):
        return jnp.concatenate(parts, axis)
    if axis >= next(part.mask.ndim for part in parts if is_sequence(part)):
        return mapped(lambda *values: jnp.concatenate(values, axis), tuple(parts))
    if not all(map(is_sequence, parts)):
        raise LayerError("puts Sequences and arrays one after the other", hint="jl.Sequence(x)")
    values = jnp.concatenate([part.fill() for part in parts], axis)
    return join(values, jnp.concatenate([part.mask for part in parts], axis))


def _together(function: Callable[..., jax.Array], *terms: Any) -> Any:
    """A function of arrays, elementwise, on arrays or Sequences."""
    if any(isinstance(term, Sequence) for term in terms):
        return mapped(function, terms)
    return function(*terms)


def _arrays(terms: Mapping[str, Any]) -> None:
    for term in terms.values():
        if not hasattr(term, "shape"):
            raise LayerError("merges arrays", got=_shown(terms))


def _same(terms: Mapping[str, jax.Array], hint: str | None = None) -> None:
    """No silent broadcast: elementwise merges want one shape and one dtype."""
    if len({(term.shape, term.dtype) for term in terms.values()}) > 1:
        raise LayerError(
            "merges arrays of one shape and dtype",
            got=_shown(terms),
            hint=hint,
        )


def _shown(terms: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {format_spec(term)}" for name, term in terms.items())
