"""Do these parameters belong to this model? If not: every difference, by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .errors import LayerError
from .specs import PyTree, show

_SHOWN = 20


def check_fit(tree: Any, expected: Mapping[str, Any], what: str, x: PyTree) -> None:
    """Raises unless ``tree`` has the structure, the shapes and the kinds of dtype of ``expected``.

    A float may be any float: parameters cast to bfloat16 are still the model's own.

    Args:
      tree: the ``params`` or ``state`` that a user passed.
      expected: the tree of specs that ``init`` would give for ``x``.
      what: ``"params"`` or ``"state"``.
      x: the input, for the text.

    Raises:
      LayerError: with all differences.
    """
    if not isinstance(tree, Mapping):
        raise _not_a_tree(tree, what)
    same_structure = jax.tree.structure(tree) == jax.tree.structure(expected)  # type: ignore[operator]
    if same_structure and all(map(_fits, jax.tree.leaves(tree), jax.tree.leaves(expected))):
        return
    have, want = _by_path(tree), _by_path(expected)
    rows = [("missing", path, show(want[path])) for path in want if path not in have]
    rows += [("extra", path, _show(have[path])) for path in have if path not in want]
    rows += [
        ("differs", path, f"expected {show(want[path])}, got {_show(have[path])}")
        for path in want
        if path in have and not _fits(have[path], want[path])
    ]
    counts = [
        f"{sum(kind == wanted for kind, _, _ in rows)} {wanted}"
        for wanted in ("missing", "extra", "differs")
        if any(kind == wanted for kind, _, _ in rows)
    ]
    width = max((len(path) for _, path, _ in rows), default=0)
    lines = [f"\n    {kind:<8} {path:<{width}}  {text}" for kind, path, text in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"\n    and {len(rows) - _SHOWN} more")
    summary = ", ".join(counts) or "empty entries or other containers than dicts"
    raise LayerError(
        f"{what} do not fit the model: {summary}"
        if what == "params"
        else f"{what} does not fit the model: {summary}",
        expected=f"the {what} that init gives for x {show(x)}",
        got="".join(lines) or f"{jax.tree.structure(tree)}",
        mend=_mend(what, have, want),
    )


def _mend(what: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> str | None:
    if what == "state" and not have:
        return "pass the state that init returned: params, state = layer.init(key, x)"
    return None


def _not_a_tree(tree: Any, what: str) -> LayerError:
    mend = "params, state = layer.init(key, x); layer.apply(params, state, x)"
    if isinstance(tree, tuple) and len(tree) == 2:
        mend = f"init returns a pair, unpack it: {mend}"
    if hasattr(tree, "apply") and hasattr(tree, "children"):
        got = f"the layer {tree.short()}"
    else:
        got = show(tree) if tree is not None else "None"
    return LayerError(
        f"{what} is no tree of arrays", expected="nested dicts of arrays", got=got, mend=mend
    )


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _fits(leaf: Any, spec: jax.ShapeDtypeStruct) -> bool:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return False
    if tuple(leaf.shape) != tuple(spec.shape):
        return False
    if jnp.issubdtype(spec.dtype, jnp.inexact):
        return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
    return bool(leaf.dtype == spec.dtype)


def _show(leaf: Any) -> str:
    return show(leaf) if hasattr(leaf, "dtype") else f"{type(leaf).__name__} {leaf!r}"[:60]
