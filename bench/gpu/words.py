"""What is found, in lines of text, and the device's own page."""

import pathlib
from collections.abc import Iterator
from typing import Any

from .. import report, results, tables
from ..ratios import modes, ratios
from .item import Result

Rows = dict[str, Result]


def lines(rows: Rows, spent: float) -> Iterator[str]:
    """A line for each row and mode, with the seconds since the start."""
    for name, row in rows.items():
        if "frameworks" not in row:
            holds = "" if row["holds"] else "NOT RIGHT " if row["op"] == "laws" else "MISSED "
            yield f"{spent:4.0f} s  {holds}{name}: {row['figure']}"
            continue
        for mode in modes(row):
            yield f"{spent:4.0f} s  {_timed(name, row, mode)}"
        for framework, entry in row["frameworks"].items():
            if entry["status"] in ("wrong", "failed"):
                yield f"{spent:4.0f} s  {name}: {framework} {entry['status']}: {entry['reason']}"


def _timed(name: str, row: Result, mode: str) -> str:
    r = ratios(row, mode)
    if r.ours is None:
        return f"{name} {mode}: no time of jlayers"
    parts = [f"{tables.milliseconds(r.ours['median'])} ms"]
    against = [(r.to_peer, r.peer), (r.to_lax, "lax"), (r.to_torch, "torch")]
    parts += [f"{tables.times(ratio)} {whom}" for ratio, whom in against if ratio is not None]
    if r.to_floor is not None:
        parts.append(f"{tables.times(r.to_floor)} of the floor")
    if (other := report.faster_variant(row, mode)) is not None:
        parts.append(f"FASTER: {other}")
    behind = "BEHIND " if r.behind else ""
    return f"{behind}{name} {mode}: {', '.join(parts)}"


def summary(found: Rows, left: list[str], spent: float) -> Iterator[str]:
    """All in a few lines: the last that is printed, which is what one reads."""
    laws = {name: row for name, row in found.items() if row["op"] == "laws"}
    others = {name: row for name, row in found.items() if row["op"] != "laws"}
    yield ""
    if laws:
        yield f"{sum(row['holds'] for row in laws.values())} of {len(laws)} layers are right"
    yield from (f"  not right: {n}: {row['figure']}" for n, row in laws.items() if not row["holds"])
    if means := tables.means(list(others.values())):
        yield means
    if remarks := report.remarks(others).strip():
        yield remarks
    if left:
        yield f"left out, for the minutes are spent: {', '.join(left)}"
    yield f"{spent:.0f} s"


def write_page(folder: pathlib.Path, device: dict[str, Any]) -> pathlib.Path:
    """The device's part of the report, beside its results."""
    path = folder / device["slug"] / "page.md"
    stored = results.devices(folder).get(device["slug"], [])
    text = "\n".join(report.device_part(stored, report.in_order(stored))) if stored else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
