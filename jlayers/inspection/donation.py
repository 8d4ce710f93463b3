"""Donated memory: whether a tree can be donated, and whether its memory was used again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError, warn
from ..base.specs import format_spec, path_text, specs_of
from ..base.types import PyTree


def check_not_donated(state: PyTree) -> None:
    """Raises where an array of a state was donated to a call before: its numbers are gone."""
    for path, leaf in jax.tree.leaves_with_path(state):
        # A tracer is an array to isinstance, and has no memory that could be gone.
        concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if concrete and leaf.is_deleted():
            raise TrainingError(
                f"the state is used up: the memory of {path_text(path) or 'it'!r} was donated to "
                "an earlier step",
                expected="the state that the last step, or fit, returned",
                got=f"{format_spec(leaf)}, deleted: by training.compiled, by jax.jit with "
                "donate_argnums, or by fit with donate=True or after a hook kept its state",
                hint="state, metrics = step(state, batch); or pass jax.tree.map(jnp.copy, state)",
            )


def copied(tree: PyTree) -> PyTree:
    """The tree in memory of its own, which may be donated; NumPy's arrays are not, and stay."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def check_distinct(tree: PyTree) -> None:
    """Raises where two leaves of a tree are one array: it cannot be donated twice."""
    # By address, not by identity: two arrays of JAX may be of one buffer.
    seen: dict[tuple[int, int], str] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        own = path_text(path)
        for address in _addresses(leaf):
            if address in seen:
                raise TrainingError(
                    f"{seen[address]!r} and {own!r} of the state are one array",
                    expected="each leaf in memory of its own, which is donated",
                    hint="jnp.copy of one of them",
                )
            seen[address] = own


class Donation:
    """Checks once whether the arrays of a donated tree hold those of the next one.

    Args:
      tree: what will be donated; only the addresses of its arrays are kept.
    """

    def __init__(self, tree: PyTree):
        self._addresses = {
            address for leaf in jax.tree.leaves(tree) for address in _addresses(leaf)
        }

    def verify(self, tree: PyTree) -> None:
        """Warns of the arrays of the next tree that are in memory of their own."""
        # Of a state of NumPy arrays there are no addresses, and nothing to compare.
        own = [
            f"  {path_text(path)}: {format_spec(specs_of(leaf))}"
            for path, leaf in jax.tree.leaves_with_path(tree)
            if self._addresses and not self._addresses.issuperset(_addresses(leaf))
        ]
        if own:
            warn("the memory of the donated state was not used for:\n" + "\n".join(own))


def _addresses(leaf: object) -> list[tuple[int, int]]:
    """(device, address) of each non-empty shard."""
    if not isinstance(leaf, jax.Array):
        return []
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # An empty array has no memory, and its address may be that of any other.
    return [
        (shard.device.id, shard.data.unsafe_buffer_pointer())
        for shard in leaf.addressable_shards
        if shard.data.size
    ]
