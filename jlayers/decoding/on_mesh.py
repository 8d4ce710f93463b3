"""Decoding on a mesh: parameters, prompts and carries in the places that the rules say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.specs import format_short, spec
from ..base.types import Carry, Params, PyTree, State
from ..sharding import Layout, Rules
from ..sharding.batches import AnyMesh, put, put_batch
from .batch_axes import batch_axes
from .context import beside, specs_for
from .prompts import Prompt

T = TypeVar("T")
# What a program is given: parameters, state, prompt, key and context.
Given = tuple[Params, State, Prompt, jax.Array | None, PyTree]


class OnMesh(NamedTuple):
    """A mesh and rules, part of the key of a program."""

    mesh: AnyMesh
    rules: Rules

    def layout(self, model: Layer, prompt: Prompt, context: PyTree) -> Layout:
        """The places of the model's arrays, which do not depend on the prompt's shape."""
        rows, length = prompt.ids.shape
        x = beside(spec((rows, length), jnp.int32), specs_for(context, rows))
        return self.rules.layout(model, x, self.mesh)

    def put(self, model: Layer, given: Given) -> Given:
        """What the program is given, in its places; rows that cannot be divided are whole."""
        params, state, prompt, key, context = given
        layout = self.layout(model, prompt, context)
        params, state = layout.shard(params), layout.shard(state)
        rows = jax.sharding.PartitionSpec(*layout.batch[:1])
        prompt, context = put_batch(self.mesh, rows, (prompt, context), uneven=True)
        key = None if key is None else put(key, _whole(layout))
        return params, state, prompt, key, context

    def run(self, model: Layer, function: Callable[..., T], given: Given) -> T:
        """``function(*given, place)`` with the mesh around it; what it returns is whole."""
        layout = self.layout(model, given[2], given[4])
        with_place = functools.partial(_with_place, function, layout)
        return layout.as_auto(with_place, _whole(layout))(*given)


def _with_place(function: Callable[..., T], layout: Layout, *given: Any) -> T:
    def place(start: Callable[[int], Carry], rows: int) -> Callable[[Carry], Carry]:
        axes = batch_axes(start, rows)
        return lambda carry: layout.constrain_carry(carry, axes)

    # Of rules without places: all that comes out is whole.
    return Layout(layout.mesh, jax.sharding.PartitionSpec(), {}).constrain(function(*given, place))


def _whole(layout: Layout) -> jax.sharding.NamedSharding:
    return layout.sharding(jax.sharding.PartitionSpec())


def on_mesh(mesh: object, rules: object) -> OnMesh | None:
    """The mesh and the rules that a user gave, or None.

    Raises:
      LayerError: unless there are both or neither.
    """
    if mesh is None and rules is None:
        return None
    if not isinstance(mesh, AnyMesh) or not isinstance(rules, Rules):
        raise LayerError(
            "a mesh comes with rules",
            expected='mesh=jax.make_mesh((4,), ("data",)), rules=jl.sharding.fsdp("data")',
            got=f"mesh={format_short(mesh)}, rules={format_short(rules)}",
        )
    return OnMesh(mesh, rules)
