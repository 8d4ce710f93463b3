"""Rules, a line each, that rename what begins with their left side: ``"theirs -> ours"``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..base.errors import InteropError
from .formats.base import Arrays

_COLLECTIONS = re.compile("^(params|state|batch_stats|model|state_dict|module|variables)/")
# As Keras 1 names weights: dense_1/dense_1_W.
_OF_LAYER = re.compile(r"(^|/)([^/]+)/\2_(?=[^/]+$)")
# And those in the halves of a bidirectional layer: bidirectional_1/forward_lstm_1_W_i.
_OF_HALF = re.compile(r"(^|/)((?:forward|backward)_[^/]+)_(?=[WUb](_[a-z])?$)")


def renamed(
    names: Mapping[str, str],
    rules: Iterable[str],
    whole: Mapping[str, str] | None = None,
    origin: Mapping[str, Iterable[str]] | None = None,
) -> tuple[dict[str, str], set[str]]:
    """Paths as the rules make them, and what is left out.

    Args:
      names: for each name its path, with ``/`` between the parts.
      rules: ``"old -> new"``, where ``*`` is any part between two separators, or of one, on both
        sides; ``"old ->"`` leaves out what it matches.
      whole: longer paths, which a rule is about where no path begins as it does.
      origin: other names that an array has, by which it may be left out as well.

    Returns:
      The new paths by name, and the names that are left out.
    """
    if isinstance(rules, str):
        raise InteropError("rules must be a list", got=repr(rules), hint=f"rules=[{rules!r}]")
    split = dict(names)
    left_out: set[str] = set()
    for rule in rules:
        if not isinstance(rule, str):
            raise InteropError("a rule must be text", got=repr(rule))
        old, arrow, new = (part.strip() for part in rule.partition("->"))
        if not arrow:
            raise InteropError(f"a rule must have an arrow, as 'theirs -> ours': {rule!r}")
        parts = [re.escape(part) for part in old.replace(".", "/").split("*")]
        pattern = re.compile("^" + "([^/]+)".join(parts) + "(?=/|$)")
        matched = [name for name, path in split.items() if pattern.search(path)]
        if not matched and whole:
            matched = [name for name in split if pattern.search(whole[name])]
            split.update((name, whole[name]) for name in matched)
        if not matched and not new:
            matched = [
                name
                for name, others in (origin or {}).items()
                if name in split and any(pattern.search(one.replace(".", "/")) for one in others)
            ]
        if not matched:
            raise InteropError(f"the rule {rule!r} matches nothing", got=", ".join(list(split)[:8]))
        if not new:
            left_out.update(matched)
            continue
        pieces = new.replace(".", "/").split("*")

        def replaced(found: re.Match[str], pieces: list[str] = pieces) -> str:
            values = iter(found.groups())
            return pieces[0] + "".join(next(values, "") + piece for piece in pieces[1:])

        for name in matched:
            split[name] = pattern.sub(replaced, split[name])
    return {name: path for name, path in split.items() if name not in left_out}, left_out


def paths_of(arrays: Arrays, rules: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """The names in a file by their paths, as the rules make them, and those that are left out."""
    split = {
        name: _OF_HALF.sub(
            r"\1\2/", _OF_LAYER.sub(r"\1\2/", _COLLECTIONS.sub("", re.sub(r"[.|]", "/", name)))
        )
        for name in arrays
    }
    whole = {name: name.replace(".", "/") for name in arrays}
    split, left_out = renamed(split, rules, whole, getattr(arrays, "origin", {}))
    return {path: name for name, path in split.items()}, left_out
