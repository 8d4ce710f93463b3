"""``docs/benchmarks.md`` from the stored results: a part a device, a table a group."""

import pathlib
from collections.abc import Iterator
from typing import Any

from .frameworks import FRAMEWORKS
from .noise import NOISY
from .ops import OPS
from .ratios import BEHIND, by_mode, geometric_mean, modes, ratios
from .results import FOLDER, devices
from .rows import ROWS
from .tables import Rows, Table, group_tables, milliseconds, questions_table, times

DOCS = FOLDER.parent.parent / "docs"

TEMPLATE = pathlib.Path(__file__).with_name("template.md")
ALL = "all operations"


def write(folder: pathlib.Path = FOLDER, docs: pathlib.Path = DOCS) -> list[pathlib.Path]:
    """Writes the page and, where something is stored, its picture; the paths of what it wrote."""
    found = devices(folder)
    page, picture = docs / "benchmarks.md", docs / "benchmarks.png"
    parts = [] if found else ["So far nothing has been measured yet.\n"]
    figures = {slug: in_order(stored) for slug, stored in found.items()}
    if found:
        # Imported here: where there is no matplotlib, a page can be written.
        from .picture import draw

        draw({title(found[slug]): with_all(groups) for slug, groups in figures.items()}, picture)
        parts = [f"![Speed-ups by group and device]({picture.name})\n"]
    for slug, groups in figures.items():
        parts += device_part(found[slug], groups)
    page.write_text(TEMPLATE.read_text().replace("{results}", "\n".join(parts)))
    return [page, picture] if found else [page]


def with_all(groups: dict[str, Rows]) -> dict[str, Rows]:
    """The groups, and after them all operations as one; whole steps and start-up are not in it."""
    everything = [pair for rows in groups.values() for pair in rows.items()]
    rows = {name: row for name, row in everything if row.get("op") in OPS}
    return {**groups, ALL: rows} if rows else groups


def title(stored: list[dict[str, Any]]) -> str:
    device = stored[0]["device"]
    # A file from before processors were told apart has no model.
    model = next((own for file in stored if (own := file["device"].get("model"))), "")
    own = f" ({model})" if model else ""
    many = f", {device['count']} cores" if device["platform"] == "cpu" else ""
    return f"{device['name']}{own}{many} ({device['platform'].upper()})"


def in_order(stored: list[dict[str, Any]]) -> dict[str, Rows]:
    """Rows by group, as ``bench.rows`` has them; other groups after."""
    order = list(dict.fromkeys(row.group for row in ROWS.values()))
    groups = {file["group"]: file["rows"] for file in stored}
    names = [*order, *sorted(set(groups) - set(order))]
    return {name: groups[name] for name in names if name in groups}


def device_part(stored: list[dict[str, Any]], groups: dict[str, Rows]) -> Iterator[str]:
    yield f"## {title(stored)}\n"
    yield f"{conditions(stored)}\n"
    all_rows = {name: row for rows in groups.values() for name, row in rows.items()}
    yield means_table(groups)
    yield remarks(all_rows)
    runs = all_runs(stored)
    for group, rows in groups.items():
        yield f"### {group}\n"
        if group == "laws":
            yield laws_text(rows)
            continue
        yield f"{jaxlibs(rows, runs)}\n"
        for table, timed in group_tables(rows):
            yield table.markdown(code=True) + (milliseconds_table(timed) if timed else "")


def laws_text(rows: Rows) -> str:
    """How many layers are right on the device, the largest errors, and which are not."""
    right = {name: row for name, row in rows.items() if row["holds"]}
    worst: dict[str, tuple[float, str]] = {}
    for name, row in right.items():
        for variant, error in row["errors"].items():
            worst[variant] = max(worst.get(variant, (0.0, "")), (error, name))
    shown = (f"{variant} {error:.0e} ({name})" for variant, (error, name) in worst.items())
    text = (
        f"Output, state and gradients of {len(right)} of {len(rows)} layers are right, against"
        f" float64. The largest errors among them: {', '.join(shown)}.\n"
    )
    wrong = {name: row for name, row in rows.items() if not row["holds"]}
    return text + (f"\n{questions_table(wrong).markdown(code=True)}" if wrong else "")


def faster_variant(row: dict[str, Any], mode: str) -> str | None:
    """The fastest of the further candidates that is faster than jlayers as it comes, as text.

    Those are other methods and settings of jlayers or of hand-written JAX: they say whether the
    choice is right on this device. "jlayers, 32 steps a call" is not such a candidate.
    """
    timed = {name: own[mode] for name, own in row["frameworks"].items() if mode in own}
    ours = timed.get("jlayers")
    others = {
        name: own["median"]
        for name, own in timed.items()
        if name.startswith(("jlayers ", "lax ")) and name != "jlayers loop"
    }
    if ours is None or not others:
        return None
    name = min(others, key=others.__getitem__)
    ratio = ours["median"] / others[name]
    return f"{name} {times(ratio)}" if ratio > 1 / BEHIND else None


def conditions(stored: list[dict[str, Any]]) -> str:
    """Dates and versions of all runs that the rows come from."""
    runs = all_runs(stored)
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


def all_runs(stored: list[dict[str, Any]]) -> dict[str, Any]:
    """The environments of all runs by their start."""
    return {stamp: run for file in stored for stamp, run in file["runs"].items()}


def jaxlibs(rows: Rows, runs: dict[str, Any]) -> str:
    """The versions of XLA and the processors that a table was measured with."""
    own = [runs[row["run"]] for row in rows.values() if row["run"] in runs]
    versions = sorted({run["versions"]["jaxlib"] for run in own if "jaxlib" in run["versions"]})
    processors = sorted({run["processor"] for run in own if run.get("processor")})
    return f"{'; '.join(['jaxlib ' + ' and '.join(versions or ['unknown']), *processors])}."


def means_table(groups: dict[str, Rows]) -> str:
    """Geometric means of each group in each mode, and of all rows of operations."""
    lines = []
    for group, rows in with_all(groups).items():
        for mode, found in by_mode(rows.values()).items():
            counted = sum(r.ours is not None for r in found)
            rows_text = str(counted) if counted == len(found) else f"{counted} of {len(found)}"
            each = ("to_peer", "to_lax", "to_torch", "to_floor")
            means = [geometric_mean(getattr(r, name) for r in found) for name in each]
            shown = f"**{group}**" if group == ALL else group
            lines.append([shown, mode, rows_text, *map(times, means)])
    if not lines:
        return ""
    against = ["than the best peer", "than lax", "than torch", "time over the floor"]
    text = "Geometric means over the rows; above 1x jlayers is faster.\n\n"
    return text + Table(["group", "", "rows", *against], lines, 2).markdown()


def remarks(rows: Rows) -> str:
    """Where jlayers is behind, and what to know about the figures, by name."""
    behind, same, other, wrong, noisy = [], [], [], [], []
    for name, row in rows.items():
        for mode in modes(row):
            r = ratios(row, mode)
            if r.behind:
                text = f"{name} ({mode}, {times(r.to_peer)} of {r.peer})"
                (same if r.same else behind).append(text)
            if (variant := faster_variant(row, mode)) is not None:
                other.append(f"{name} ({mode}, {variant})")
        for framework, entry in row.get("frameworks", {}).items():
            if entry["status"] in ("wrong", "failed"):
                # As code: ``[1]['bias']`` would be a link in plain text.
                reason = " ".join(entry["reason"].split())[:160].replace("`", "'")
                wrong.append(f"{name}: {framework} (`{reason}`)")
        if (row.get("others") or 0) > NOISY:
            noisy.append(f"{name} ({row['others']:.0%})")
    texts = [
        (f"Behind the best peer (below {BEHIND}x)", behind),
        ("Below that, but by noise: the peer's compiled program is the same as ours", same),
        ("Another method or setting was faster than the one that was chosen", other),
        ("Without a time, for being wrong or failing", wrong),
        (
            "Measured while other processes used the processor (their share), not to be trusted",
            noisy,
        ),
    ]
    return "".join(f"\n{what}: {'; '.join(which)}.\n" for what, which in texts if which)


def milliseconds_table(rows: Rows) -> str:
    """The medians of all frameworks, all modes in one cell."""
    found = dict.fromkeys(name for row in rows.values() for name in row["frameworks"])
    frameworks = sorted(found, key=_position)
    lines = []
    for name, row in rows.items():
        cells = []
        for framework in frameworks:
            entry = row["frameworks"].get(framework, {})
            own = [milliseconds(entry[mode]["median"]) for mode in modes(row) if mode in entry]
            cells.append(" / ".join(own) or entry.get("status", "-"))
        lines.append([name, *cells])
    table = Table(["row", *frameworks], lines).markdown(code=True)
    return f"\nMilliseconds, {' / '.join(by_mode(rows.values()))}:\n\n{table}"


def _position(name: str) -> int:
    """The order of the columns: variants ("jlayers loop") beside their framework, others last."""
    order = list(FRAMEWORKS)
    framework = name.replace(",", "").split()[0]
    return order.index(framework) if framework in order else len(order)
