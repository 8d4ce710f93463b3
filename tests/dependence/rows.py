"""A row of the table: a function as users write it, what it does, and what the analysis says."""

from typing import NamedTuple

EACH, EARLIER, MIXED = "each", "earlier", "mixed"


class Row(NamedTuple):
    """One function of x (batch, time, features).

    Attributes:
      kind, rows: what is true, which the oracle confirms by running the function.
      place: what is true, or None where steps or rows meet anyway, so that running it cannot tell.
      says: the verdict's kind, where it is not ``kind``.
      window: of the verdict, if it is worth saying.
      flagged: what the verdict says too much: "rows" or "place".
      why: why the verdict is coarser than the truth.
    """

    name: str
    function: object
    kind: str
    rows: bool = False
    place: bool | None = False
    says: str | None = None
    window: tuple[float, float] | None = None
    flagged: tuple[str, ...] = ()
    why: str = ""
    leads: bool = True


class Table:
    """Collects rows by decorators named after what is true of the function."""

    def __init__(self):
        self.rows = []

    def _add(self, kind, **facts):
        def add(function):
            self.rows.append(Row(function.__name__, function, kind, **facts))
            return function

        return add

    def each(self, function):
        return self._add(EACH)(function)

    def each_by_place(self, function):
        return self._add(EACH, place=True)(function)

    def each_of_rows(self, function):
        return self._add(EACH, rows=True, place=None)(function)

    def earlier(self, **facts):
        return self._add(EARLIER, **{"place": None, **facts})

    def mixed(self, **facts):
        return self._add(MIXED, **{"place": None, **facts})

    def alarm(self, why, **facts):
        return self._add(EACH, why=why, **{"says": MIXED, **facts})
