"""Tables for the terminal: one for each row while they are measured, one for each group."""

from typing import Any

import rich.table

from .noise import NOISY
from .ratios import BEHIND, MODES, geometric_mean, modes, ratios

Result = dict[str, Any]


def row_table(name: str, result: Result) -> rich.table.Table:
    """A row with all its contenders."""
    if "frameworks" not in result:
        return foundation_table({name: result})
    shown, own = modes(result), result["frameworks"]
    floors = [
        f"{mode} {milliseconds(seconds)} ms" for mode, seconds in result.get("floor", {}).items()
    ]
    notes = [f"floor: {', '.join(floors)}"] if floors else []
    if (result.get("others") or 0) > NOISY:
        share = f"{result['others']:.0%}"
        notes.append(f"[red]other processes took {share} of the processor meanwhile[/]")
    table = rich.table.Table(
        title=name, caption="\n".join(notes), title_justify="left", caption_justify="left"
    )
    table.add_column("")
    for mode in shown:
        for heading in (f"{mode} ms", "middle half", "x jlayers", "trace", "compile ms", "temp MB"):
            table.add_column(heading, justify="right")
    for who, entry in own.items():
        if entry["status"] == "ok":
            cells = [cell for mode in shown for cell in _timing_cells(own, who, mode)]
        else:
            cells = [entry["status"], _short(entry["reason"])]
        table.add_row(who, *cells, style="bold" if who == "jlayers" else None)
    return table


def _timing_cells(own: Result, who: str, mode: str) -> list[str]:
    timing, ours = own[who].get(mode), own.get("jlayers", {}).get(mode)
    if timing is None:
        return [""] * 6
    return [
        milliseconds(timing["median"]),
        f"{milliseconds(timing.get('low'))}..{milliseconds(timing.get('high'))}",
        times(timing["median"] / ours["median"]) if ours else "",
        milliseconds(timing.get("trace")),
        milliseconds(timing.get("compile")),
        megabytes(timing.get("temp_bytes")),
    ]


def group_table(group: str, rows: dict[str, Result]) -> rich.table.Table:
    """A group, a line for each row and mode: how jlayers stands."""
    if any("frameworks" not in row for row in rows.values()):
        return foundation_table(rows)
    table = rich.table.Table(title=group, title_justify="left")
    headings = ("row", "", "ms", "middle half", "best peer", "ms", "faster", "than lax", "torch")
    for heading in (*headings, "x floor", "temp MB", "peer's"):
        left = heading in ("row", "", "best peer")
        table.add_column(heading, justify="left" if left else "right")
    for name, row in rows.items():
        for mode in modes(row):
            r = ratios(row, mode)
            if r.ours is None:
                table.add_row(name, mode, row["frameworks"].get("jlayers", {}).get("status", "-"))
                continue
            behind = r.to_peer is not None and r.to_peer < BEHIND
            table.add_row(
                name,
                mode,
                milliseconds(r.ours["median"]),
                f"{milliseconds(r.ours.get('low'))}..{milliseconds(r.ours.get('high'))}",
                r.peer or "-",
                milliseconds(r.theirs["median"] if r.theirs else None),
                times(r.to_peer),
                times(r.to_lax),
                times(r.to_torch),
                times(r.to_floor),
                megabytes(r.ours.get("temp_bytes")),
                megabytes(r.theirs.get("temp_bytes") if r.theirs else None),
                style="red" if behind else None,
            )
    return table


def foundation_table(rows: dict[str, Result]) -> rich.table.Table:
    table = rich.table.Table("row", "question", "figure", "bound", "")
    for name, row in rows.items():
        cells = row["question"], row["figure"], row["bound"], "" if row["holds"] else "MISSED"
        table.add_row(name, *cells)
    return table


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


def _short(reason: str, width: int = 100) -> str:
    line = reason.strip().splitlines()[0] if reason.strip() else ""
    return line if len(line) <= width else line[: width - 3] + "..."


def means(rows: list[Result]) -> str:
    """The geometric means over rows, in words."""
    lines = []
    for mode in MODES:
        all_ = [ratios(row, mode) for row in rows if mode in modes(row)]
        ahead = [r for r in all_ if r.to_peer is not None]
        if ahead:
            to_peer = geometric_mean(r.to_peer for r in all_)
            to_torch = geometric_mean(r.to_torch for r in all_)
            behind = sum(r.to_peer < BEHIND for r in ahead)
            lines.append(
                f"{mode}: {times(to_peer)} as fast as the best JAX peer, {times(to_torch)} as torch"
                f" (geometric means over {len(ahead)} of {len(all_)} rows), {behind} rows behind"
            )
    return "\n".join(lines)
