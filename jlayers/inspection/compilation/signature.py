"""What ``jax.jit`` compiles a function for, leaf by leaf, and how two such signatures differ.

How to read this file: ``signature`` makes a ``Signature`` of a call, one ``Leaf`` for each array or
number; ``changes`` compares two of them and says, with ``_hint``, what to do about each ``Change``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ...base.errors import truncate
from ...base.specs import format_short, path_text

_FREE = "not bound to a device"


class Leaf(NamedTuple):
    """What a program depends on of one leaf of the arguments.

    Attributes:
      kind: its dtype; ``"a Python float"``; the text of anything else.
      shape: None for all but arrays.
      weak: whether its dtype gives way to others, as that of a Python number does.
      placement: the devices it is bound to and how it is split, or that it is not bound.
      value: of a Python number, which is compiled in only where it is static.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    weak: bool = False
    placement: str = _FREE
    value: str = ""

    def __str__(self) -> str:
        return self.kind if self.shape is None else f"{self.kind}{[*self.shape]}"


class Signature(NamedTuple):
    """All leaves by path, and the structures of the arguments by name."""

    leaves: dict[str, Leaf]
    structures: dict[str, Any]


class Change(NamedTuple):
    """One difference between two signatures.

    Attributes:
      path: of the leaf, the name of the argument first: ``"run/params/dense/kernel"``.
      text: ``"float32[32, 784] became float32[17, 784]"``.
      hint: what to do about it, or None.
    """

    path: str
    text: str
    hint: str | None = None


def signature(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
    """The signature of a call.

    Works on donated arrays too: their shapes and dtypes survive deletion.

    Args:
      names: of the positional arguments, as far as they are known.
      args, kwargs: those of the call.
    """
    known = [*names[: len(args)], *(f"argument {i}" for i in range(len(names), len(args)))]
    leaves, structures = {}, {}
    for name, tree in [*zip(known, args, strict=True), *kwargs.items()]:
        flat, structures[name] = jax.tree.flatten_with_path(tree)
        for path, leaf in flat:
            leaves["/".join(filter(None, (name, path_text(path))))] = _leaf(leaf)
    return Signature(leaves, structures)


def _leaf(leaf: Any) -> Leaf:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        # As jit sees it: NumPy's float64 is float32 there, unless 64 bits are enabled.
        aval: Any = jax.typeof(leaf)
        weak = bool(getattr(aval, "weak_type", False))
        return Leaf(str(aval.dtype), tuple(aval.shape), weak, _placement(leaf))
    if isinstance(leaf, bool | int | float | complex):
        return Leaf(f"a Python {type(leaf).__name__}", value=repr(leaf))
    return Leaf(format_short(leaf))


def _placement(leaf: Any) -> str:
    # A numpy array follows the others, and so does an array that jax placed by itself.
    if not isinstance(leaf, jax.Array) or not leaf.committed:
        return _FREE
    sharding: Any = leaf.sharding
    devices = sorted((device.platform, device.id) for device in sharding.device_set)
    shown = [f"{platform}:{number}" for platform, number in devices]
    # The devices of a host fit on the line; of a cluster the first and the last say enough.
    where = ", ".join(shown) if len(shown) <= 4 else f"{shown[0]} to {shown[-1]}"
    if isinstance(sharding, jax.sharding.NamedSharding):
        parts = ", ".join(map(str, sharding.spec))
        sizes = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
        return f"split ({parts}) over the mesh ({sizes}) of {where}"
    return f"bound to {where}"


def changes(old: Signature, new: Signature) -> list[Change]:
    """What is different, in the order of the arguments; empty where nothing is."""
    found = []
    for path in dict.fromkeys([*old.leaves, *new.leaves]):
        before, after = old.leaves.get(path), new.leaves.get(path)
        if before is None:
            found.append(Change(path, f"{after} is new"))
        elif after is None:
            found.append(Change(path, f"{before} is gone"))
        elif before._replace(value="") != after._replace(value=""):
            found.append(_change(path, before, after))
    # Leaves that are new or gone explain a new structure better than two long treedefs do.
    if found:
        return found
    for name, structure in old.structures.items():
        if structure != new.structures.get(name):
            was, now = (truncate(str(tree)) for tree in (structure, new.structures.get(name)))
            found.append(Change(name, f"the tree {was} became {now}"))
    # A traced number may have any value: only where nothing else is different was it static.
    for path, leaf in old.leaves.items():
        if not found and leaf.value != new.leaves[path].value:
            found.append(Change(path, f"{leaf.value} became {new.leaves[path].value}"))
    return found


def _change(path: str, before: Leaf, after: Leaf) -> Change:
    # One difference is enough: another shape or dtype compiles again whatever the weak type is.
    texts, hint = [], None
    if str(before) != str(after):
        texts.append(f"{before} became {after}")
        hint = _hint(before, after)
    elif before.weak != after.weak:
        was, now = ("", "not ") if before.weak else ("not ", "")
        texts.append(f"{was}weakly typed became {now}so")
        hint = "jnp.asarray(x, dtype), the dtype written out"
    if before.placement != after.placement:
        texts.append(f"{before.placement} became {after.placement}")
        hint = hint or "jax.device_put before the first step, to where the later ones are"
    return Change(path, ", ".join(texts), hint)


def _hint(before: Leaf, after: Leaf) -> str | None:
    if before.shape is None or after.shape is None:
        numbers = before.value or after.value
        return "jnp.asarray(x, dtype) instead of Python numbers" if numbers else None
    # Where the shape is another one too, a cast alone would not bring the old program back.
    if before.kind != after.kind:
        return f"x.astype({before.kind!r})" if before.shape == after.shape else None
    same_rank = len(before.shape) == len(after.shape) > 0
    if same_rank and before.shape[1:] == after.shape[1:]:
        return "batches of one size: Batches(..., last='drop') or last='pad'"
    return "inputs of one shape: pad them"
