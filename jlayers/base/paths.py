"""Paths: ``encoder/conv_1/kernel``, and what patterns select over the paths of a tree.

How to read this file: ``matches`` says what a pattern means, ``fits`` what several mean together;
``flatten`` and ``unflatten`` go from nested dicts to paths and back; ``select`` (a mask) and
``partition`` (two trees) use the patterns.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ..core.weights import is_weight
from .errors import LayerError, public_api
from .patterns import each_pattern
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


def fits(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path fits one of the patterns, and none of those after a ``!``.

    Where all of them have a ``!``, every other path fits.

    >>> fits("head/bias", ["**/bias", "!head/**"]), fits("body/bias", ["!head/**"])
    (False, True)
    """
    patterns = list(patterns)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    chosen = any(matches(path, pattern) for pattern in wanted) if wanted else bool(unwanted)
    return chosen and not any(matches(path, pattern) for pattern in unwanted)


def fitting(
    patterns: str | tuple[str, ...], paths: Iterable[str], what: str = "pattern"
) -> list[str]:
    """The paths that fit the patterns (see ``fits``), in their order.

    Raises:
      LayerError: for a pattern that fits no path; ``what`` is what users call it.

    >>> fitting(("**/kernel", "!head/**"), ["body/kernel", "body/bias", "head/kernel"])
    ['body/kernel']
    """
    patterns, paths = each_pattern(patterns), list(paths)
    check_each_fits(patterns, paths, what, negated=True)
    return [path for path in paths if fits(path, patterns)]


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
      *patterns: ``"**/bias"``, ``"encoder/**"``; those after a ``!`` are left out again:
        ``"**/bias", "!head/**"``. ``*`` is anything within a name, ``**`` any number of names.

    Raises:
      LayerError: for a pattern that fits no path, which most likely is a typing error.

    >>> params = {"encoder": {"kernel": 1.0, "bias": 0.0}, "head": {"kernel": 1.0, "bias": 0.0}}
    >>> select(params, "**/kernel")
    {'encoder': {'bias': False, 'kernel': True}, 'head': {'bias': False, 'kernel': True}}
    """
    # A pattern with a mistake in it would freeze or decay nothing, unseen.
    check_each_fits(patterns, list(flatten(tree)), negated=True)
    return jax.tree.map_with_path(
        lambda path, leaf: fits(path_text(path), patterns),
        tree,
    )


@public_api
def partition(tree: Params, *patterns: str) -> tuple[Params, Params]:
    """The tree in two: the leaves whose paths fit one of the patterns, and the others.

    Args:
      tree: parameters, state, gradients: nested dicts.
      *patterns: as for ``select``.

    Returns:
      ``(fitting, others)``, two nested dicts that hold each leaf once; ``combine`` joins them.

    Raises:
      LayerError: for a pattern that fits no path.

    >>> partition({"body": {"kernel": 1}, "head": {"kernel": 2}}, "body/**")
    ({'body': {'kernel': 1}}, {'head': {'kernel': 2}})
    """
    flat = _flat_dict(tree)
    chosen = dict.fromkeys(fitting(patterns, flat))
    others = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return unflatten({path: flat[path] for path in chosen}), unflatten(others)


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


def check_each_fits(
    patterns: tuple[str, ...],
    paths: list[str],
    what: str = "pattern",
    *,
    of: str = "path",
    negated: bool = False,
) -> None:
    """Raises for a pattern that fits none of the paths.

    Args:
      what, of: what users call a pattern, and what has a path.
      negated: whether a pattern may have a ``!`` (see ``fits``).
    """
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise LayerError(
                f"a pattern must be a text, got {format_short(pattern)}",
                hint='each pattern by itself: "**/bias", "head/**"; of a list *patterns',
            )
        sign = "!" if negated and pattern.startswith("!") else ""
        plain = pattern.removeprefix(sign)
        if not any(matches(path, plain) for path in paths):
            # Twenty show how paths look here; a model may have thousands.
            known = list(dict.fromkeys(paths))  # a wrapper has the path of the layer inside it
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise LayerError(
                f"the {what} {pattern!r} fits no {of}",
                got=shown or "nothing inside",
                hint=similar_pattern(plain, paths, sign),
            )


def similar_pattern(pattern: str, paths: Iterable[str], sign: str = "") -> str | None:
    """A hint for a pattern that fits none of the paths: with one more ``**``, or spelt alike."""
    paths = list(paths)
    for other in (f"{pattern}/**", f"**/{pattern}", f"**/{pattern}/**"):
        if any(matches(path, other) for path in paths):
            return repr(sign + other)
    names = {name for path in paths for name in path.split("/")}
    near = "/".join(_closest(name, names) for name in pattern.split("/"))
    if any(matches(path, near) for path in paths):
        return f"did you mean {sign + near!r}?"
    return None


def _closest(name: str, names: set[str]) -> str:
    """The name that is spelt alike; itself where there is none, and where it has a wildcard."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.75)), name)
