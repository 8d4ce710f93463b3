"""Checks of arguments and inputs that several layers share; each says what it expected."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .errors import LayerError
from .specs import PyTree, show

Padding = str | int | Sequence[int | tuple[int, int]]


def positive(name: str, value: Any) -> int:
    """``value`` as an int of at least 1."""
    return _whole(name, value, 1)


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:
            number = least - 1
        if number >= least:
            return number
    kind = "a positive int" if least == 1 else f"an int of at least {least}"
    raise LayerError(f"{name} must be {kind}, got {value!r}"[:120])


def positive_sizes(name: str, value: Any) -> int | tuple[int, ...]:
    """``value`` as a positive int, or as a tuple of them (one for each spatial axis)."""
    if isinstance(value, tuple | list):
        if not value:
            raise LayerError(f"{name} must be a positive int or a tuple of them, got {value!r}")
        return tuple(positive(name, item) for item in value)
    return positive(name, value)


def fraction(name: str, value: Any) -> float:
    """``value`` as a float from 0 up to, not including, 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise LayerError(f"{name} must be at least 0 and less than 1, got {value!r}"[:120])
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` as a Python bool."""
    if not isinstance(value, bool):
        raise LayerError(f"{name} must be True or False, got {value!r}"[:120])
    return value


def number(name: str, value: Any, least: float = 0.0) -> float:
    """``value`` as a float of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise LayerError(f"{name} must be a number of at least {least:g}, got {value!r}"[:120])
    return float(value)


def one_array(x: PyTree, shape: str, rank: int | None = None, least_rank: int = 0) -> None:
    """``x`` is one array of the wanted rank.

    Args:
      x: the input of a layer.
      shape: the wanted shape in words, for the message: ``"(batch, time, features)"``.
      rank: the only rank allowed, if there is only one.
      least_rank: the lowest rank allowed.
    """
    if not hasattr(x, "shape"):
        mend = None
        if isinstance(x, tuple | list | dict):
            mend = "parallel for one layer per input, concat() to merge them first"
        raise LayerError("takes one array", expected=shape, got=show(x), mend=mend)
    rank_fits = len(x.shape) == rank if rank is not None else len(x.shape) >= least_rank
    if not rank_fits:
        wanted = f"rank {rank}" if rank is not None else f"rank {least_rank} or more"
        raise LayerError(
            f"takes an array of {wanted}, got rank {len(x.shape)}",
            expected=shape,
            got=show(x),
            mend=_rank_mend(len(x.shape), rank),
        )


def _rank_mend(got: int, wanted: int | None) -> str | None:
    if wanted is None:
        return None
    if got == wanted - 1:
        return "a batch axis in front: x[None], or a channel axis behind: x[..., None]"
    if got == wanted + 1:
        return "each_step(layer) for a sequence of such inputs"
    return None


def floating(x: Any, mend: str | None = None) -> None:
    """``x`` holds floating (or complex) numbers."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise LayerError(
            f"takes floating numbers, got {x.dtype}",
            got=show(x),
            mend=mend or "x.astype(jnp.float32); Embedding for integer ids",
        )


def not_empty(x: Any, shape: str) -> None:
    """No axis but the first has size 0, so that a parameter or a mean over it makes sense."""
    if any(size == 0 for size in x.shape[1:]):
        raise LayerError("takes no empty axis", expected=shape, got=show(x))


def spread(name: str, value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """An int for all of ``rank`` spatial axes, or the tuple if it has as many entries."""
    if isinstance(value, int):
        return (value,) * rank
    if len(value) != rank:
        raise LayerError(
            f"{name} {value} has {len(value)} entries for {rank} spatial axes",
            expected=f"an int, or {rank} ints; inputs are (batch, *spatial, channels)",
        )
    return value


def padding_argument(value: Any, causal: bool = False) -> Padding:
    """A padding as given by a user: checked, with the names in upper case."""
    names = ("VALID", "SAME") + (("CAUSAL",) if causal else ())
    if isinstance(value, str):
        if value.upper() not in names:
            raise LayerError(
                f"unknown padding {value!r}",
                expected=f"{', '.join(map(repr, names))}, an int, or one (low, high) for each axis",
            )
        return value.upper()
    if isinstance(value, tuple | list):
        return tuple(_pad_pair(item) for item in value)
    return _whole("padding", value, 0)


def _pad_pair(item: Any) -> tuple[int, int]:
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise LayerError(f"padding of one axis must be (low, high), got {item!r}")
        return _whole("padding", item[0], 0), _whole("padding", item[1], 0)
    both = _whole("padding", item, 0)
    return both, both


def spread_padding(value: Padding, rank: int) -> str | tuple[tuple[int, int], ...]:
    """The padding for ``rank`` spatial axes: a name, or a (low, high) for each."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return ((value, value),) * rank
    if len(value) != rank:
        raise LayerError(
            f"padding {value} has {len(value)} entries for {rank} spatial axes",
            expected=f"a name, an int, or {rank} pairs (low, high)",
        )
    return tuple(value)  # type: ignore[arg-type]


def window_fits(
    x: Any,
    window: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    what: str,
) -> None:
    """The window (a dilated kernel, say) is no larger than the padded input."""
    sizes = x.shape[1:-1]
    if isinstance(padding, str):
        if padding != "VALID":
            return
        padding = ((0, 0),) * len(sizes)
    room = [size + low + high for size, (low, high) in zip(sizes, padding, strict=True)]
    if any(have < want for have, want in zip(room, window, strict=True)):
        raise LayerError(
            f"{what} {tuple(window)} is larger than the {'padded ' if room != list(sizes) else ''}"
            f"input {tuple(room)}",
            got=show(x),
            mend=f"padding='SAME', or a smaller {what.split()[-1]}",
        )
