"""What attention layers take: steps, and beside them a mask and a bias given by the caller."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...base.errors import LayerError
from ...base.receptive_field import EVERYWHERE, ReceptiveField
from ...base.sequence import Steps, made_of_steps, split
from ...base.specs import format_spec
from ...base.types import PyTree
from .base import Spec, check_steps

PAIRS = "(batch, [num_heads,] queries, keys), any of them 1"


class Given(NamedTuple):
    """An input taken apart: ``x`` gives queries, ``keys`` and ``values`` what they say."""

    x: Any
    keys: Any
    values: Any
    mask: Any = None
    bias: Any = None
    relative_bias: Any = None

    def check(self, num_heads: int) -> None:
        """Raises unless mask and bias fit to the steps."""
        shape = (self.x.shape[0], num_heads, self.x.shape[1], self.keys.shape[1])
        for name, pairs in (("mask", self.mask), ("bias", self.bias)):
            if pairs is not None:
                _check_pairs(name, pairs, shape)

    def visible(self, key_mask: jax.Array | None) -> jax.Array | None:
        """Bools (batch or 1, num_heads or 1, queries or 1, keys), or None for all."""
        of_keys = None if key_mask is None else key_mask[:, None, None]
        if self.mask is None:
            return of_keys
        mask = four_axes(self.mask)
        if of_keys is None:
            return mask
        shape = jnp.broadcast_shapes(mask.shape, of_keys.shape)
        return jnp.broadcast_to(mask, shape) & jnp.broadcast_to(of_keys, shape)

    def added(self) -> jax.Array | None:
        """The bias as (batch or 1, num_heads or 1, queries or 1, keys or 1)."""
        return None if self.bias is None else four_axes(self.bias)


def of_self(x: Any) -> Given:
    """The input of self-attention: steps, or a dict of ``x`` and what goes with it."""
    if not isinstance(x, dict):
        return Given(x, x, x)
    if "x" not in x or not set(x) <= {"x", "memory", "mask", "bias", "relative_bias"}:
        raise LayerError(
            "takes steps, or a dict of them and a mask or a bias",
            expected="x, or {'x': x, 'mask': mask, 'bias': bias}, and 'memory' for other keys",
            got=format_spec(x),
        )
    further = (x.get(name) for name in ("mask", "bias", "relative_bias"))
    keys = x.get("memory", x["x"])
    return Given(x["x"], keys, keys, *further)


def of_cross(x: Any) -> Given:
    """The input of cross-attention: a pair, three, or a dict with a mask or a bias."""
    if isinstance(x, tuple | list) and len(x) in (2, 3):
        return Given(x[0], x[1], x[-1])
    if isinstance(x, dict):
        names = set(x) - {"mask", "bias"}
        if names in ({"x", "memory"}, {"x", "keys", "values"}):
            keys, values = (x.get(name, x.get("memory")) for name in ("keys", "values"))
            return Given(x["x"], keys, values, x.get("mask"), x.get("bias"))
    raise LayerError(
        "takes a pair",
        expected="(x, memory), (x, keys, values), or a dict of these with 'mask' or 'bias'",
        got=format_spec(x),
    )


def check_memory(given: Given, num_heads: int) -> None:
    """Raises unless queries, keys, values, mask and bias of cross-attention fit together."""
    for steps in given[:3]:
        check_steps(steps)
    for steps in (given.keys, given.values):
        # No promotion: one of the two would decide the dtype of the output unasked.
        if given.x.shape[0] != steps.shape[0] or given.x.dtype != steps.dtype:
            raise LayerError(
                "x and memory are not of one batch and one dtype",
                got=f"{format_spec(given.x)} and {format_spec(steps)}",
            )
    if given.keys.shape[1] != given.values.shape[1]:
        raise LayerError(
            "keys and values do not have the same steps",
            got=f"{format_spec(given.keys)} and {format_spec(given.values)}",
        )
    given.check(num_heads)


def check_beside(given: Given) -> None:
    """Raises unless keys of another sequence have the steps of ``x``."""
    x, keys = given.x, given.keys
    if (x.shape[:2], x.dtype) != (keys.shape[:2], keys.dtype):
        raise LayerError(
            "x and the memory beside it must have the same steps and one dtype",
            got=f"{format_spec(x)} and {format_spec(keys)}",
            hint="CrossAttention, for a memory that is there as a whole",
        )


def field_of_memory(x: PyTree) -> ReceptiveField:
    """Of a memory that is computed from the model's own input, every step is read."""
    given = of_cross(x)
    found = made_of_steps(given.keys) or made_of_steps(given.values)
    return EVERYWHERE if found else ReceptiveField()


def split_pair(first: Steps, second: Steps) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Both as arrays, and the mask of the steps at which both are valid."""
    a, mask = split(first)
    if second is first:
        return a, a, mask
    b, other = split(second)
    if mask is None or other is None:
        return a, b, other if mask is None else mask
    return a, b, mask & other


def four_axes(pairs: jax.Array) -> jax.Array:
    """With an axis of heads."""
    return pairs if pairs.ndim == 4 else pairs[:, None]


def _check_pairs(name: str, pairs: Spec, shape: tuple[int, ...]) -> None:
    if name == "mask" and pairs.dtype != bool:
        raise LayerError(
            f"the mask must be bools, got {pairs.dtype}",
            got=format_spec(pairs),
            hint="mask > 0; what is added to the scores is a 'bias'",
        )
    if name == "bias" and not jnp.issubdtype(pairs.dtype, jnp.floating):
        raise LayerError(
            f"the bias must be floating, got {pairs.dtype}",
            got=format_spec(pairs),
            hint="True where a query attends to a key is a 'mask'",
        )
    wanted = shape if len(pairs.shape) == 4 else (shape[0], *shape[2:])
    sizes = zip(pairs.shape, wanted, strict=False)
    if len(pairs.shape) not in (3, 4) or any(have not in (1, want) for have, want in sizes):
        # From rows and steps alone it is not known whether they are queries and keys.
        hint = f"{name}[None] for all rows; padding is the mask of a Sequence"
        raise LayerError(
            f"the {name} does not fit the steps",
            expected=f"{PAIRS}: {list(shape)}",
            got=format_spec(pairs),
            hint=hint if len(pairs.shape) == 2 else None,
        )
