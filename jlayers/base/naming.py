"""Names of children, and the keys that follow from the names."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from .errors import Described, LayerError
from .initialization import Path

L = TypeVar("L", bound=Described)

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """``MaxPool`` -> ``max_pool``, ``SimpleRNN`` -> ``simple_rnn``, ``<lambda>`` -> ``lambda``."""
    return _WORD.sub("_", name.strip("<>")).lower()


def name_children(layers: Sequence[L], named: Mapping[str, L]) -> dict[str, L]:
    """Positional children by kind (``dense``, ``dense_1``, ...), then keyword children."""
    children: dict[str, L] = {}
    seen: Counter[str] = Counter()
    for layer in layers:
        number = seen[layer.kind]
        seen[layer.kind] += 1
        _adopt(children, f"{layer.kind}_{number}" if number else layer.kind, layer)
    for name, layer in named.items():
        _adopt(children, name, layer)
    return children


def _adopt(children: dict[str, L], name: str, layer: L) -> None:
    check_name(name)
    if name in children:
        raise LayerError(
            f"two children are named {name!r}",
            got=f"{children[name].short()} and {layer.short()}",
            hint="another keyword; positional children are named after their kind",
        )
    children[name] = layer


def check_name(name: str) -> None:
    """Raises unless ``name`` is one."""
    if not is_name(name):
        raise LayerError(
            f"{name!r} is no name", expected="a string that is not empty, without / * ? [ ]"
        )


def is_name(name: object) -> bool:
    """A name is one segment of a path: no slash, no wildcard, not empty."""
    return isinstance(name, str) and bool(name) and not any(c in name for c in "/*?[]")


@functools.lru_cache(maxsize=4096)
def _stable_hash(name: str) -> int:
    # Python's hash() changes with every process; keys must not.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


def child_key(key: Any, name: str) -> Any:
    """``fold_in(key, hash of name)``: adding or removing a sibling changes nobody else's key.

    The empty name, of a transparent wrapper's child, hands the key on. ``key`` may be a ``Path``
    that stands for one, and None.
    """
    if key is None or not name:
        return key
    if isinstance(key, Path):
        return key.fold_in(_stable_hash(name))
    return jax.random.fold_in(key, _stable_hash(name))


def entry_of(tree: Mapping[str, Any], name: str) -> Any:
    """What a tree holds for the child ``name``; the tree itself for the empty name."""
    return tree.get(name, {}) if name else tree


def merge_entry(tree: dict[str, Any], name: str, entry: Mapping[str, Any]) -> None:
    """Puts a child's ``entry`` into its parent's tree."""
    if name:
        tree[name] = entry
    else:
        tree.update(entry)
