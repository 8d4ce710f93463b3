"""What the terminal shows: a table for each row while it is measured, and one for each group."""

import rich.table

from .noise import NOISY
from .ratios import by_mode, geometric_mean
from .tables import Result, Rows, milliseconds, questions_table, ratio_table, times, timings_table


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


def group_table(group: str, rows: Rows) -> rich.table.Table:
    if any("frameworks" not in row for row in rows.values()):
        return questions_table(rows).terminal()
    return ratio_table(rows).terminal(group)


def means(rows: list[Result]) -> str:
    """The geometric means over rows, in words."""
    lines = []
    for mode, found in by_mode(rows).items():
        compared = [r for r in found if r.to_peer is not None]
        if compared:
            to_peer = geometric_mean(r.to_peer for r in found)
            to_torch = geometric_mean(r.to_torch for r in found)
            lines.append(
                f"{mode}: {times(to_peer)} as fast as the best JAX peer, {times(to_torch)} as torch"
                f" (geometric means over {len(compared)} of {len(found)} rows),"
                f" {sum(r.behind for r in compared)} rows behind"
            )
    return "\n".join(lines)
