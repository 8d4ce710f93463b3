"""Checks of arguments and inputs that several layers share; each says what it expected.

How to read this file: first the checks of single arguments, ``check(name, value)``, which give the
value as the layer uses it; then the annotations that carry them (``features: Positive``), which
``factory`` applies when a layer is built; then the checks of keys and of inputs, which layers call
in their ``init``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp

from ..core.padding import MODES, OF_ZEROS, PADDINGS, ZEROS
from .errors import LayerError, truncate
from .specs import format_short, format_spec
from .types import PyTree

Scalar = TypeVar("Scalar", int, float)


def positive(name: str, value: Any) -> int:
    """``value`` as an int of at least 1."""
    return integer(name, value, 1)


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int, of at least ``least``."""
    # For Python True is an int, and features=True a mistake.
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            # Integers of NumPy count too; 2.0 does not, as in range.
            number = operator.index(value)
            if least is None or number >= least:
                return number
    kind = {None: "an int", 1: "a positive int"}.get(least, f"an int of at least {least}")
    raise LayerError(f"{name} must be {kind}, got {format_short(value)}")


def positive_sizes(name: str, value: Any, least: int = 1) -> int | tuple[int, ...]:
    """``value`` as a positive int, or as a tuple of them (one for each spatial axis)."""
    if isinstance(value, tuple | list):
        if not value:
            raise LayerError(f"{name} must be a positive int or a tuple of them, got {value!r}")
        return tuple(integer(name, item, least) for item in value)
    return integer(name, value, least)


def sizes_or_none(name: str, value: Any) -> int | tuple[int | None, ...]:
    """``value`` as ``positive_sizes``, with None for some of a tuple."""
    if isinstance(value, tuple | list) and value:
        return tuple(None if item is None else positive(name, item) for item in value)
    return positive_sizes(name, value)


def axes(name: str, value: Any) -> int | tuple[int, ...]:
    """``value`` as an axis, or as a tuple of different axes; negative ones count from the end."""
    if isinstance(value, tuple | list):
        found = tuple(integer(name, item) for item in value)
        if not found or len(set(found)) < len(found):
            raise LayerError(f"{name} must be an int or a tuple of different ints, got {value!r}")
        return found
    return integer(name, value)


def axes_or_none(name: str, value: Any) -> tuple[int, ...]:
    """``value`` as a tuple of different axes, which may be empty."""
    if isinstance(value, tuple | list) and not value:
        return ()
    found = axes(name, value)
    return found if isinstance(found, tuple) else (found,)


def fraction(name: str, value: Any) -> float:
    """``value`` as a float from 0 up to, not including, 1."""
    # Not 1: what is kept is divided by 1 - rate.
    if not _is_number(value) or not 0 <= value < 1:
        raise LayerError(f"{name} must be at least 0 and less than 1, got {format_short(value)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` as a Python bool."""
    # Not by truth: an initialiser passed for bias would count as True.
    if not isinstance(value, bool):
        raise LayerError(f"{name} must be True or False, got {format_short(value)}")
    return value


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf) -> float:
    """``value`` as a float of at least ``least`` and at most ``most``."""
    if not _is_number(value) or not least <= value <= most:
        kind = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise LayerError(f"{name} must be a number {kind}, got {format_short(value)}")
    return float(value)


def any_number(name: str, value: Any) -> float:
    """``value`` as a float."""
    if not _is_number(value):
        raise LayerError(f"{name} must be a number, got {format_short(value)}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """``value``, which must be one of the ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise LayerError(
            f"unknown {name} {format_short(value)}", expected=", ".join(map(repr, choices))
        )
    return value


def function(name: str, value: Any, arguments: str, by_name: str = "") -> None:
    """``value`` can be called with ``arguments``, and with those that are given ``by_name``.

    Args:
      arguments: ``"params, state, x"``.
      by_name: ``"key, train"``.
    """
    got = None
    fits = callable(value)
    if fits:
        try:
            signature = inspect.signature(value)
        except (ValueError, TypeError):
            return  # a builtin that says nothing of its arguments
        try:
            keywords = by_name.split(", ") if by_name else []
            # Bound and not called: a user's function may be slow, or have effects.
            signature.bind(*arguments.split(", "), **dict.fromkeys(keywords))
        except TypeError:
            parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            fits, got = False, truncate(f"a function of {inspect.Signature(parameters)}")
    if not fits:
        wanted = f"{arguments}, *, {by_name}" if by_name else arguments
        hint = f"jax.nn.{value}" if isinstance(value, str) and hasattr(jax.nn, value) else None
        problem = f"{name} must be a function of ({wanted}), got {format_short(value)}"
        raise LayerError(problem, got=got, hint=hint)


def above_zero(name: str, value: Any) -> float:
    """``value`` as a float above 0."""
    above = number(name, value)
    if above == 0:
        raise LayerError(f"{name} must be a number above 0, got {value!r}")
    return above


def initializer(name: str, value: Any) -> Any:
    """``value`` as an initialiser, ``init(key, shape, dtype)``."""
    # Keras takes initialisers by name; the answer is the function of that name.
    hint = None
    if isinstance(value, str):
        word = value.lower() if hasattr(jax.nn.initializers, value.lower()) else "glorot_uniform"
        call = "()" if _makes_initializers(getattr(jax.nn.initializers, word)) else ""
        hint = f"jax.nn.initializers.{word}{call}"
    elif _makes_initializers(value):
        hint = f"call it: jax.nn.initializers.{value.__name__}()"
    elif isinstance(value, int | float):
        hint = f"jax.nn.initializers.constant({value!r})"
    if hint is not None:
        raise LayerError(
            f"{name} must be a function of (key, shape, dtype), got {format_short(value)}",
            hint=hint,
        )
    function(name, value, "key, shape, dtype")
    return value


def _makes_initializers(value: Any) -> bool:
    """Whether it is a function of ``jax.nn.initializers`` that has to be called first.

    Most of them take three arguments too, and would be taken for an initialiser.
    """
    known = vars(jax.nn.initializers).get(getattr(value, "__name__", ""))
    if known is None or known is not value:
        return False
    return next(iter(inspect.signature(known).parameters)) != "key"


def padding(name: str, value: Any, names: Sequence[str] = OF_ZEROS) -> Any:
    """A padding as given by a user: checked, with the names in upper case."""
    # In any case: Keras writes "same", lax and stax "SAME".
    if isinstance(value, str) and value.upper() in names:
        return value.upper()
    if isinstance(value, tuple | list):
        return tuple(
            padding(name, item, names) if isinstance(item, str) else _pad_pair(item)
            for item in value
        )
    if isinstance(value, int):
        return integer(name, value, 0)
    raise LayerError(
        f"unknown {name} {format_short(value)}",
        expected=f"{', '.join(map(repr, names))}, an int, or a name, an int or (low, high) for "
        "each axis",
    )


def padding_mode(name: str, value: Any) -> str:
    """What is in a padding, in lower case."""
    # In any case: Equinox writes "REFLECT", PyTorch "reflect".
    modes = (ZEROS, *MODES)
    if isinstance(value, str) and value.lower() in modes:
        return value.lower()
    raise LayerError(f"unknown {name} {format_short(value)}", expected=", ".join(map(repr, modes)))


def array(name: str, value: Any) -> Any:
    """``value`` as an array of numbers, or of bools."""
    if isinstance(value, jax.core.Tracer) or not hasattr(value, "shape"):
        raise LayerError(f"{name} must be an array of NumPy or JAX, got {format_short(value)}")
    return value


def edge_sizes(name: str, value: Any) -> Any:
    """Sizes of at least 0 for the edges of spatial axes: an int, or a (low, high) for each."""
    if isinstance(value, tuple | list):
        return tuple(_pad_pair(item) for item in value)
    return integer(name, value, 0)


def _pad_pair(item: Any) -> tuple[int, int]:
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise LayerError(f"padding of one axis must be (low, high), got {item!r}")
        return integer("padding", item[0], 0), integer("padding", item[1], 0)
    both = integer("padding", item, 0)
    return both, both


# What the annotation of a factory's argument says of it. A bool is checked by ``flag``.
Positive = Annotated[int, positive]
Integer = Annotated[int, integer]
NonNegativeInteger = Annotated[int, functools.partial(integer, least=0)]
Sizes = Annotated[int | tuple[int, ...], positive_sizes]
Extents = Annotated[int | tuple[int, ...], functools.partial(positive_sizes, least=0)]
SizesOrNone = Annotated[int | tuple[int | None, ...], sizes_or_none]
EdgeSizes = Annotated[int | Sequence[int | tuple[int, int]], edge_sizes]
Axes = Annotated[int | tuple[int, ...], axes]
FeatureAxes = Annotated[int | tuple[int, ...], axes_or_none]
Fraction = Annotated[float, fraction]
Number = Annotated[float, any_number]
NonNegative = Annotated[float, number]
UpToOne = Annotated[float, functools.partial(number, most=1.0)]
AboveZero = Annotated[float, above_zero]
Paddings = str | int | Sequence[str | int | tuple[int, int]]
# Of a pool, of a convolution and of a transposed one.
CausalPadding = Annotated[Paddings, padding]
ConvPadding = Annotated[Paddings, functools.partial(padding, names=tuple(PADDINGS))]
TransposedPadding = Annotated[
    Paddings, functools.partial(padding, names=("VALID", "SAME", "CAUSAL", "CIRCULAR"))
]
PaddingMode = Annotated[str, padding_mode]
KernelMask = Annotated[Any, array]


def is_key(key: Any) -> bool:
    """Whether ``key`` is one typed key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return typed and key.shape == ()


def typed_key(key: Any) -> None:
    """``key`` is one typed key, as ``jax.random.key`` makes them."""
    if is_key(key):
        return
    hint = "jax.random.key(0)"
    if isinstance(key, bool):
        hint = f"train={key}, by name"
    elif isinstance(key, int):
        hint = f"jax.random.key({key})"
    elif hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        hint = "jax.vmap over the keys"
    # Old keys are plain arrays: nothing tells one key from a batch, or from data.
    elif hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape[-1:] == (2,):
        hint = "jax.random.key(seed) instead of jax.random.PRNGKey(seed)"
    raise LayerError("the key must be a single typed key", got=format_short(key), hint=hint)


def train_flag(train: Any) -> None:
    """``train`` is a Python bool."""
    if isinstance(train, bool):
        return
    got, hint = truncate(repr(train)), "train=True or train=False"
    # Python's `if train` in a layer would fail later, and far from the call.
    if isinstance(train, jax.core.Tracer):
        got = f"a traced {format_spec(train)}"
        hint = "jax.jit(layer.apply, static_argnames='train'): it is chosen when traced"
    raise LayerError("train must be a Python bool", got=got, hint=hint)


def one_array(
    x: PyTree, shape: str, rank: int | None = None, least_rank: int = 0, lower: str | None = None
) -> None:
    """``x`` is one array, of ``rank`` where one is given, and otherwise of ``least_rank`` or more.

    Args:
      shape: the wanted shape in words, for the message: ``"(batch, time, features)"``.
      lower: the hint for an input whose rank is too low by one.
    """
    if not hasattr(x, "shape"):
        hint = None
        if isinstance(x, tuple | list | dict) and x:
            hint = "parallel for one layer per input, concat() to merge them first"
            if hasattr(x, "senders"):  # a graph, whose class is defined above this module
                hint = "on_nodes(layer) for the nodes of a graph; GraphPool() for a row of each"
        raise LayerError("takes one array", expected=shape, got=format_spec(x), hint=hint)
    rank_fits = len(x.shape) == rank if rank is not None else len(x.shape) >= least_rank
    if not rank_fits:
        wanted = f"rank {rank}" if rank is not None else f"rank {least_rank} or more"
        excess = len(x.shape) - (rank or least_rank)
        raise LayerError(
            f"takes an array of {wanted}, got rank {len(x.shape)}",
            expected=shape,
            got=format_spec(x),
            # One axis too many is most often time; one too few is for the layer to explain.
            hint={-1: lower, 1: "each_step(layer) for a sequence of such inputs"}.get(excess),
        )


def floating(x: Any, hint: str = "x.astype(jnp.float32)") -> None:
    """``x`` holds floating (or complex) numbers."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise LayerError(f"takes floating numbers, got {x.dtype}", got=format_spec(x), hint=hint)


def real(x: Any) -> None:
    """``x`` holds numbers with an order: no complex ones, and no bools."""
    # By these two: for JAX complex numbers are inexact, and bools are not integers.
    if not jnp.issubdtype(x.dtype, jnp.integer) and not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(f"takes real numbers, got {x.dtype}", got=format_spec(x))


def not_empty(x: Any, shape: str) -> None:
    """No axis but the first has size 0, so that a mean over it makes sense."""
    # An empty batch is allowed: its output is empty too.
    if any(size == 0 for size in x.shape[1:]):
        raise LayerError("takes no empty axis", expected=shape, got=format_spec(x))


def has_features(x: Any, shape: str) -> None:
    """The last axis has not size 0, so that parameters over it make sense."""
    if x.shape[-1] == 0:
        raise LayerError("takes no empty last axis", expected=shape, got=format_spec(x))


def axes_of(x: Any, axes: Sequence[int]) -> tuple[int, ...]:
    """The axes of ``x``, counted from its first."""
    rank = len(x.shape)
    if any(not -rank <= axis < rank for axis in axes):
        raise LayerError(f"there is no axis {[*axes]}", got=format_spec(x))
    found = tuple(axis % rank for axis in axes)
    if len(set(found)) < len(found):
        raise LayerError(f"axes {[*axes]} name an axis twice", got=format_spec(x))
    return found


def spread(name: str, value: Scalar | tuple[Scalar, ...], rank: int) -> tuple[Scalar, ...]:
    """A number for all of ``rank`` spatial axes, or the tuple if it has as many entries."""
    if not isinstance(value, tuple):
        return (value,) * rank
    if len(value) != rank:
        raise LayerError(
            f"{name} {value} has {len(value)} entries for {spatial_axes(rank)}",
            expected=f"an int, or {rank} ints; inputs are (batch, *spatial, channels)",
        )
    return value


def spatial_axes(rank: int) -> str:
    """How many there are, for messages."""
    return f"{rank} spatial {'axis' if rank == 1 else 'axes'}"


def edges_of(x: Any, value: EdgeSizes) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis of (batch, *spatial, channels)."""
    rank = len(value) + 2 if isinstance(value, tuple) else None
    if rank == 4 and len(getattr(x, "shape", ())) == 3:
        pair = (value[0][0], value[1][0])  # type: ignore[index]
        hint = f"({pair},) for before and after of the only axis"
        raise LayerError(f"{pair} is for two spatial axes", got=format_spec(x), hint=hint)
    one_array(x, "(batch, *spatial, channels)", rank=rank, least_rank=3)
    if isinstance(value, int):
        return ((value, value),) * (len(x.shape) - 2)
    return tuple(value)  # type: ignore[arg-type]
