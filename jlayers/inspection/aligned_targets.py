"""Targets that would be broadcast against the output of a model, rows against rows.

``(n,)`` minus ``(n, 1)`` is ``(n, n)``: a loss that is finite, falls, and trains nothing.

How to read this file: ``check_targets`` traces the loss only where two shapes are suspicious, and
follows each axis of the output and of the targets to where the two meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..base.errors import TrainingError
from ..base.specs import path_text, specs_of
from ..base.types import PyTree
from .flat_program import Operation, program_of

# Functions with a gradient of their own, which may do anything: their shapes have to say it.
_OWN_GRADIENT = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class _Axis(NamedTuple):
    """One axis of the output, or of a target.

    Attributes:
      leaf: which, by its number among all inputs of the loss.
      place, size: of the axis in that leaf.
    """

    leaf: int
    place: int
    size: int


# For each axis of a value, the axis of the output or of a target that it is, if any.
_Axes = tuple[_Axis | None, ...]


def check_targets(loss: Callable[..., Any], y: PyTree, targets: list[PyTree]) -> None:
    """Raises where the loss broadcasts a target against the output because an axis is missing.

    Args:
      loss: ``loss(y, *targets)``.
      y, targets: arrays or specs.
    """
    flat = jax.tree.leaves_with_path(specs_of((y, *targets)))
    shapes = [leaf.shape for _, leaf in flat]
    count = len(jax.tree.leaves(y))
    outputs, given = range(count), range(count, len(shapes))
    # Most losses get shapes that fit: they are not traced a second time.
    if not any(_suspicious(shapes[i], shapes[j]) for i, j in itertools.product(outputs, given)):
        return
    axes: dict[Any, _Axes] = {
        i: tuple(_Axis(i, place, size) for place, size in enumerate(shape))
        for i, shape in enumerate(shapes)
    }
    try:
        operations = program_of(loss, *specs_of((y, *targets))).operations
    except Exception:  # the call that follows raises it, and says where
        return
    for operation in operations:
        found = [axes.get(atom, ()) if isinstance(atom, int) else () for atom in operation.inputs]
        if _is_elementwise(operation):
            for a, b in itertools.permutations(found, 2):
                if met := _meeting(a, b, count):
                    i, j = sorted(met)
                    raise _error(path_text(flat[j][0]), shapes[i], shapes[j])
        made = _followed(operation, found)
        if made is not None:
            axes[operation.outputs[0]] = made


def _suspicious(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the longer shape has an axis of size 1 where the other, moved right, has a larger."""
    a, b = sorted((a, b), key=len)
    shift = len(b) - len(a)
    return shift > 0 and any(
        own > 1 and other == 1 for own, other in zip(a, b[shift:], strict=True)
    )


def _meeting(a: _Axes, b: _Axes, count: int) -> tuple[int, int] | None:
    """The two leaves where ``a`` has new axes in front, and its own meet ``b``'s of size 1.

    That is what NumPy's rules do to an array with fewer axes. A function that compares rows with
    rows on purpose puts its new axis somewhere else, or on both.
    """
    shift = next((i for i, axis in enumerate(a) if axis is not None), 0)
    own, other = a[shift:], b[shift:]
    if not shift or len(a) != len(b) or any(axis is None for axis in (*own, *b)):
        return None
    leaves = {axis.leaf for axis in own if axis}, {axis.leaf for axis in b if axis}
    if len(leaves[0]) > 1 or len(leaves[1]) > 1:
        return None
    for place, (one, two) in enumerate(zip(own, other, strict=True)):
        assert one is not None
        assert two is not None
        straight = one.place == place and two.place == place + shift
        across = (one.leaf < count) != (two.leaf < count)
        if straight and across and two.size == 1 and one.size > 1:
            return one.leaf, two.leaf
    return None


def _is_elementwise(operation: Operation) -> bool:
    # Only here: most losses get shapes that fit.
    from ..base.dependence.rules_elementwise import ELEMENTWISE

    name, made = operation.primitive.name, operation.made
    return (
        (name in ELEMENTWISE or name in _OWN_GRADIENT)
        and len(made) == 1
        and all(len(spec.shape) in (0, len(made[0].shape)) for spec in operation.specs)
    )


def _followed(operation: Operation, found: list[_Axes]) -> _Axes | None:
    """The axes of what an operation makes; None where it is not known."""
    name, shape = operation.primitive.name, operation.made[0].shape
    if _is_elementwise(operation):
        return tuple(_joined([axes[i] for axes in found if axes]) for i in range(len(shape)))
    if len(operation.inputs) != 1 or not found[0]:
        return None
    axes, given = found[0], operation.specs[0].shape
    params = operation.params
    if name == "broadcast_in_dim":
        made: list[_Axis | None] = [None] * len(shape)
        for axis, place in zip(axes, params["broadcast_dimensions"], strict=True):
            made[place] = axis
        return tuple(made)
    if name in ("reshape", "squeeze"):
        kept = [(axis, size) for axis, size in zip(axes, given, strict=True) if size != 1]
        if [size for _, size in kept] != [size for size in shape if size != 1]:
            return None
        left = iter(kept)
        # A trailing axis of size 1 that was there before is the same one.
        return tuple(
            next(left)[0] if size != 1 else (axes[i] if given[: i + 1] == shape[: i + 1] else None)
            for i, size in enumerate(shape)
        )
    if name == "transpose":
        return tuple(axes[place] for place in params["permutation"])
    if name.startswith("reduce_") and "axes" in params:
        return tuple(axis for i, axis in enumerate(axes) if i not in params["axes"])
    if name in ("slice", "rev", "cumsum", "cumprod", "cummax", "sort"):
        return axes
    return None


def _joined(axes: list[_Axis | None]) -> _Axis | None:
    """Of the axes that became one: the one that was not spread out, the output's of equal ones."""
    found = (axis for axis in axes if axis)
    return max(found, key=lambda axis: (axis.size, -axis.leaf), default=None)


def _error(target: str, y: tuple[int, ...], given: tuple[int, ...]) -> TrainingError:
    missing = len(given) < len(y)
    return TrainingError(
        "the loss would broadcast a target against the output, rows against rows",
        expected="equal shapes",
        got=f"output {y}, batch/{target} {given}",
        hint="target[..., None], or output[..., 0]" if missing else "target[..., 0]",
    )
