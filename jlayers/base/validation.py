"""Whether a tree belongs to a model. If not, every difference is reported by path.

How to read this file: ``check_tree_matches`` is the entry; ``specs.tree_matches`` has decided that
something differs, and here the text is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax

from .errors import LayerError
from .specs import format_short, format_spec, leaf_matches, tree_matches
from .types import Params, PyTree

Explain = Callable[[list[str], list[str]], str | None]

# More lines than that are not read; the counts are in the first line.
_SHOWN = 20
_MISMATCHES = {
    "params": "params do not fit the model",
    "state": "state does not fit the model",
    "new state": "the new state does not fit the model",
    "carry": "the carry does not fit the model and the block",
    "given carry": "the carry does not fit the layer and x",
}


def check_tree(tree: object, what: str) -> None:
    """Raises unless what a user passed as ``what`` is a dict."""
    if type(tree) is dict:
        return
    hint = "params, state = layer.init(key, x); layer.apply(params, state, x)"
    if what == "carry":
        hint = "carry = start(params, state, x); y, carry = step(params, state, carry, x)"
    elif isinstance(tree, tuple) and len(tree) == 2 and all(type(part) is dict for part in tree):
        hint = f"init returns a pair, unpack it: {hint}"
    # The type of these is plain from their text.
    plain = tree is None or hasattr(tree, "shape") or isinstance(tree, str | int | float)
    raise LayerError(
        f"{what} must be a tree of arrays",
        expected="nested dicts of arrays",
        got=format_short(tree) if plain else f"a {type(tree).__name__}, {format_short(tree)}",
        hint=hint,
    )


def check_tree_matches(
    tree: PyTree,
    expected: Mapping[str, PyTree],
    what: str,
    x: PyTree,
    beside: object = None,
    explain: Explain | None = None,
) -> None:
    """Raises unless ``tree`` has the structure, the shapes and the kinds of dtype of ``expected``.

    A float may be any float: parameters cast to bfloat16 are still the model's own.

    Args:
      what: ``"params"``, ``"state"``, ``"new state"``, ``"carry"`` or ``"given carry"``.
      beside: the other tree that was passed, for the hint.
      explain: a hint from the paths that are missing and those that are extra, or None.

    Raises:
      LayerError: with all differences.
    """
    if tree_matches(tree, expected):
        return
    check_tree(tree, what)
    have, want = dict(leaves_by_path(tree)), dict(leaves_by_path(dict(expected)))
    rows = [("missing", path, format_spec(want[path])) for path in want if path not in have]
    rows += [("extra", path, format_short(have[path])) for path in have if path not in want]
    for path, spec in want.items():
        if path in have and not leaf_matches(have[path], spec):
            leaf, abstract = have[path], isinstance(have[path], jax.ShapeDtypeStruct)
            got = f"the spec {format_spec(leaf)}" if abstract else format_short(leaf)
            rows.append(("different", path, f"expected {format_spec(spec)}, got {got}"))
    counts = [
        f"{sum(kind == wanted for kind, _, _ in rows)} {wanted}"
        for wanted in ("missing", "extra", "different")
        if any(kind == wanted for kind, _, _ in rows)
    ]
    maker = {"carry": "start", "given carry": "the layer"}.get(what, "init")
    width = max(len(path) for _, path, _ in rows)
    lines = [f"\n    {kind:<9}  {path:<{width}}  {text}" for kind, path, text in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"\n    and {len(rows) - _SHOWN} more")
    raise LayerError(
        f"{_MISMATCHES[what]}: {', '.join(counts)}",
        expected=f"the {what.split()[-1]} that {maker} gives for x {format_spec(x)}",
        got="".join(lines),
        hint=_hint(tree, expected, what, beside) or _without(rows) or _explained(rows, explain),
    )


def _hint(tree: Params, expected: Mapping[str, PyTree], what: str, beside: object) -> str | None:
    # Out of habit from libraries where a layer without state has none to pass.
    if what == "state" and not tree:
        return "pass the state that init returned: params, state = layer.init(key, x)"
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for _, leaf in leaves_by_path(tree)):
        return "these are specs: jax.eval_shape(function, params, state, ...) takes them"
    # The other tree fits here: the two were swapped.
    if beside is not None and tree_matches(beside, expected):
        return "params and state are swapped: layer.apply(params, state, x)"
    # One level too high: the tree of the training state, or of a parent.
    for name, value in tree.items():
        if type(value) is dict and value and tree_matches(value, expected):
            return f"its entry {name!r} fits: {what.split()[-1]}[{name!r}]"
    return None


def _without(rows: list[tuple[str, str, str]]) -> str | None:
    """A hint where all that differs are entries of layers that have nothing to hold."""
    if all((kind, text) == ("extra", "{}") for kind, _, text in rows):
        return f"leave out {rows[0][1]!r}: a layer that holds nothing has no entry"
    return None


def _explained(rows: list[tuple[str, str, str]], explain: Explain | None) -> str | None:
    missing, extra, different = (
        [path for kind, path, _ in rows if kind == wanted]
        for wanted in ("missing", "extra", "different")
    )
    return None if explain is None or different else explain(missing, extra)


def leaves_by_path(tree: Params, path: str = "") -> Iterator[tuple[str, PyTree]]:
    """The path of every entry that is not a dict with entries."""
    for name, value in tree.items():
        here = path + (name if isinstance(name, str) else f"[{name!r}]")
        if type(value) is dict and value:
            yield from leaves_by_path(value, f"{here}/")
        else:
            yield here, value
