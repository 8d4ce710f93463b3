"""Einsum: a product of the input with a kernel, in the notation of ``jnp.einsum``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ...base import arguments
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_short, format_spec
from ...base.types import Initializer, Params
from ...core.dtypes import at_least_float32


@factory
def Einsum(
    equation: str,
    *,
    bias_axes: str = "",
    kernel_init: Initializer | None = None,
    bias_init: Initializer = initializers.zeros,
    **sizes: int,
) -> Layer:
    """``y = einsum(equation, x, kernel) + bias``.

    The sizes of letters in ``x`` come from the input, the others are given:
    ``Einsum("...d,dhk->...hk", h=8, k=64)`` maps features to 8 heads of 64.

    Args:
      equation: "x,kernel->y", a letter for each axis; ``...`` in x and y for any leading axes, or
        last in both for any trailing ones.
      bias_axes: the letters of y that the bias has, in their order in y; none by default.
      kernel_init: as in ``jax.nn.initializers``; by default ``glorot_uniform`` with the fans of the
        equation: letters that are summed over are inputs, letters of y alone outputs.
      bias_init: as in ``jax.nn.initializers``.
      **sizes: by letter, of the axes of the kernel that ``x`` does not have.

    Shapes:
      x: as in the equation, floating. y: as in the equation, of the dtype of ``x``.
      params: kernel, as in the equation; bias (sizes of ``bias_axes``).

    Raises:
      LayerError: for an equation of another form, a letter without a size, a size for a letter that
        the input has, and an input that does not fit.

    >>> import jlayers as jl
    >>> heads = jl.Einsum("...d,dhk->...hk", h=2, k=3, bias_axes="hk")
    >>> jl.out_spec(heads, jl.spec((5, 7, 4))).shape
    (5, 7, 2, 3)
    """
    axes = _parse(equation)
    if bad := [letter for letter in bias_axes if letter not in axes.y]:
        raise LayerError(f"bias_axes has {bad[0]!r}, which y has not", got=equation)
    for letter, size in sizes.items():
        if len(letter) > 1:
            raise LayerError(
                f"unknown argument {letter!r}",
                hint="sizes of the kernel are given by letter, and bias_axes says which the bias "
                "has: Einsum('abc,cd->abd', bias_axes='d', d=32)",
            )
        arguments.positive(letter, size)
        if letter not in axes.kernel or letter in axes.x:
            raise LayerError(
                f"a size is given for {letter!r}",
                expected="sizes of the kernel's axes that x does not have",
                got=equation,
            )

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        rank = len(axes.x)
        exact = rank if axes.others is None else None
        arguments.one_array(x, equation.split(",")[0], rank=exact, least_rank=rank)
        arguments.floating(x)
        known = axes.sizes(x.shape, sizes)
        for letter in axes.kernel:
            if letter not in known:
                raise LayerError(
                    f"the size of {letter!r} is not known",
                    got=f"{equation} for {format_spec(x)}",
                    hint=f"Einsum({equation!r}, {letter}=...)",
                )
        return initialize(
            key,
            x,
            kernel=(kernel_init or axes.glorot(), [known[letter] for letter in axes.kernel]),
            bias=(bias_init, [known[letter] for letter in bias_axes]) if bias_axes else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        own = cast_like(params, x)
        y: jax.Array = jnp.einsum(equation, x, own["kernel"])
        if not bias_axes:
            return y
        first = 0 if axes.others == "last" else y.ndim - len(axes.y)
        dims = [first + axes.y.index(letter) for letter in bias_axes]
        # As in a dense layer: the gradient of the bias is summed in float32 at least.
        bias = own["bias"].astype(at_least_float32(y.dtype))
        return y + lax.broadcast_in_dim(bias, y.shape, dims).astype(y.dtype)

    # It may sum over steps or move them: whether it does is found out.
    return pure(init, apply, sequence_mode=SequenceMode.UNKNOWN)


class _Axes(NamedTuple):
    """The letters of an equation; ``others``: "first" or "last", where x and y have more axes."""

    x: str
    kernel: str
    y: str
    others: str | None

    def sizes(self, shape: tuple[int, ...], given: Mapping[str, int]) -> dict[str, int]:
        first = 0 if self.others == "last" else len(shape) - len(self.x)
        own = shape[first : first + len(self.x)]
        return dict(given) | dict(zip(self.x, own, strict=True))

    def glorot(self) -> Initializer:
        summed = [letter in self.x and letter not in self.y for letter in self.kernel]
        new = [letter not in self.x for letter in self.kernel]
        batch = [not (a or b) for a, b in zip(summed, new, strict=True)]
        found = ([i for i, is_one in enumerate(kind) if is_one] for kind in (summed, new, batch))
        return initializers.glorot_uniform(*found)


def _parse(equation: str) -> _Axes:
    """The axes of "x,kernel->y"."""
    text = equation.replace(" ", "") if isinstance(equation, str) else ""
    operands, arrow, y = text.partition("->")
    x, comma, kernel = operands.partition(",")
    x, others = _without_dots(x)
    y, others_of_y = _without_dots(y)
    letters = [x, kernel, y]
    if (
        not (arrow and comma and kernel)
        or others != others_of_y
        or any(part and not part.isalpha() for part in letters)
        or any(len(set(part)) < len(part) for part in letters)
        or not set(y) <= set(x + kernel)
    ):
        raise LayerError(
            f"equation must be of the form 'x,kernel->y', got {format_short(equation)}",
            expected="a letter for each axis, each at most once; '...' first or last in x and y",
            hint='Einsum("...d,dhk->...hk", h=8, k=64)',
        )
    return _Axes(x, kernel, y, others)


def _without_dots(letters: str) -> tuple[str, str | None]:
    if letters.startswith("..."):
        return letters[3:], "first"
    return (letters[:-3], "last") if letters.endswith("...") else (letters, None)
