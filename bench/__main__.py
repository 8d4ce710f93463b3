"""``make bench``, or ``python -m bench [row or group ...]``, ``report`` or ``random kind ...``."""

import argparse
import pathlib
import sys
from typing import Any

import rich
import rich.console

from .results import FOLDER


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m bench",
        description="jlayers against every JAX layer library and torch, interleaved in one run.",
        epilog="python -m bench report: docs/benchmarks.md and its picture, from what is stored."
        " python -m bench random conv: random shapes; --help says more.",
    )
    add = made.add_argument
    add("names", nargs="*", help="rows, groups, patterns; all by default")
    add("--list", action="store_true", help="show groups and rows")
    add("--platform", choices=("cpu", "gpu"), default="cpu")
    add("--budget", type=float, default=3.0, help="seconds to time a mode in (%(default)s)")
    add("--rounds", type=int, default=200, help="most calls of a framework (%(default)s)")
    add("--resume", action="store_true", help="keep rows stored with this device and versions")
    add("--results", type=pathlib.Path, default=FOLDER, help="folder of the JSON files")
    return made


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["random"]:
        from .random_shapes import main as random_main

        random_main(arguments[1:])
        return
    options = parser().parse_args(arguments)
    if options.names == ["report"]:
        from .report import write

        print(*write(options.results), sep="\n")
        return
    if not options.budget > 0 or options.rounds < 1:
        sys.exit("--budget is more than 0 seconds and --rounds at least 1")
    from .device import choose_platform

    choose_platform(options.platform)
    from .groups import choose, entries, groups

    found = entries()
    names = choose(options.names, found)
    if options.list:
        listed = groups({name: found[name] for name in names})
        print("\n".join("\n  ".join([group, *own]) for group, own in listed.items()))
        return
    run(names, found, options)


def run(names: list[str], found: dict[str, Any], options: argparse.Namespace) -> None:
    """Measures, stores after every row, and shows."""
    from . import results, tables
    from .device import device, environment, now
    from .frameworks import installed
    from .groups import groups

    here, stamp = results.placed(options.results, device()), now()
    conditions = environment(installed()) | {"budget": options.budget, "rounds": options.rounds}
    # A file or a pipe has no width.
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{here['name']}, {conditions['versions']}")
    shown: dict[str, dict[str, Any]] = {}
    found_groups = groups(found)
    for count, name in enumerate(names, 1):
        entry = found[name]
        stored = results.read(options.results, here, entry.group)
        rows = shown.setdefault(entry.group, {})
        what = results.as_stored(entry.what)
        earlier = results.earlier(stored, name, what, conditions) if options.resume else {}
        if earlier:
            rows |= earlier
            console.print(f"{count}/{len(names)} {name}: kept")
            continue
        console.print(f"{count}/{len(names)} {name}")
        measured = entry.measure(options.budget, options.rounds)
        for own, result in measured.items():
            stored["rows"][own] = rows[own] = {**result, "what": what, "from": name, "run": stamp}
            console.print(tables.row_table(own, result))
        stored["runs"][stamp] = conditions
        order = found_groups[entry.group] if list(measured) == [name] else []
        results.write(options.results, stored, order)
    for group, rows in shown.items():
        for table, _ in tables.group_tables(rows):
            console.print(table.terminal(group))
    console.print(tables.means([row for rows in shown.values() for row in rows.values()]))


if __name__ == "__main__":
    main(sys.argv[1:])
