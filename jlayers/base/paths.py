"""Paths: ``encoder/conv_1/kernel``, and what is selected by patterns over them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from .constructors import lift
from .errors import LayerError, public_api
from .layer import Layer
from .specs import PyTree, path_text


def walk(layer: Any, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer of a model with its path, parents first, in the order of the description.

    A transparent wrapper has the path of the layer inside it.

    >>> import jlayers as jl
    >>> for path, layer in jl.walk(jl.serial(jl.Dense(8), head=jl.repeat(jl.Dense(8), 3))):
    ...     print(repr(path), layer)
    '' serial(Dense(8), head=repeat(Dense(8), 3))
    'dense' Dense(8)
    'head' repeat(Dense(8), 3)
    'head' Dense(8)
    """
    layer = lift(layer)
    yield path, layer
    for name, child in layer.children.items():
        yield from walk(child, join(path, name))


def join(path: str, name: str) -> str:
    """``path/name``; either may be empty."""
    return f"{path}/{name}" if path and name else path or name


def matches(path: str, pattern: str) -> bool:
    """Whether a path fits a pattern, segment by segment.

    ``*`` and ``?`` stand for characters within one segment, ``**`` for any number of segments.

    >>> matches("encoder/conv_1/kernel", "**/kernel"), matches("encoder/conv_1", "encoder/*")
    (True, True)
    >>> matches("encoder/conv_1/kernel", "encoder/*"), matches("encoder", "encoder/**")
    (False, False)
    """
    return _match(path.split("/") if path else [], pattern.split("/"))


def _match(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        # At the end it stands for all that is inside, as in gitignore: one segment or more.
        if len(pattern) == 1:
            return bool(path)
        return any(_match(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _match(path[1:], pattern[1:])


def flatten(tree: PyTree) -> dict[str, Any]:
    """A nested dict as one flat dict from path to leaf, sorted by path.

    >>> flatten({"dense": {"kernel": 1, "bias": 2}})
    {'dense/bias': 2, 'dense/kernel': 1}
    """
    return {path_text(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


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
      LayerError: for a pattern that fits no path: a slip of the pen, most likely.

    >>> params = {"encoder": {"kernel": 1.0, "bias": 0.0}, "head": {"kernel": 1.0, "bias": 0.0}}
    >>> select(params, "**/kernel")
    {'encoder': {'bias': False, 'kernel': True}, 'head': {'bias': False, 'kernel': True}}
    """
    check_each_fits(patterns, list(flatten(tree)))
    return jax.tree.map_with_path(
        lambda path, leaf: any(matches(path_text(path), pattern) for pattern in patterns),
        tree,
    )


@public_api
def partition(tree: dict[str, Any], *patterns: str) -> tuple[dict[str, Any], dict[str, Any]]:
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
    flat = flatten(tree)
    check_each_fits(patterns, list(flat))
    fitting = {
        path: leaf
        for path, leaf in flat.items()
        if any(matches(path, pattern) for pattern in patterns)
    }
    others = {path: leaf for path, leaf in flat.items() if path not in fitting}
    return unflatten(fitting), unflatten(others)


def combine(*trees: dict[str, Any]) -> dict[str, Any]:
    """The tree of all leaves: the inverse of ``partition``.

    >>> combine({"body": {"kernel": 1}}, {"head": {"kernel": 2}})
    {'body': {'kernel': 1}, 'head': {'kernel': 2}}
    """
    return unflatten({path: leaf for tree in trees for path, leaf in flatten(tree).items()})


@public_api
def rewrite(layer: Any, pattern: str, change: Callable[[Layer], Any]) -> Layer:
    """The model with ``change(child)`` in the place of every layer whose path fits the pattern.

    Names, and so the paths of all parameters around, stay as they are. Inside is changed before
    outside; where a wrapper shares the path of the layer inside it, the layer inside is changed.

    Args:
      layer: a model.
      pattern: ``"encoder/**"``, ``"**/dense*"``; see ``matches``.
      change: a layer to a layer.

    Raises:
      LayerError: for a pattern that fits no layer.

    >>> import jlayers as jl
    >>> model = jl.serial(jl.Dense(64), jl.Dropout(0.5), jl.Dense(10))
    >>> jl.rewrite(model, "dropout", lambda layer: jl.Dropout(0.1))
    serial(Dense(64), Dropout(0.1), Dense(10))
    """
    layer = lift(layer)
    check_each_fits((pattern,), [path for path, _ in walk(layer) if path])
    return _rewrite(layer, "", pattern, change)


def _rewrite(layer: Layer, path: str, pattern: str, change: Callable[[Layer], Any]) -> Layer:
    new = {
        name: _rewrite(child, join(path, name), pattern, change)
        for name, child in layer.children.items()
    }
    if any(new[name] is not child for name, child in layer.children.items()):
        layer = layer.rebuild(new)
    if "" in new or not matches(path, pattern):
        return layer
    changed = lift(change(layer))
    # Keeping the kind keeps the name that the parent derives from it.
    return changed if changed is layer else changed._copy(kind=layer.kind)


def check_each_fits(patterns: tuple[str, ...], paths: list[str]) -> None:
    """Raises for a pattern that fits none of the paths."""
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
            raise LayerError(f"the pattern {pattern!r} fits no path", got=shown or "nothing inside")
