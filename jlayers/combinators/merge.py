"""Merges: combinators that join several outputs into one array.

How to read this file: the public merges come first. All but ``concat`` and ``residual`` are a
``_merge`` of one elementwise function. ``_outputs`` collects what is merged; ``concatenate`` and
``_elementwise`` know about Sequences, the checks at the end about shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope, composite
from ..base.sequence import Sequence, is_sequence, join, mapped
from ..base.specs import format_spec, specs_of
from ..base.step_pair import are_whole
from ..base.types import PyTree
from ..core.dtypes import at_least_float32
from .serial import of_layers

Batch = jax.Array | Sequence


@factory
def concat(*layers: LayerOrFunction, axis: int = -1, **named: LayerOrFunction) -> Layer:
    """Every layer on the one input, the outputs concatenated along ``axis``.

    Without layers it takes a tuple of arrays, or a dict of arrays in the order of its keys.

    Raises:
      LayerError: where the outputs differ in rank, in dtype, or in their size along another axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.concat(jl.Dense(3), jl.Dense(4)), jl.spec((8, 5))).shape
    (8, 7)
    >>> jl.out_spec(jl.concat(), (jl.spec((8, 2)), jl.spec((8, 3)))).shape
    (8, 5)
    """
    # PyTorch's word would be the name of a child, and its number no layer.
    if isinstance(named.get("dim"), int):
        raise LayerError("unknown argument 'dim'", hint=f"axis={named['dim']}")
    axis = arguments.integer("axis", axis)

    def body(f: Scope, x: PyTree) -> PyTree:
        named_outputs = _outputs(f, x)
        outputs = list(named_outputs.values())
        rank = outputs[0].ndim
        at = axis + rank if axis < 0 else axis
        if not 0 <= at < rank:
            raise LayerError(
                f"no axis {axis} in arrays of rank {rank}", got=_format_named(named_outputs)
            )
        # All sizes but the one along the axis.
        sides = {(*o.shape[:at], None, *o.shape[at + 1 :]) for o in outputs}
        if len({(o.ndim, o.dtype) for o in outputs}) > 1 or len(sides) > 1:
            raise LayerError(
                f"cannot concatenate along axis {axis}",
                expected="one dtype, and equal sizes on all other axes",
                got=_format_named(named_outputs),
            )
        # Two blocks end to end are not a block of the two sequences end to end.
        if at == 1 and f.streaming and not (are_whole() and rank == 2):
            raise LayerError("cannot be streamed: it concatenates along time")
        return concatenate(outputs, at)

    return of_layers(body, layers, named, lambda *a, **k: concat(*a, axis=axis, **k))


@factory
def add(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The sum of every layer's output for one input; without layers, of a tuple or dict of arrays.

    Raises:
      LayerError: where the outputs differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.add(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, add, jnp.add)


@factory
def multiply(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The product of every layer's output: gates, for instance. Otherwise as ``add``.

    >>> import jax, jlayers as jl
    >>> gated = jl.multiply(jl.Dense(3), gate=jl.serial(jl.Dense(3), jax.nn.sigmoid))
    >>> jl.out_spec(gated, jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, multiply, jnp.multiply)


@factory
def average(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The mean of every layer's output; otherwise as ``add``.

    Sums of float16 and bfloat16 are taken in float32: that of two outputs may be beyond the range.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.average(), (jl.spec((8, 3)), jl.spec((8, 3)))).shape
    (8, 3)
    """

    def widened(a: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return a.astype(at_least_float32(a.dtype)) if floating else a

    def mean(total: jax.Array, outputs: list[Batch]) -> jax.Array:
        y, dtype = total / len(outputs), outputs[0].dtype
        return y.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else y

    return _merge(layers, named, average, lambda a, b: widened(a) + widened(b), mean)


@factory
def maximum(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The elementwise maximum of every layer's output (maxout); otherwise as ``add``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.maximum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, maximum, jnp.maximum)


@factory
def minimum(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The elementwise minimum of every layer's output; otherwise as ``add``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.minimum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, minimum, jnp.minimum)


@factory
def residual(layer: LayerOrFunction, shortcut: LayerOrFunction | None = None) -> Layer:
    """``x + layer(x)``, or ``shortcut(x) + layer(x)`` (He et al., 2015, arXiv:1512.03385).

    The children are named ``body`` and ``shortcut``.

    Raises:
      LayerError: where the two terms differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(8)))
    residual(serial(LayerNorm(), Dense(8)))
    """
    # Not by kind: another layer as the body shall change no path (docs/notes/0005-names.md).
    children = {"body": lift_child("body", layer)}
    if shortcut is not None:
        children["shortcut"] = lift_child("shortcut", shortcut)

    def body(f: Scope, x: PyTree) -> PyTree:
        y = f["body"](x)
        shortcut = f["shortcut"](x) if "shortcut" in children else x
        return residual_sum(shortcut, y)

    return composite(body, children, rebuild=lambda new: residual(new["body"], new.get("shortcut")))


def residual_sum(shortcut: Batch, y: Batch) -> Batch:
    """``shortcut + y``, of one shape and dtype."""
    terms = {"shortcut": shortcut, "body": y}
    _check_arrays(terms)
    # A projection of the features is the usual remedy where only these differ.
    hint = "a shortcut to the shape of the body's output"
    if y.ndim and y.dtype == shortcut.dtype and y.shape[:-1] == shortcut.shape[:-1]:
        hint = f"residual(..., shortcut=Dense({y.shape[-1]}))"
    _check_same_spec(terms, hint)
    return _elementwise(jnp.add, shortcut, y)


def _merge(
    layers: tuple[LayerOrFunction, ...],
    named: Mapping[str, LayerOrFunction],
    again: Callable[..., Layer],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    finish: Callable[[jax.Array, list[Batch]], jax.Array] = lambda total, outputs: total,
) -> Layer:
    def body(f: Scope, x: PyTree) -> PyTree:
        outputs = _outputs(f, x)
        _check_same_spec(outputs)
        total = functools.reduce(functools.partial(_elementwise, combine), outputs.values())
        # After the sum, as the mean of an array is computed: one rounding and not one a term.
        return _elementwise(lambda total: finish(total, [*outputs.values()]), total)

    return of_layers(body, layers, named, again)


def _outputs(f: Scope, x: PyTree) -> dict[str, Batch]:
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
    _check_arrays(outputs)
    return outputs


def concatenate(parts: Many[Batch], axis: int) -> Batch:
    """Arrays or Sequences, concatenated along ``axis``; along rows or time, their masks too.

    Raises:
      LayerError: for Sequences and arrays along rows or time: which steps are valid is unknown.
    """
    sequences = [part for part in parts if is_sequence(part)]
    if not sequences:
        return jnp.concatenate(parts, axis)  # type: ignore[arg-type]
    # Behind batch and time: the mask stays as it is.
    if axis >= sequences[0].mask.ndim:
        joined: Batch = mapped(lambda *values: jnp.concatenate(values, axis), tuple(parts))
        return joined
    if len(sequences) < len(parts):
        raise LayerError(
            "cannot concatenate Sequences and arrays along time", hint="jl.Sequence(x)"
        )
    # Padding of different Sequences must not differ: it becomes part of one.
    values = jnp.concatenate([part.fill() for part in sequences], axis)
    return join(values, jnp.concatenate([part.mask for part in sequences], axis))


# Without the detour where nothing has a mask: this runs in every residual block.
def _elementwise(function: Callable[..., jax.Array], *terms: Batch) -> Batch:
    """A function of arrays, elementwise, on arrays or Sequences."""
    if any(isinstance(term, Sequence) for term in terms):
        joined: Batch = mapped(function, terms)
        return joined
    return function(*terms)


def _check_arrays(terms: Mapping[str, Batch]) -> None:
    for term in terms.values():
        if not hasattr(term, "shape"):
            raise LayerError("merges arrays", got=_format_named(terms))


def _check_same_spec(terms: Mapping[str, Batch], hint: str | None = None) -> None:
    """No silent broadcast: elementwise merges take one shape and one dtype."""
    # (8, 1) + (8, 4) is more often a mistake than meant (docs/notes/0004-defaults.md).
    if len({(term.shape, term.dtype) for term in terms.values()}) > 1:
        hint = hint or _how_to_broadcast([term.shape for term in terms.values()])
        raise LayerError(
            "merges arrays of one shape and dtype",
            got=_format_named(terms),
            hint=hint,
        )


def _how_to_broadcast(shapes: Many[tuple[int, ...]]) -> str | None:
    """A hint where sizes of 1 are all that differs: a gate for each channel of an image."""
    ranks = {len(shape) for shape in shapes}
    fits = all(len({*sizes} - {1}) < 2 for sizes in zip(*shapes, strict=False))
    if len({*shapes}) == 1 or len(ranks) > 1 or not fits:
        return None
    return "if it is meant, a function broadcasts: serial(branch(a, b), lambda x: x[0] * x[1])"


def _format_named(terms: Mapping[str, Batch]) -> str:
    return ", ".join(f"{name} {format_spec(term)}" for name, term in terms.items())
