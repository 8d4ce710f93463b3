"""What a checkpoint has of what a program wants, path by path.

How to read this file: ``make_plan`` checks the patterns and makes a ``RestorePlan``. Its properties
sort the paths; ``lines`` shows those that differ, and ``check`` raises where they may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import CheckpointError
from ..base.paths import matches, similar_pattern
from .tree import LeafSpec


@dataclass(frozen=True, repr=False)
class RestorePlan:
    """A template compared with a checkpoint; ``str(plan)`` has a line for each path that differs.

    Attributes:
      name: of the checkpoint.
      expected: what the template has, by path.
      found: what the checkpoint has, by path.
      allow: patterns of paths that may differ.
    """

    name: str
    expected: dict[str, LeafSpec]
    found: dict[str, LeafSpec]
    allow: tuple[str, ...] = ()

    @property
    def matched(self) -> tuple[str, ...]:
        """Paths that are restored."""
        return tuple(p for p, leaf in self.expected.items() if self.found.get(p) == leaf)

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of the template that the checkpoint does not have."""
        return tuple(path for path in self.expected if path not in self.found)

    @property
    def extra(self) -> tuple[str, ...]:
        """Paths of the checkpoint that the template does not have."""
        return tuple(path for path in self.found if path not in self.expected)

    @property
    def wrong_shape(self) -> tuple[str, ...]:
        """Paths of both, with different shapes."""
        return tuple(p for p, a, b in self._shared() if a.shape != b.shape)

    @property
    def wrong_dtype(self) -> tuple[str, ...]:
        """Paths of both, with different dtypes; an array differs from a Python number, too."""
        return tuple(p for p, a, b in self._shared() if a.label != b.label)

    @property
    def kept(self) -> tuple[str, ...]:
        """Paths where the template keeps its own values."""
        # As a set: with thousands of paths a tuple would be searched for each of them.
        matched = set(self.matched)
        return tuple(path for path in self.expected if path not in matched and self._allowed(path))

    @property
    def refused(self) -> tuple[str, ...]:
        """Paths that differ and are not allowed to."""
        matched = set(self.matched)
        paths = dict.fromkeys((*self.expected, *self.found))
        return tuple(path for path in paths if path not in matched and not self._allowed(path))

    def _shared(self) -> list[tuple[str, LeafSpec, LeafSpec]]:
        return [(p, leaf, self.found[p]) for p, leaf in self.expected.items() if p in self.found]

    def _allowed(self, path: str) -> bool:
        return any(matches(path, pattern) for pattern in self.allow)

    def _differences(self) -> dict[str, tuple[str, ...]]:
        return {
            "missing": self.missing,
            "extra": self.extra,
            "wrong shape": self.wrong_shape,
            "wrong dtype": self.wrong_dtype,
        }

    def summary(self) -> str:
        """The numbers of paths, on one line."""
        counts = ", ".join(f"{len(paths)} {what}" for what, paths in self._differences().items())
        total = len(self.expected.keys() | self.found.keys())
        return f"{self.name}: {len(self.matched)} of {total} paths match; {counts}"

    def lines(self) -> list[str]:
        """A line for each path that differs."""
        # A path may differ in both shape and dtype; it still has one line.
        of_path: dict[str, str] = {}
        for what, paths in self._differences().items():
            for path in paths:
                of_path[path] = f"{of_path[path]} and {what}" if path in of_path else what
        rows = [(what, repr(path), self._comparison(path)) for path, what in of_path.items()]
        first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
        return [f"{what:<{first}}  {path:<{second}}  {text}" for what, path, text in rows]

    def _comparison(self, path: str) -> str:
        wanted, found = self.expected.get(path), self.found.get(path)
        text = "" if wanted is None else f"expected {wanted}, "
        text += "not in the checkpoint" if found is None else f"the checkpoint has {found}"
        if self._allowed(path):
            text += " (allowed: dropped)" if wanted is None else " (allowed: keeps the template's)"
        return text

    def __str__(self) -> str:
        return "\n  ".join([self.summary(), *self.lines()])

    def __repr__(self) -> str:
        return f"<RestorePlan {self.summary()}>"

    def check(self) -> None:
        """Raises if paths differ that are not allowed to.

        Raises:
          CheckpointError: with a line for each path.
        """
        if self.refused:
            # Patterns cover the siblings, which usually differ as well. Where that takes many, as
            # for the moments of an optimiser, one for each part of the state.
            patterns = dict.fromkeys(_around(path, -1) for path in self.refused)
            if len(patterns) > 3:
                patterns = dict.fromkeys(_around(path, 1) for path in self.refused)
            given = [*self.allow, *patterns]
            shown = ", ".join(map(repr, given)) + "," * (len(given) == 1)
            raise CheckpointError(
                f"the checkpoint does not match the template: {self.summary()}",
                got="\n    " + "\n    ".join(self.lines()),
                hint=f"allow=({shown}) to let such paths differ",
            )


def _around(path: str, parts: int) -> str:
    """The pattern of all paths that begin with those parts of ``path``."""
    names = path.split("/")
    return "/".join([*names[:parts], "**"]) if len(names) > 1 else path


def make_plan(
    name: str, expected: dict[str, LeafSpec], found: dict[str, LeafSpec], allow: Sequence[str]
) -> RestorePlan:
    """A plan whose patterns are checked.

    Raises:
      CheckpointError: for a pattern that matches no path of either.
    """
    if isinstance(allow, str):
        raise CheckpointError(
            "allow must be a sequence of patterns", got=repr(allow), hint=f"allow=({allow!r},)"
        )
    paths = list(dict.fromkeys((*expected, *found)))
    # A misspelt pattern would allow nothing, and say nothing.
    for pattern in allow:
        if not any(matches(path, pattern) for path in paths):
            # Enough to see how paths are spelt.
            shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
            raise CheckpointError(
                f"the pattern {pattern!r} matches no path",
                got=shown or "no leaves",
                hint=similar_pattern(pattern, paths),
            )
    return RestorePlan(name, expected, found, tuple(allow))
