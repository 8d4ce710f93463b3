"""Do these parameters belong to this model? If not: every difference, by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .errors import LayerError
from .specs import PyTree, format_short, format_spec

_SHOWN = 20
_MISMATCHES = {
    "params": "params do not fit the model",
    "state": "state does not fit the model",
    "new state": "the new state does not fit the model",
    "carry": "the carry does not fit the model and the block",
}


def check_tree(tree: Any, what: str) -> None:
    """Raises unless what a user passed for ``what`` is a dict, as a tree of parameters is."""
    if type(tree) is dict:
        return
    hint = "params, state = layer.init(key, x); layer.apply(params, state, x)"
    if isinstance(tree, tuple) and len(tree) == 2 and all(type(part) is dict for part in tree):
        hint = f"init returns a pair, unpack it: {hint}"
    plain = tree is None or hasattr(tree, "shape") or isinstance(tree, str | int | float)
    raise LayerError(
        f"{what} is no tree of arrays",
        expected="nested dicts of arrays",
        got=format_short(tree) if plain else f"a {type(tree).__name__}, {format_short(tree)}",
        hint=hint,
    )


def check_tree_matches(
    tree: Any, expected: Mapping[str, Any], what: str, x: PyTree, beside: Any = None
) -> None:
    """Raises unless ``tree`` has the structure, the shapes and the kinds of dtype of ``expected``.

    A float may be any float: parameters cast to bfloat16 are still the model's own.

    Args:
      tree: the ``params`` or ``state`` that a user passed.
      expected: the tree of specs that ``init`` would give for ``x``.
      what: ``"params"``, ``"state"``, ``"new state"`` or ``"carry"``.
      x: the input, for the text.
      beside: the tree that was passed beside, for the text.

    Raises:
      LayerError: with all differences.
    """
    if _same(tree, expected):
        return
    check_tree(tree, what)
    have, want = dict(_by_path(tree)), dict(_by_path(expected))
    rows = [("missing", path, format_spec(want[path])) for path in want if path not in have]
    rows += [("extra", path, format_short(have[path])) for path in have if path not in want]
    rows += [
        ("different", path, f"expected {format_spec(want[path])}, got {_kind(have[path])}")
        for path in want
        if path in have and not _fits(have[path], want[path])
    ]
    counts = [
        f"{sum(kind == wanted for kind, _, _ in rows)} {wanted}"
        for wanted in ("missing", "extra", "different")
        if any(kind == wanted for kind, _, _ in rows)
    ]
    maker = "start" if what == "carry" else "init"
    width = max(len(path) for _, path, _ in rows)
    lines = [f"\n    {kind:<9}  {path:<{width}}  {text}" for kind, path, text in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"\n    and {len(rows) - _SHOWN} more")
    raise LayerError(
        f"{_MISMATCHES[what]}: {', '.join(counts)}",
        expected=f"the {what.split()[-1]} that {maker} gives for x {format_spec(x)}",
        got="".join(lines),
        hint=_hint(tree, expected, what, beside),
    )


def _hint(tree: dict[str, Any], expected: Mapping[str, Any], what: str, beside: Any) -> str | None:
    if what == "state" and not tree:
        return "pass the state that init returned: params, state = layer.init(key, x)"
    if beside is not None and _same(beside, expected):
        return "params and state have changed places: layer.apply(params, state, x)"
    for name, value in tree.items():
        if _same(value, expected):
            return f"its entry {name!r} fits: {what}[{name!r}]"
    return None


def _by_path(tree: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The path of every entry that is no dict with entries of its own."""
    for name, value in tree.items():
        here = path + (name if isinstance(name, str) else f"[{name!r}]")
        if type(value) is dict and value:
            yield from _by_path(value, f"{here}/")
        else:
            yield here, value


def _same(tree: Any, expected: Mapping[str, Any]) -> bool:
    return (
        type(tree) is dict
        and tree.keys() == expected.keys()
        and all(
            _same(tree[name], wanted) if isinstance(wanted, dict) else _fits(tree[name], wanted)
            for name, wanted in expected.items()
        )
    )


def _fits(leaf: Any, spec: Any) -> bool:
    if not isinstance(spec, jax.ShapeDtypeStruct) or isinstance(leaf, jax.ShapeDtypeStruct):
        return False
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return False
    if tuple(leaf.shape) != tuple(spec.shape):
        return False
    for kind in (jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(spec.dtype, kind):
            return bool(jnp.issubdtype(leaf.dtype, kind))
    return bool(leaf.dtype == spec.dtype)


def _kind(leaf: Any) -> str:
    return (
        f"the spec {format_spec(leaf)}"
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else format_short(leaf)
    )
