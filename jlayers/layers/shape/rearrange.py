"""Rearrange: axes in another order, split and joined, in the notation of einops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ...base import arguments
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_short, format_spec
from ...base.types import Params
from ...core.dtypes import has_sharded_type


@factory
def Rearrange(pattern: str, **sizes: int) -> Layer:
    """``einops.rearrange(x, pattern, **sizes)`` (Rogozhnikov, 2022, ICLR).

    It needs the package einops: ``pip install 'jlayers[einops]'``.

    Args:
      pattern: "axes of x -> axes of y", with parentheses round axes that are split or joined:
        ``"b (h p) (w q) c -> b (h w) (p q c)"`` makes patches of an image. ``...`` stands for any
        axes.
      **sizes: by name, of axes that a parenthesis of x splits.

    Shapes:
      x, y: as in the pattern; y is of the dtype of ``x``.

    Raises:
      LayerError: without einops, for a pattern that einops does not take, and an input that does
        not fit. A ``Sequence`` is refused where its steps, or rows, do not stay where they are.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Rearrange("b t (h d) -> b t h d", h=2), jl.spec((8, 5, 6))).shape
    (8, 5, 2, 3)
    """
    einops = _einops()
    if not isinstance(pattern, str) or "->" not in pattern:
        raise LayerError(
            f"pattern must be of the form 'x -> y', got {format_short(pattern)}",
            hint="Rearrange('b t (h d) -> b t h d', h=8)",
        )
    for name, size in sizes.items():
        arguments.positive(name, size)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        arguments.one_array(x, pattern.partition("->")[0].strip())

        def rearrange(x: jax.Array) -> jax.Array:
            y: jax.Array = einops.rearrange(x, pattern, **sizes)
            return y

        try:
            return _on_mesh(rearrange, x, pattern)(x)
        except einops.EinopsError as error:
            # Its last line says what is wrong; those before repeat the pattern and the input.
            problem = str(error).strip().splitlines()[-1].strip()
            raise LayerError(
                f"einops: {problem}", expected=repr(pattern), got=format_spec(x)
            ) from None

    # Where steps stay where they are each is rearranged by itself: that is found out.
    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)


def _on_mesh(
    rearrange: Callable[[jax.Array], jax.Array], x: jax.Array, pattern: str
) -> Callable[[jax.Array], jax.Array]:
    """With the sharding of the result, for which einops does not ask, where an axis is explicit."""
    if not has_sharded_type(x):
        return rearrange
    first, *others = jax.typeof(x).sharding.spec
    before, after = (side.split()[0] for side in pattern.split("->"))
    if before != after or any(others):
        raise LayerError(
            "on explicit axes of a mesh only rows can be split, and they have to stay in front",
            expected=f"the same first axis before and after, got {pattern!r}",
            got=str(jax.typeof(x)),
            hint="axis types Auto, or training.train_step(..., mesh=mesh, rules=rules)",
        )
    spec = jax.sharding.PartitionSpec(first)
    placed: Callable[[jax.Array], jax.Array] = jax.sharding.auto_axes(rearrange, out_sharding=spec)
    return placed


def _einops() -> Any:
    """The package, which is imported where a layer needs it."""
    try:
        import einops
    except ImportError:
        raise LayerError(
            "needs the package einops",
            hint="pip install 'jlayers[einops]', or a function of jnp.reshape and jnp.transpose",
        ) from None
    return einops
