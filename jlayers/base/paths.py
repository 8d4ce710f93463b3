"""Paths: ``encoder/conv_1/kernel``, and what patterns select over the paths of a tree.

How to read this file: ``matches`` says what a pattern means; ``flatten`` and ``unflatten`` go from
nested dicts to paths and back; ``select`` (a mask) and ``partition`` (two trees) use the patterns.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ..core.weights import is_weight
from .errors import LayerError, public_api
from .specs import format_short, path_text
from .types import Params, PyTree, State


def join(path: str, name: str) -> str:
    """``path/name``; either may be empty."""
    return f"{path}/{name}" if path and name else path or name


def matches(path: str, pattern: str) -> bool:
    """Whether a path fits a pattern, segment by segment.

    ``*`` and ``?`` match characters within one segment, ``**`` matches any number of segments.

    >>> matches("encoder/conv_1/kernel", "**/kernel"), matches("encoder/conv_1", "encoder/*")
    (True, True)
    >>> matches("encoder/conv_1/kernel", "encoder/*"), matches("encoder", "encoder/**")
    (False, False)
    """
    return _match(path.split("/") if path else [], pattern.split("/"))


def _match(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    # fnmatch has no ``**``: segments are matched one by one.
    if pattern[0] == "**":
        # At the end it means everything inside, as in gitignore: one segment or more.
        if len(pattern) == 1:
            return bool(path)
        return any(_match(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _match(path[1:], pattern[1:])


def flatten(tree: PyTree) -> dict[str, Any]:
    """A nested dict as one flat dict from path to leaf, sorted by path.

    >>> flatten({"dense": {"kernel": 1, "bias": 2}})
    {'dense/bias': 2, 'dense/kernel': 1}
    """
    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_weight)
    return {path_text(path): leaf for path, leaf in leaves}


# What an instrument, such as a tap, keeps in the state beside the layers' own entries.
INSTRUMENT = "<"


def own_paths(state: State) -> list[str]:
    """The paths of a state that are of layers, and not of an instrument that looks at them.

    >>> own_paths({"norm": {"mean": 0, "<tap 2>": 1}, "<tap 1>": 2})
    ['norm/mean']
    """
    return [path for path in flatten(state) if not path.rpartition("/")[2].startswith(INSTRUMENT)]


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of a flat one: the inverse of ``flatten``.

    Raises:
      LayerError: where one path runs through the leaf of another.

    >>> unflatten({"dense/bias": 2, "dense/kernel": 1})
    {'dense': {'bias': 2, 'kernel': 1}}
    """
    tree: dict[str, Any] = {}
    inner: set[int] = {id(tree)}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise LayerError(f"the path {path!r} runs through a leaf at {name!r}")
            # By identity, since a leaf may itself be an empty dict.
            inner.add(id(node))
        if id(node.get(last)) in inner:
            raise LayerError(f"the path {path!r} is a leaf, and leads to others")
        node[last] = leaf
    return tree


@public_api
def select(tree: PyTree, *patterns: str) -> PyTree:
    """The tree with True for every leaf whose path fits one of the patterns, False elsewhere.

    A mask for ``optax.masked``, or, mapped to labels, for ``optax.multi_transform``.

    Args:
      tree: parameters, state, gradients: nested dicts.
      *patterns: ``"**/bias"``, ``"encoder/**"``; see ``matches``.

    Raises:
      LayerError: for a pattern that fits no path, which most likely is a typing error.

    >>> params = {"encoder": {"kernel": 1.0, "bias": 0.0}, "head": {"kernel": 1.0, "bias": 0.0}}
    >>> select(params, "**/kernel")
    {'encoder': {'bias': False, 'kernel': True}, 'head': {'bias': False, 'kernel': True}}
    """
    # A pattern with a mistake in it would freeze or decay nothing, unseen.
    check_each_fits(patterns, list(flatten(tree)))
    return jax.tree.map_with_path(
        lambda path, leaf: any(matches(path_text(path), pattern) for pattern in patterns),
        tree,
    )


@public_api
def partition(tree: Params, *patterns: str) -> tuple[Params, Params]:
    """The tree in two: the leaves whose paths fit one of the patterns, and the others.

    Args:
      tree: parameters, state, gradients: nested dicts.
      *patterns: ``"**/bias"``, ``"encoder/**"``; see ``matches``.

    Returns:
      ``(fitting, others)``, two nested dicts that hold each leaf once; ``combine`` joins them.

    Raises:
      LayerError: for a pattern that fits no path.

    >>> partition({"body": {"kernel": 1}, "head": {"kernel": 2}}, "body/**")
    ({'body': {'kernel': 1}}, {'head': {'kernel': 2}})
    """
    flat = _flat_dict(tree)
    check_each_fits(patterns, list(flat))
    fitting = {
        path: leaf
        for path, leaf in flat.items()
        if any(matches(path, pattern) for pattern in patterns)
    }
    others = {path: leaf for path, leaf in flat.items() if path not in fitting}
    return unflatten(fitting), unflatten(others)


@public_api
def combine(*trees: Params) -> Params:
    """The tree of all leaves: the inverse of ``partition``.

    Raises:
      LayerError: for trees that are not nested dicts, and for a path that is in two of them.

    >>> combine({"body": {"kernel": 1}}, {"head": {"kernel": 2}})
    {'body': {'kernel': 1}, 'head': {'kernel': 2}}
    """
    joined: dict[str, Any] = {}
    for tree in trees:
        flat = _flat_dict(tree)
        # Not the last one wins: which tree a leaf came from would be a matter of order.
        if twice := [path for path in flat if path in joined]:
            raise LayerError(f"two trees have a leaf at {twice[0]!r}")
        joined |= flat
    return unflatten(joined)


def _flat_dict(tree: Params) -> dict[str, Any]:
    """``flatten`` of nested dicts; other containers would come back as dicts."""
    keys = [key for path, _ in jax.tree.leaves_with_path(tree) for key in path]
    nested = isinstance(tree, dict) and all(isinstance(key, jax.tree_util.DictKey) for key in keys)
    if jax.tree.leaves(tree) and not nested:
        raise LayerError("the tree must be nested dicts, such as params", got=format_short(tree))
    return flatten(tree)


def check_each_fits(patterns: tuple[str, ...], paths: list[str], what: str = "pattern") -> None:
    """Raises for a pattern that fits none of the paths; ``what`` is what users call it."""
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise LayerError(
                f"a pattern must be a text, got {format_short(pattern)}",
                hint='each pattern by itself: select(params, "**/bias", "head/**")',
            )
        if not any(matches(path, pattern) for path in paths):
            # Twenty show how paths look here; a model may have thousands.
            shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
            raise LayerError(
                f"the {what} {pattern!r} fits no path",
                got=shown or "nothing inside",
                hint=similar_pattern(pattern, paths),
            )


def similar_pattern(pattern: str, paths: Iterable[str]) -> str | None:
    """A hint for a pattern that fits none of the paths, where one more ``**`` does fit."""
    paths = list(paths)
    for other in (f"{pattern}/**", f"**/{pattern}", f"**/{pattern}/**"):
        if any(matches(path, other) for path in paths):
            return repr(other)
    return None
