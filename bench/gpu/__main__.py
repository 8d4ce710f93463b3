"""``make bench-gpu``, or ``python -m bench.gpu [name, group or pattern ...]``."""

import argparse
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
# Ignored by git, as all under runs/ is.
REHEARSAL = ROOT / "runs" / "bench-gpu-rehearsal"
CACHE = ROOT / "runs" / "bench-gpu-programs"
# What jlayers and the benchmark import; of the other libraries, those that are there are measured.
REQUIRED = ("jax", "optax", "rich", "safetensors")
# What else the figures depend on there; those that are installed.
LIBRARIES = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m bench.gpu",
        description="Correctness and speed on one NVIDIA GPU. Safe to stop at any moment: rows are"
        " stored one by one, and the next run goes on with those that are missing.",
    )
    add = made.add_argument
    add("names", nargs="*", help="rows, groups, patterns; all by default")
    add("--minutes", type=float, default=8.0, help="start nothing that ends later (%(default)s)")
    add("--budget", type=float, default=0.5, help="seconds to time a mode in (%(default)s)")
    add("--rounds", type=int, default=200, help="most calls of a candidate (%(default)s)")
    add("--results", type=pathlib.Path, help="folder of the JSON files (bench/results)")
    add("--list", action="store_true", help="show the plan")
    add("--fresh", action="store_true", help="measure again what is stored")
    add("--tiny", action="store_true", help="a rehearsal on the processor, of tiny sizes")
    return made


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    if not (options.minutes > 0 and options.budget > 0) or options.rounds < 1:
        sys.exit("--minutes and --budget are more than 0, and --rounds at least 1")
    # Before anything imports them: no other target leaves it to the user to have them.
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"{sys.executable} has no {', '.join(missing)}: install what is missing there,"
            " or choose another Python, as in make bench-gpu PYTHON=/path/to/python"
        )
    # torch needs some of the memory that JAX would otherwise take at its start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    from ..device import choose_platform

    choose_platform("cpu" if options.tiny or options.list else "gpu")
    from ..groups import choose
    from .plan import plan

    whole = plan(options.tiny)
    names = choose(options.names, whole, "bench.gpu")
    if options.list:
        print(*(f"{name} ({whole[name].group})" for name in names), sep="\n")
        return
    run({name: whole[name] for name in names}, options)


def run(planned: dict[str, Any], options: argparse.Namespace) -> None:
    """Does what fits in the minutes, and says what it found and what it left out."""
    from ..device import device, now
    from ..results import FOLDER
    from . import words
    from .clock import Clock
    from .driver import DeviceLostError, Driver

    keep_programs()
    folder = options.results or (REHEARSAL if options.tiny else FOLDER)
    here = device()
    driver = Driver(folder, here, conditions(options), now())
    print(f"{here['name']}, {driver.conditions['versions']}", flush=True)
    clock, found = Clock(options.minutes), {}
    left = dict(planned)
    for name, item in [] if options.fresh else list(planned.items()):
        if kept := driver.kept(name, item):
            found |= kept
            del left[name]
    if found:
        print(f"{len(planned) - len(left)} of {len(planned)} are kept from an earlier run")
    lost = ""
    try:
        for _, rows in driver.run(left, clock, options.budget, options.rounds):
            found |= rows
            print(*words.lines(rows, clock.spent), sep="\n", flush=True)
    except DeviceLostError as error:
        lost = f"the device computes nothing more: {error}"
    path = words.write_page(folder, here)
    print(*words.summary(found, list(left), clock.spent), sep="\n")
    print(f"stored under {path.parent}")
    if options.tiny:
        print("a rehearsal, of tiny sizes: its figures say nothing")
    elif folder == FOLDER:
        print("python -m bench report shows it in docs/benchmarks.md")
    if lost:
        sys.exit(lost)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    from ..device import environment
    from ..frameworks import installed

    found = environment(installed())
    for name in LIBRARIES:
        try:
            found["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"budget": options.budget, "rounds": options.rounds}


def keep_programs() -> None:
    """Compiled programs are kept for the next run: an interrupted one goes on at once."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    main(sys.argv[1:])
