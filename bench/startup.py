"""How long does it take to start? Every framework in a fresh process, nothing compiled before.

From the start of the process to the end of the first training step of a transformer of 48 blocks:
with ``repeat`` against the others as their users write it, one block after the other everywhere,
and with one block compiled for all everywhere. And the parameters of a ResNet-50, imports not
counted.

    python -m bench.startup first_step "linen scan"

is one such process. It prints when its time begins, 0 for the start of the process, and when it
ends, as ``time.time``; it imports nothing before it must.
"""

import statistics
import sys
import time
from typing import Any, NamedTuple

from .frameworks import LIBRARIES, Unavailable, part
from .fresh import last_line, status_of
from .noise import mark, share_of_others
from .questions import Answer


class Start(NamedTuple):
    """A row: what is started, and the names of its programs where they are not the frameworks'.

    Args:
      programs: name in the row to the program, for ``what``.
    """

    what: str
    programs: dict[str, str]


_AS_WRITTEN = {name: name for name in LIBRARIES}
_SCANS = {f"{name} scan": f"{name} scan" for name in ("linen", "nnx", "equinox", "haiku")}
ROWS = {
    "first step of a 48-block transformer": Start("first_step", _AS_WRITTEN),
    "first step of 48 blocks, one after the other": Start(
        "first_step", _AS_WRITTEN | {"jlayers": "jlayers loop"}
    ),
    "first step of 48 blocks, one compiled for all": Start(
        "first_step", {"jlayers": "jlayers", **_SCANS}
    ),
    "init of a ResNet-50": Start("init", _AS_WRITTEN),
}
# Seconds of a process after which it is not started again: it is far behind, and costs minutes.
LONG = 60.0
IMPORTS = 15


def measure(rounds: int = 3) -> dict[str, dict[str, Any]]:
    """For each row and framework the mode "start", or why there is none; timed in turns."""
    pairs = [(row.what, name) for row in ROWS.values() for name in row.programs.values()]
    seconds: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
    failed: dict[tuple[str, str], Any] = {}
    for _ in range(rounds):
        for pair, own in seconds.items():
            if pair in failed or max(own, default=0.0) > LONG:
                continue
            try:
                own.append(seconds_of_process(*pair))
            except RuntimeError as error:
                failed[pair] = status_of(error)

    def result(pair: tuple[str, str]) -> Any:
        return failed.get(pair) or {"status": "ok", "start": middle(seconds[pair])}

    return {
        row: {name: result((start.what, program)) for name, program in start.programs.items()}
        for row, start in ROWS.items()
    }


def seconds_of_process(what: str, name: str) -> float:
    """Seconds of one fresh process.

    Raises:
      RuntimeError: with the last line that the process wrote.
    """
    start = time.time()
    started, ended = map(float, last_line("-m", "bench.startup", what, name).split())
    return ended - (started or start)


def middle(values: list[float]) -> dict[str, Any]:
    """A timing of few values, as it is stored."""
    spread = {"low": min(values), "high": max(values), "calls": len(values)}
    return {"median": statistics.median(values), **spread}


def import_cost(budget: float, rounds: int) -> Answer:
    """A process that imports jlayers, over one that imports jax and optax; in turns."""
    programs = {"jlayers": "import jlayers", "jax and optax": "import jax, optax"}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    start = mark()
    # The first of each reads its files from the disk, and does not count.
    for turn in range(min(rounds, IMPORTS) + 1):
        for name, program in programs.items():
            before = time.perf_counter()
            last_line("-c", f"{program}; print(0)")
            seconds[name] += [time.perf_counter() - before] * (turn > 0)
    others = share_of_others(start)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    ours, theirs = medians.values()
    texts = (f"{name} {median:.2f} s" for name, median in medians.items())
    figure = f"{ours / theirs:.2f}x ({', '.join(texts)})"
    question = "a process that imports jlayers, over one that imports jax and optax"
    return Answer(question, figure, "1.05x", ours / theirs <= 1.05, seconds, others)


def init(name: str) -> float:
    """Makes the parameters; the time when that began, after all imports."""
    from .frameworks.sizes import resnet

    make, model = part(name, "train").init, part(name, "models").MODELS["conv_net"]
    if name != "torch":
        import jax

        # Starting the device does not count.
        jax.block_until_ready(jax.numpy.zeros(3) + 1)
    started = time.time()
    make(model, resnet())
    return started


def main(what: str, name: str) -> None:
    from .steps.table import first_step

    started = 0.0
    try:
        if what == "init":
            started = init(name)
        else:
            first_step(name)
    except (Unavailable, ModuleNotFoundError) as reason:
        sys.exit(str(reason))
    print(started, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
