"""What a checkpoint has of what a program wants, path by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import CheckpointError
from ..base.paths import matches
from .tree import Entry

_DIFFERENCES = ("missing", "extra", "wrong shape", "wrong dtype")


@dataclass(frozen=True, repr=False)
class RestorePlan:
    """A template against a checkpoint; ``str(plan)`` has a line for each path that does not fit.

    Attributes:
      name: of the checkpoint.
      expected: what the template has, by path.
      found: what the checkpoint has, by path.
      allow: patterns; what does not fit at their paths is let be.
    """

    name: str
    expected: dict[str, Entry]
    found: dict[str, Entry]
    allow: tuple[str, ...] = ()

    @property
    def matched(self) -> tuple[str, ...]:
        """Paths that are restored."""
        return tuple(p for p, entry in self.expected.items() if self.found.get(p) == entry)

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
        return tuple(p for p in self._shared() if self.expected[p].shape != self.found[p].shape)

    @property
    def wrong_dtype(self) -> tuple[str, ...]:
        """Paths of both, with different dtypes: an array is no Python number either."""
        return tuple(p for p in self._shared() if self.expected[p].label != self.found[p].label)

    @property
    def kept(self) -> tuple[str, ...]:
        """Paths where the template's own values stay."""
        fits = set(self.matched)
        return tuple(path for path in self.expected if path not in fits and self._allowed(path))

    @property
    def refused(self) -> tuple[str, ...]:
        """Paths that do not fit and are not allowed not to."""
        fits = set(self.matched)
        paths = dict.fromkeys((*self.expected, *self.found))
        return tuple(path for path in paths if path not in fits and not self._allowed(path))

    def _shared(self) -> list[str]:
        return [path for path in self.expected if path in self.found]

    def _allowed(self, path: str) -> bool:
        return any(matches(path, pattern) for pattern in self.allow)

    def _paths(self, difference: str) -> tuple[str, ...]:
        paths: tuple[str, ...] = getattr(self, difference.replace(" ", "_"))
        return paths

    def summary(self) -> str:
        """The numbers of paths, on one line."""
        counts = ", ".join(f"{len(self._paths(what))} {what}" for what in _DIFFERENCES)
        total = len(self.expected.keys() | self.found.keys())
        return f"{self.name}: {len(self.matched)} of {total} paths match; {counts}"

    def lines(self) -> list[str]:
        """A line for each path that does not fit."""
        whats: dict[str, list[str]] = {}
        for what in _DIFFERENCES:
            for path in self._paths(what):
                whats.setdefault(path, []).append(what)
        rows = [(" and ".join(what), repr(path), self._told(path)) for path, what in whats.items()]
        first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
        return [f"{what:<{first}}  {path:<{second}}  {told}" for what, path, told in rows]

    def _told(self, path: str) -> str:
        wants, has = self.expected.get(path), self.found.get(path)
        text = "" if wants is None else f"expected {wants}, "
        text += "not in the checkpoint" if has is None else f"the checkpoint has {has}"
        if self._allowed(path):
            text += " (allowed: dropped)" if wants is None else " (allowed: the template's stays)"
        return text

    def __str__(self) -> str:
        return "\n  ".join([self.summary(), *self.lines()])

    def __repr__(self) -> str:
        return f"<RestorePlan {self.summary()}>"

    def check(self) -> None:
        """Raises where a path does not fit, with all of them.

        Raises:
          CheckpointError: with a line for each path.
        """
        if self.refused:
            first = self.refused[0]
            pattern = f"{first.rpartition('/')[0]}/**" if "/" in first else first
            raise CheckpointError(
                f"the checkpoint does not fit: {self.summary()}",
                got="\n    " + "\n    ".join(self.lines()),
                hint=f"allow=({pattern!r},) to leave such paths as they are",
            )


def planned(
    name: str, expected: dict[str, Entry], found: dict[str, Entry], allow: Sequence[str]
) -> RestorePlan:
    """A plan whose patterns are checked.

    Raises:
      CheckpointError: for a pattern that fits no path of either.
    """
    if isinstance(allow, str):
        raise CheckpointError("allow is one text", got=repr(allow), hint=f"allow=({allow!r},)")
    paths = list(dict.fromkeys((*expected, *found)))
    for pattern in allow:
        if not any(matches(path, pattern) for path in paths):
            shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
            raise CheckpointError(f"the pattern {pattern!r} fits no path", got=shown or "no leaves")
    return RestorePlan(name, expected, found, tuple(allow))
