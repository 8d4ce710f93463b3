"""Other paths for paths: ``{"encoder/**": "backbone/**"}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..base.errors import LayerError
from ..base.paths import similar_pattern
from ..base.specs import format_short

# ``**/``, ``/**`` at the end, ``**`` alone, ``*``, ``?``.
_WILDCARD = re.compile(r"\*\*/|\*\*$|\*|\?")
_AS_REGEX = {"**/": "((?:[^/]+/)*)", "**": "(.+)", "*": "([^/]*)", "?": "([^/])"}


class Rename:
    """Patterns of old paths, and what the paths become: its wildcards are filled in their order.

    The first pattern that fits a path changes it.

    Args:
      rules: ``{"encoder/**": "backbone/**"}``.

    Raises:
      LayerError: where the two sides of a rule have other wildcards.

    >>> Rename({"encoder/**": "**", "*/kernel": "*/weight"})("encoder/dense/bias")
    'dense/bias'
    """

    def __init__(self, rules: Mapping[str, str] | None):
        if rules is not None and not (
            isinstance(rules, Mapping)
            and all(isinstance(part, str) and part for rule in rules.items() for part in rule)
        ):
            raise LayerError(
                "rename must be a mapping of old paths to new ones",
                got=format_short(rules),
                hint='rename={"encoder/**": "backbone/**"}',
            )
        self.rules = dict(rules or {})
        self._compiled = [_compiled(old, new) for old, new in self.rules.items()]

    def __call__(self, path: str) -> str:
        for pattern, template in self._compiled:
            found = pattern.fullmatch(path)
            if found is not None:
                return _filled(template, found.groups())
        return path

    def check(self, paths: Iterable[str]) -> None:
        """Raises for a rule that fits none of the old paths."""
        paths = list(paths)
        for old, (pattern, _) in zip(self.rules, self._compiled, strict=True):
            if not any(pattern.fullmatch(path) for path in paths):
                raise LayerError(
                    f"the rule {old!r} of rename fits no path of the old model",
                    got=", ".join(paths[:20]) + (", ..." if len(paths) > 20 else ""),
                    hint=similar_pattern(old, paths),
                )


def _compiled(old: str, new: str) -> tuple[re.Pattern[str], list[str]]:
    names, wildcards = _WILDCARD.split(old), _WILDCARD.findall(old)
    parts = [re.escape(names[0])]
    for wildcard, name in zip(wildcards, names[1:], strict=True):
        parts += [_AS_REGEX[wildcard], re.escape(name)]
    theirs = _WILDCARD.findall(new)
    if [one.rstrip("/") for one in wildcards] != [one.rstrip("/") for one in theirs]:
        raise LayerError(
            f"the two sides of a rule of rename have other wildcards: {old!r} and {new!r}",
            hint='rename={"encoder/**": "backbone/**"}',
        )
    # Names and wildcards in turn.
    first, *others = _WILDCARD.split(new)
    template = [first]
    for wildcard, name in zip(theirs, others, strict=True):
        template += [wildcard, name]
    return re.compile("".join(parts)), template


def _filled(template: list[str], values: tuple[str, ...]) -> str:
    found = template[0]
    for wildcard, name, value in zip(template[1::2], template[2::2], values, strict=True):
        # A slash belongs to ``**/`` in the middle and not to ``**`` at the end.
        inner = value.strip("/")
        found += (f"{inner}/" if inner and wildcard == "**/" else inner) + name
    return found
