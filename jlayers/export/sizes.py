"""Sizes of inputs that have a name in a file, as those of ``jax.export``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax import export

from ..base.errors import LayerError
from ..base.specs import format_short

# A name, or a multiple of one.
_SIZE = re.compile(r"(?:([1-9][0-9]*)\*)?([A-Za-z_]\w*)")


def symbolic(
    inputs: list[Any], batch: str | None, time: str | None, within: export.SymbolicScope
) -> list[jax.ShapeDtypeStruct]:
    steps = _steps(inputs)

    def sizes(shape: tuple[int, ...]) -> tuple[Any, ...]:
        named: list[Any] = list(shape)
        if batch is not None and shape:
            named[0] = batch
        if time is not None and len(shape) > 1 and shape[1] == steps:
            named[1] = time
        text = ", ".join(map(str, named))
        for size, name in zip(shape, named, strict=True):
            if isinstance(name, str) and (size < 1 or size % factor(name)):
                raise LayerError(
                    f"a size of x cannot be {name!r}",
                    expected=f"at least 1, and a multiple of {factor(name)}",
                    got=f"{size} in {shape}",
                )
        return tuple(export.symbolic_shape(text, scope=within)) if text else ()

    return [jax.ShapeDtypeStruct(sizes(leaf.shape), leaf.dtype) for leaf in inputs]


def factor(size: str | None) -> int:
    """Of what the size is a multiple; 0 where it is fixed."""
    found = _SIZE.fullmatch(size or "")
    return 0 if found is None else int(found[1] or 1)


def check_names(batch: object, time: object) -> None:
    found = []
    for what, size in (("batch", batch), ("time", time)):
        name = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if size is not None and name is None:
            raise LayerError(
                f"{what} must be a name for a size",
                expected="None, or a name or its multiple: 'b', '4*b'",
                got=format_short(size),
            )
        found.append(name and name[2])
    if found[0] is not None and found[0] == found[1]:
        raise LayerError("batch and time must have names of their own", got=f"{batch!r}, {time!r}")


def scope(constraints: Sequence[str]) -> export.SymbolicScope:
    given = not isinstance(constraints, str) and all(isinstance(one, str) for one in constraints)
    try:
        if not given:
            raise ValueError
        return export.SymbolicScope(tuple(constraints))
    except ValueError as error:
        raise LayerError(
            "constraints must be a list of comparisons by >=, <= or ==",
            got=format_short(constraints) + (f": {error}" if given else ""),
            hint='constraints=["t >= 3"]',
        ) from None


def _steps(inputs: list[Any]) -> int | None:
    """How many entries the axis of time has, if there is one."""
    return next((leaf.shape[1] for leaf in inputs if len(leaf.shape) > 1), None)


def blocks(inputs: list[Any], count: int) -> list[jax.ShapeDtypeStruct]:
    steps = _steps(inputs)

    def sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
        timed = len(shape) > 1 and shape[1] == steps
        return (shape[0], count, *shape[2:]) if timed else shape

    return [jax.ShapeDtypeStruct(sizes(leaf.shape), leaf.dtype) for leaf in inputs]
