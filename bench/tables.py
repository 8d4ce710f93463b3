"""Stored rows as tables, for the terminal and for Markdown, and their figures as text."""

from typing import Any, NamedTuple

import rich.table

from .ratios import Ratios, modes, ratios

Result = dict[str, Any]
Rows = dict[str, Result]


class Table(NamedTuple):
    """Cells as text.

    Args:
      left: how many of the first columns are text, and not figures.
      marked: the numbers of the lines that are bad news.
    """

    headings: list[str]
    lines: list[list[str]]
    left: int = 1
    marked: frozenset[int] = frozenset()

    def markdown(self) -> str:
        rule = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        lines = [self.headings, rule, *self.lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def terminal(self, title: str | None = None, caption: str | None = None) -> rich.table.Table:
        where: Any = {"title_justify": "left", "caption_justify": "left"}
        table = rich.table.Table(title=title, caption=caption, **where)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < self.left else "right")
        for i, line in enumerate(self.lines):
            table.add_row(*line, style="red" if i in self.marked else None)
        return table

    def with_code(self) -> "Table":
        """With the first column as code, for Markdown."""
        return self._replace(lines=[[f"`{first}`", *rest] for first, *rest in self.lines])


def ratio_table(rows: Rows) -> Table:
    """A line for each row and mode: how jlayers compares."""
    found = [(name, ratios(row, mode)) for name, row in rows.items() for mode in modes(row)]
    headings = ["row", "", "ms", "than the best peer", "than lax", "than torch", "over the floor"]
    lines = [[name, r.mode, *_ratio_cells(r)] for name, r in found]
    behind = frozenset(i for i, (_, r) in enumerate(found) if r.behind)
    return Table([*headings, "temporaries MB (peer's)"], lines, 2, behind)


def _ratio_cells(r: Ratios) -> list[str]:
    if r.ours is None:
        return ["missing", "", "", "", "", ""]
    peer = f"{times(r.to_peer)} {r.peer}{' (same program)' * r.same}" if r.peer else "-"
    theirs = megabytes(r.theirs.get("temp_bytes")) if r.theirs else "-"
    temporaries = f"{megabytes(r.ours.get('temp_bytes'))} ({theirs})"
    others = map(times, (r.to_lax, r.to_torch, r.to_floor))
    return [milliseconds(r.ours["median"]), peer, *others, temporaries]


def questions_table(rows: Rows) -> Table:
    columns = ["question", "figure", "bound"]
    lines = [
        [name, *(row[column] for column in columns), "" if row["holds"] else "missed"]
        for name, row in rows.items()
    ]
    return Table(["row", *columns, ""], lines, 2)


def timings_table(result: Result) -> Table:
    """A row with all its frameworks."""
    shown, frameworks = modes(result), result["frameworks"]
    headings = ["middle half", "x jlayers", "trace", "compile ms", "temp MB"]
    lines = []
    for name, entry in frameworks.items():
        cells = [entry["status"], " ".join(entry.get("reason", "").split())[:100]]
        if entry["status"] == "ok":
            ours = frameworks.get("jlayers", {})
            cells = [
                cell
                for mode in shown
                for cell in _timing_cells(entry.get(mode, {}), ours.get(mode, {}))
            ]
        lines.append([name, *cells])
    return Table(["", *(text for mode in shown for text in (f"{mode} ms", *headings))], lines)


def _timing_cells(timing: Result, ours: Result) -> list[str]:
    ratio = timing["median"] / ours["median"] if timing and ours else None
    return [
        milliseconds(timing.get("median")),
        f"{milliseconds(timing.get('low'))}..{milliseconds(timing.get('high'))}",
        times(ratio),
        milliseconds(timing.get("trace")),
        milliseconds(timing.get("compile")),
        megabytes(timing.get("temp_bytes")),
    ]


def milliseconds(seconds: float | None) -> str:
    """To three digits."""
    if seconds is None:
        return "-"
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def megabytes(count: float | None) -> str:
    if count is None:
        return "-"
    value = count / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 else "0"
