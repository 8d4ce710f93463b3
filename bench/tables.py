"""Stored rows as tables, for the terminal and for Markdown, and their figures as text."""

from typing import Any, NamedTuple

import rich.table

from .noise import NOISY
from .ratios import Ratios, by_mode, geometric_mean, modes, ratios

# Milliseconds that the bytes or the operations need, and that are taken.
ROOFLINE = "needed / ours / best peer's ms"
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

    def markdown(self, code: bool = False) -> str:
        """With ``code`` the first column is formatted as code."""
        rule = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        lines = [[f"`{first}`" if code else first, *rest] for first, *rest in self.lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in [self.headings, rule, *lines])

    def terminal(self, title: str | None = None, caption: str | None = None) -> rich.table.Table:
        where: Any = {"title_justify": "left", "caption_justify": "left"}
        table = rich.table.Table(title=title, caption=caption, **where)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < self.left else "right")
        for i, line in enumerate(self.lines):
            table.add_row(*line, style="red" if i in self.marked else None)
        return table


def ratio_table(rows: Rows) -> Table:
    """A line for each row and mode: how jlayers compares."""
    found = [(name, ratios(row, mode)) for name, row in rows.items() for mode in modes(row)]
    headings = ["row", "", ROOFLINE, "than the best peer", "than lax", "than torch"]
    lines = [[name, r.mode, *_ratio_cells(r)] for name, r in found]
    behind = frozenset(i for i, (_, r) in enumerate(found) if r.behind)
    return Table([*headings, "over the floor", "temporaries MB (peer's)"], lines, 2, behind)


def _ratio_cells(r: Ratios) -> list[str]:
    if r.ours is None:
        return ["missing", "", "", "", "", ""]
    peer = f"{times(r.to_peer)} {r.peer}{' (same program)' * r.same}" if r.peer else "-"
    theirs = megabytes(r.theirs.get("temp_bytes")) if r.theirs else "-"
    temporaries = f"{megabytes(r.ours.get('temp_bytes'))} ({theirs})"
    others = map(times, (r.to_lax, r.to_torch, r.to_floor))
    seconds = (r.floor, r.ours["median"], r.theirs and r.theirs["median"])
    return [" / ".join(map(milliseconds, seconds)), peer, *others, temporaries]


def questions_table(rows: Rows) -> Table:
    """The last column is of the rows for which it is known what they need at least."""
    columns = ["question", "figure", "bound"]
    lines = []
    for name, row in rows.items():
        verdict = "" if row["holds"] else "missed"
        needed = milliseconds(row.get("needed"))
        lines.append([name, *(row[column] for column in columns), verdict, needed])
    return Table(["row", *columns, "", "needed ms"], lines, 2)


def timings_table(result: Result) -> Table:
    """A row with all its frameworks."""
    headings, ours = [""], result["frameworks"].get("jlayers", {})
    for mode in modes(result):
        headings += [f"{mode} ms", "middle half", "x jlayers", "trace", "compile ms", "temp MB"]
    lines = []
    for name, entry in result["frameworks"].items():
        cells = [name]
        if entry["status"] != "ok":
            cells += [entry["status"], " ".join(entry["reason"].split())[:100]]
        else:
            for mode in modes(result):
                cells += _timing_cells(entry.get(mode, {}), ours.get(mode, {}))
        lines.append(cells)
    return Table(headings, lines)


def _timing_cells(timing: Result, ours: Result) -> list[str]:
    figures = ("median", "low", "high", "trace", "compile")
    median, low, high, trace, compiling = (milliseconds(timing.get(name)) for name in figures)
    ratio = times(timing["median"] / ours["median"] if timing and ours else None)
    return [median, f"{low}..{high}", ratio, trace, compiling, megabytes(timing.get("temp_bytes"))]


def row_table(name: str, result: Result) -> rich.table.Table:
    """A row with all its frameworks, or a question with its answer."""
    if "frameworks" not in result:
        return questions_table({name: result}).terminal()
    floors = result.get("floor", {}).items()
    texts = [f"{mode} {milliseconds(seconds)} ms" for mode, seconds in floors]
    notes = [f"floor: {', '.join(texts)}"] if texts else []
    if (result.get("others") or 0) > NOISY:
        notes.append(f"[red]other processes took {result['others']:.0%} of the processor[/]")
    return timings_table(result).terminal(name, "\n".join(notes))


def group_tables(rows: Rows) -> list[tuple[Table, Rows]]:
    """The rows with times by framework as a table, and those that answer questions as another."""
    timed = {name: row for name, row in rows.items() if "frameworks" in row}
    asked = {name: row for name, row in rows.items() if "frameworks" not in row}
    tables = [(ratio_table(timed), timed)] if timed else []
    return tables + ([(questions_table(asked), {})] if asked else [])


def means(rows: list[Result]) -> str:
    """The geometric means over rows, in words."""
    lines = []
    for mode, found in by_mode(rows).items():
        compared = sum(r.to_peer is not None for r in found)
        to_peer = times(geometric_mean(r.to_peer for r in found))
        to_torch = times(geometric_mean(r.to_torch for r in found))
        text = f"{mode}: {to_peer} as fast as the best JAX peer, {to_torch} as torch"
        text += f" (geometric means over {compared} of {len(found)} rows)"
        lines += [f"{text}, {sum(r.behind for r in found)} behind"] if compared else []
    return "\n".join(lines)


def milliseconds(seconds: float | None) -> str:
    """Milliseconds, to three digits."""
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
