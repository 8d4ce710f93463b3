"""``python -m bench random conv norm``: shapes that no table has, drawn at each run.

A table of chosen rows says little about the shapes between them, and a rule that was derived from
it may have learnt it by heart. Each run draws other shapes, prints the seed that repeats them, and
says how many are slower than with the best peer. ``bench.shapes`` has the ranges. As for rows,
results count if they agree with a float64 reference, and all are timed in turns.
"""

import argparse
import itertools
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import rich
import rich.console

from .shapes import KINDS, random_rows

PEERS = ("linen", "nnx", "equinox", "haiku", "keras")
WORST = 8  # rows that are shown in the end


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m bench random", description=__doc__.split("\n")[0])
    add = made.add_argument
    add("kinds", nargs="+", choices=KINDS, metavar="kind", help=", ".join(KINDS))
    add("--count", type=int, default=30, help="shapes of each kind (%(default)s)")
    add("--seed", type=int, help="of an earlier run, to repeat its shapes")
    add("--peers", default=",".join(PEERS), help="separated by commas (%(default)s)")
    add("--budget", type=float, default=0.5, help="seconds to time a mode in (%(default)s)")
    add("--rounds", type=int, default=200, help="most calls of a framework (%(default)s)")
    add("--limit", type=float, default=600.0, help="seconds of each kind (%(default)s)")
    add("--platform", choices=("cpu", "gpu"), default="cpu")
    return made


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    peers = tuple(options.peers.split(","))
    unknown = ", ".join(set(peers) - set(PEERS))
    if unknown:
        sys.exit(f"no such peer: {unknown}; there are {', '.join(PEERS)}")
    if options.count < 1 or options.rounds < 1 or not (options.budget > 0 and options.limit > 0):
        sys.exit("--count and --rounds are at least 1, --budget and --limit more than 0 seconds")
    from .device import choose_platform

    choose_platform(options.platform)
    from .device import device, environment
    from .frameworks import installed

    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{device()['name']}, {environment(installed())['versions']}")
    console.print(f"--seed {seed} repeats these shapes")
    right = True
    for kind in options.kinds:
        drawn = itertools.islice(random_rows(kind, seed), options.count)
        limits = (options.budget, options.rounds, options.limit)
        rows = run(drawn, ("jlayers", *peers), *limits, console.print)
        console.print(f"\n{kind}, seed {seed}: {len(rows)} of {options.count} shapes")
        console.print(summary(rows))
        wrong = [name for name, row in rows.items() if not _is_ours(row)]
        right = right and not wrong
        if wrong:
            console.print(f"[red]without a time of ours: {'; '.join(wrong)}[/]")
    if not right:
        sys.exit(1)


def run(
    drawn: Iterable[Any],
    frameworks: tuple[str, ...],
    budget: float,
    rounds: int,
    limit: float,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The results by the names of rows, until all are measured or ``limit`` seconds have passed."""
    from .measure import measure

    rows: dict[str, Any] = {}
    end = time.monotonic() + limit
    for row in drawn:
        if time.monotonic() > end:
            show("the time is over")
            break
        rows[row.name] = measure(row, budget, rounds, frameworks)
        show(f"{row.name}: {_in_short(rows[row.name])}")
    return rows


def _in_short(result: dict[str, Any]) -> str:
    from .ratios import modes, ratios
    from .tables import milliseconds, times

    ours = result["frameworks"]["jlayers"]
    if ours["status"] != "ok":
        return f"{ours['status']}: {ours['reason']}"
    texts = []
    for mode in modes(result):
        r = ratios(result, mode)
        same = ", same program" * r.same
        texts.append(
            f"{mode} {milliseconds(ours[mode]['median'])} ms {times(r.to_peer)} {r.peer}{same}"
        )
    return "; ".join(texts)


def _is_ours(result: dict[str, Any]) -> bool:
    return bool(result["frameworks"]["jlayers"]["status"] == "ok")


def summary(rows: dict[str, Any]) -> str:
    """For each mode the share of shapes behind the best peer, the mean, and the worst shapes.

    Where the peer's compiled program is the same as ours, what differs is noise: such shapes count
    in the mean and are not behind.
    """
    from .ratios import BEHIND, geometric_mean, modes, ratios
    from .tables import times

    lines = []
    for mode in dict.fromkeys(mode for row in rows.values() for mode in modes(row)):
        found = [(name, ratios(row, mode)) for name, row in rows.items() if mode in modes(row)]
        compared = [(name, r) for name, r in found if r.to_peer is not None]
        if not compared:
            continue
        behind = [r for _, r in compared if r.behind and not r.same]
        mean = times(geometric_mean(r.to_peer for _, r in compared))
        lines.append(
            f"{mode}: {len(behind)} of {len(compared)} below {BEHIND}x of the best peer"
            f" ({len(behind) / len(compared):.0%}), geometric mean {mean}"
        )
        worst = sorted(compared, key=lambda pair: pair[1].to_peer or 0.0)[:WORST]
        lines += [
            f"  {times(r.to_peer)} {r.peer}{' (same program)' * r.same}: {name}"
            for name, r in worst
        ]
    return "\n".join(lines)
