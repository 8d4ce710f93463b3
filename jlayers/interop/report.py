"""The report of ``verify``: a row for each layer, and the first that departs."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from ..base.errors import InteropError, public_api

_WIDTH = 24
_LISTED = 12


class Row(NamedTuple):
    """An activation beside the original's.

    Attributes:
      path: of the layer; with the number of a copy (``blocks/3/mlp``), and with ``#2`` for a second
        call; ``""`` for the output of the model, ``"(output) logits"`` for one of several.
      theirs: the name of the original's.
      difference: the largest, absolute.
      relative: the same over the largest number of the original's activation.
      tolerance: that ``relative`` may have.
      shape: of ours.
      layout: how the original's was read, such as ``"channels first"``; ``""`` as it is.
      how: by what they were paired: ``"rule"``, ``"name"``, ``"plan"``, ``"equal values"``,
        ``"order"``, or ``"output"`` where both are outputs of the models.
      nans: how many numbers are NaN in both. They are left out of the difference; an output that
        has some, and a layer that has no others, departs, since they prove nothing.
    """

    path: str
    theirs: str
    difference: float
    relative: float
    tolerance: float
    shape: tuple[int, ...]
    layout: str
    how: str
    nans: int = 0

    @property
    def ok(self) -> bool:
        """Whether they agree within the tolerance."""
        return self.relative <= self.tolerance


class Report(NamedTuple):
    """What ``verify`` found. ``print(report)`` shows it, ``report.check()`` raises if it is bad.

    Attributes:
      rows: a ``Row`` for each layer that has a counterpart, in the order in which layers ran; the
        outputs of the model are the last.
      unpaired: paths of layers without a counterpart, in that order, and outputs without one.
      theirs_unpaired: names of the original's activations without one.
      hint: what would make the first layer that departs agree, if one of the usual mistakes does.
      reference: what the original is, in words.
    """

    rows: tuple[Row, ...]
    unpaired: tuple[str, ...]
    theirs_unpaired: tuple[str, ...]
    hint: str | None
    reference: str

    @property
    def first(self) -> Row | None:
        """The first row that departs, or None."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def output(self) -> Row:
        """The row of the model's output; of several, of the one that differs most."""
        return max(self.outputs, key=lambda row: (not row.ok, row.relative))

    @property
    def outputs(self) -> tuple[Row, ...]:
        """The rows of the model's outputs."""
        return tuple(row for row in self.rows if row.how == "output")

    @property
    def ok(self) -> bool:
        """Whether all rows agree, the output among them."""
        return self.first is None

    def __str__(self) -> str:
        agree = sum(row.ok for row in self.rows)
        lines = [f"{agree} of {len(self.rows)} activations agree with {self.reference}"]
        first = self.first
        cells = [("layer", "theirs", "largest", "relative", "shape", "")]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "()"
            mark = "<- departs first" if row is first else "" if row.ok else "departs"
            words = ", ".join(filter(None, (row.layout, _of_nans(row), mark)))
            cells.append(
                (
                    _short(row.path or "(output)"),
                    _short(row.theirs or "(output)"),
                    f"{row.difference:.1e}",
                    f"{row.relative:.1e}",
                    shape,
                    words,
                )
            )
        widths = [max(len(row[i]) for row in cells) for i in range(5)]
        for row_cells in cells:
            padded = (
                cell.rjust(width) if i in (2, 3) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row_cells, widths, strict=False))
            )
            lines.append(("  " + "  ".join((*padded, row_cells[-1]))).rstrip())
        for what, names in (
            ("without a counterpart", self.unpaired),
            ("theirs without one", self.theirs_unpaired),
        ):
            if names:
                listed = f"{what}: {_listed(names)}"
                lines += textwrap.wrap(listed, 88, initial_indent="  ", subsequent_indent=" " * 4)
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    @public_api
    def check(self) -> None:
        """Does nothing where all agree.

        Raises:
          InteropError: naming the first layer that departs.
        """
        row = self.first
        if row is None:
            return
        name = f"the layer {row.path!r}"
        if row.how == "output":
            name = f"the {_of_output(row)}"
        departing = [_of_output(each) for each in self.outputs if not each.ok]
        agree = self.rows[: self.rows.index(row)]
        raise InteropError(
            f"{name} departs from {row.theirs or 'the output'!r} of {self.reference}",
            expected=f"a difference of at most {row.tolerance:.0e} of the largest number",
            got=f"{row.relative:.1e}, {row.difference:.1e} absolute, shape {row.shape}"
            + (f", theirs read as {row.layout}" if row.layout else "")
            + (f", {_of_nans(row)}" if row.nans else "")
            + f"; paired by {row.how}, {len(agree)} activations before it agree"
            + (f"; departing: {', '.join(departing)}" if len(self.outputs) > 1 else ""),
            hint=self.hint,
        )


def _of_nans(row: Row) -> str:
    return f"{row.nans} NaN in both" if row.nans else ""


def _of_output(row: Row) -> str:
    return f"output {row.path.partition(' ')[2]!r}" if row.path else "output"


def _short(name: str) -> str:
    return name if len(name) <= _WIDTH else "..." + name[3 - _WIDTH :]


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(name or "''" for name in names[:_LISTED])
    return shown + (f", and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
