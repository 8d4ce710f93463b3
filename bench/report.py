"""``docs/benchmarks.md`` out of what is stored: devices side by side, a table for each group."""

import pathlib
from collections.abc import Iterator
from typing import Any

from .frameworks import FRAMEWORKS
from .noise import NOISY
from .picture import draw
from .ratios import BEHIND, Ratios, geometric_mean, modes, ratios
from .results import FOLDER, devices
from .rows import ROWS
from .show import megabytes, milliseconds, times

Result = dict[str, Any]
DOCS = FOLDER.parent.parent / "docs"

INTRODUCTION = """\
# Benchmarks

How fast are jlayers' layers against the same layer in every other JAX library, written by hand on
`jax.lax`, and in PyTorch? This page and its picture are written by `python -m bench report` from
the measurements under `bench/results/`, and by nobody else.
"""

NOTHING = "Here nothing has been measured yet.\n"
ALL = "all operations"

METHOD = """\
## How it is measured

* All contenders of a row run **in one process and in turns**, in an order drawn anew each round, so
  that what slows the machine slows all of them. The first call of a
  turn does not count unless it is a long one: nobody pays for threads of another that still spin.
  Times are medians; the JSON has the middle half of the calls, and the time to trace and to
  compile, apart.
* Each framework is written as its users write it, and fed the same numbers: jitted pure functions
  in JAX (Equinox under `vmap`, NNX split and merged, Keras by `stateless_call`), eager PyTorch with
  channels last. *Forward* gives the output; *gradient* gives the output and the gradients of all
  parameters and of the input.
* A contender counts only if its output and gradients agree with a **float64 reference** that is
  computed another way. One that does not is reported as wrong, and has no time.
* **Best peer** is the fastest right one of Flax linen, Flax NNX, Equinox, Haiku and Keras 3 (on
  JAX), by row and mode. Picked after the fact from up to five, it profits from the noise.
  Hand-written `jax.lax` stands in a column of its own.
* **Floor** is the greater of the arithmetic at the speed of the best square matrix product (three
  times as much with the gradients) and the bytes that must move at the bandwidth of a scaling in
  place, both measured in the same run. It is no bound for those who need less arithmetic.
* **Temporaries** are what the compiled executable allocates beside arguments and results.
* Whole steps count if the losses of the first steps agree among all contenders; start-up is timed
  from the start of a fresh process.

Run it again with

```bash
make bench                            # everything
make bench ROW="lstm conv-1x1-s2"     # some rows, groups or patterns; --list shows them
make bench ARGS="--resume"            # go on where a run was cut off
make bench ARGS="--platform gpu"      # on an accelerator, beside these results
make bench ROW=report                 # write this page
```

Leave the machine alone meanwhile: threads that spin for one another lose whole time slices to any
neighbour, PyTorch's more than XLA's.
"""


def write(folder: pathlib.Path = FOLDER, docs: pathlib.Path = DOCS) -> list[pathlib.Path]:
    """Writes the page and, where something is stored, its picture; the paths of what it wrote."""
    found = devices(folder)
    page, picture = docs / "benchmarks.md", docs / "benchmarks.png"
    if not found:
        page.write_text("\n".join([INTRODUCTION, NOTHING, METHOD]))
        return [page]
    figures = {slug: in_order(stored) for slug, stored in found.items()}
    draw({title(found[slug]): with_all(groups) for slug, groups in figures.items()}, picture)
    parts = [INTRODUCTION, f"![Speed-ups by group and device]({picture.name})\n"]
    for slug, groups in figures.items():
        parts += device_part(found[slug], groups)
    page.write_text("\n".join([*parts, METHOD]))
    return [page, picture]


def with_all(groups: dict[str, dict[str, Result]]) -> dict[str, dict[str, Result]]:
    """The groups, and after them all rows of operations as one; not whole steps, not start-up."""
    rows = {name: row for rows in groups.values() for name, row in rows.items() if "floor" in row}
    return {**groups, ALL: rows} if rows else groups


def title(stored: list[dict[str, Any]]) -> str:
    device = stored[0]["device"]
    many = f", {device['count']} cores" if device["platform"] == "cpu" else ""
    return f"{device['name']}{many} ({device['platform'].upper()})"


def in_order(stored: list[dict[str, Any]]) -> dict[str, dict[str, Result]]:
    """Rows by group, as ``bench.rows`` has them; other groups after."""
    order = list(dict.fromkeys(row.group for row in ROWS.values()))
    groups = {file["group"]: file["rows"] for file in stored}
    return {
        name: groups[name] for name in [*order, *sorted(set(groups) - set(order))] if name in groups
    }


def device_part(
    stored: list[dict[str, Any]], groups: dict[str, dict[str, Result]]
) -> Iterator[str]:
    yield f"## {title(stored)}\n"
    yield f"{conditions(stored)}\n"
    all_rows = {name: row for rows in groups.values() for name, row in rows.items()}
    yield means_table(groups)
    yield remarks(all_rows)
    for group, rows in groups.items():
        yield f"### {group}\n"
        timed = {name: row for name, row in rows.items() if "frameworks" in row}
        yield ratio_table(timed) + milliseconds_table(timed) if timed else questions_table(rows)


def conditions(stored: list[dict[str, Any]]) -> str:
    """Dates and versions of all runs that the rows come from."""
    runs = {stamp: run for file in stored for stamp, run in file["runs"].items()}
    days = sorted({stamp[:10] for stamp in runs})
    versions: dict[str, set[str]] = {}
    for run in runs.values():
        for name, version in run["versions"].items():
            versions.setdefault("jax" if name == "lax" else name, set()).add(version)
    shown = ", ".join(f"{name} {' and '.join(sorted(own))}" for name, own in versions.items())
    variables = {f"`{k}={v}`" for run in runs.values() for k, v in run["variables"].items()}
    extra = f" Set: {', '.join(sorted(variables))}." if variables else ""
    until = f" to {days[-1]}" if len(days) > 1 else ""
    return f"Measured {days[0]}{until} with {shown}.{extra}"


def table(headings: list[str], lines: list[list[str]], left: int = 1) -> str:
    """Markdown; the first ``left`` columns are text, the others figures."""
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return "".join(f"| {' | '.join(line)} |\n" for line in [headings, rule, *lines])


def means_table(groups: dict[str, dict[str, Result]]) -> str:
    """Geometric means of each group in each mode, and of all rows of operations."""
    lines = []
    for group, rows in with_all(groups).items():
        for mode in dict.fromkeys(mode for row in rows.values() for mode in modes(row)):
            all_ = [ratios(row, mode) for row in rows.values() if mode in modes(row)]
            counted = sum(r.ours is not None for r in all_)
            means = [geometric_mean(getattr(r, name) for r in all_) for name in _RATIOS]
            rows_text = str(counted) if counted == len(all_) else f"{counted} of {len(all_)}"
            shown = f"**{group}**" if group == ALL else group
            lines.append([shown, mode, rows_text, *map(times, means)])
    if not lines:
        return ""
    return "Geometric means over the rows; above 1x jlayers is faster.\n\n" + table(
        [
            "group",
            "",
            "rows",
            "than the best peer",
            "than lax",
            "than torch",
            "time over the floor",
        ],
        lines,
        2,
    )


_RATIOS = ("to_peer", "to_lax", "to_torch", "to_floor")


def remarks(rows: dict[str, Result]) -> str:
    """What stands against us or against the figures, by name."""
    behind, same, wrong, noisy = [], [], [], []
    for name, row in rows.items():
        for mode in modes(row):
            r = ratios(row, mode)
            if r.to_peer is not None and r.to_peer < BEHIND:
                text = f"{name} ({mode}, {times(r.to_peer)} of {r.peer})"
                (same if r.same else behind).append(text)
        for who, entry in row.get("frameworks", {}).items():
            if entry["status"] in ("wrong", "failed"):
                wrong.append(f"{name}: {who} (`{_line(entry['reason'])}`)")
        if (row.get("others") or 0) > NOISY:
            noisy.append(f"{name} ({row['others']:.0%})")
    texts = [
        (f"Behind the best peer (below {BEHIND}x)", behind),
        ("Below that, but by noise: the peer's compiled program is the same as ours", same),
        ("Without a time, for being wrong or failing", wrong),
        (
            "Measured while other processes used the processor (their share), not to be trusted",
            noisy,
        ),
    ]
    return "".join(f"\n{what}: {'; '.join(which)}.\n" for what, which in texts if which)


def _line(reason: str) -> str:
    """One line of an error, to stand as code: ``[1]['bias']`` would be a link in plain text."""
    return " ".join(reason.split())[:160].replace("`", "'")


def ratio_table(rows: dict[str, Result]) -> str:
    headings = ["row", "", "ms", "than the best peer", "than lax", "than torch", "over the floor"]
    lines = []
    for name, row in rows.items():
        for mode in modes(row):
            r = ratios(row, mode)
            lines.append([f"`{name}`", mode, *_ratio_cells(r)])
    return table([*headings, "temporaries MB (peer's)"], lines, 2)


def _ratio_cells(r: Ratios) -> list[str]:
    if r.ours is None:
        return ["missing", "", "", "", "", ""]
    peer = f"{times(r.to_peer)} {r.peer}{' (same program)' * r.same}" if r.peer else "-"
    theirs = megabytes(r.theirs.get("temp_bytes")) if r.theirs else "-"
    temporaries = f"{megabytes(r.ours.get('temp_bytes'))} ({theirs})"
    return [
        milliseconds(r.ours["median"]),
        peer,
        times(r.to_lax),
        times(r.to_torch),
        times(r.to_floor),
        temporaries,
    ]


def milliseconds_table(rows: dict[str, Result]) -> str:
    """Everybody's medians, all modes in one cell."""
    there = dict.fromkeys(who for row in rows.values() for who in row["frameworks"])
    everyone = sorted(there, key=_place)
    lines = []
    for name, row in rows.items():
        cells = []
        for who in everyone:
            entry = row["frameworks"].get(who, {})
            own = [milliseconds(entry[mode]["median"]) for mode in modes(row) if mode in entry]
            cells.append(" / ".join(own) or entry.get("status", "-"))
        lines.append([f"`{name}`", *cells])
    shown = dict.fromkeys(mode for row in rows.values() for mode in modes(row))
    return f"\nMilliseconds, {' / '.join(shown)}:\n\n" + table(["row", *everyone], lines)


def _place(who: str) -> int:
    """Where a contender stands: variants ("jlayers loop") beside their framework, others last."""
    order = list(FRAMEWORKS)
    framework = who.replace(",", "").split()[0]
    return order.index(framework) if framework in order else len(order)


def questions_table(rows: dict[str, Result]) -> str:
    lines = [
        [
            f"`{name}`",
            row["question"],
            row["figure"],
            row["bound"],
            "" if row["holds"] else "missed",
        ]
        for name, row in rows.items()
    ]
    return table(["row", "question", "figure", "bound", ""], lines, 2)
