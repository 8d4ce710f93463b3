"""A proof that a program resumes exactly: the same training in one process, and in two.

How to read this file: ``check_resume`` runs ``_train`` in three new processes, which leave their
checkpoints and digests of their batches in two folders; ``_compared`` reads and compares these.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base import arguments
from ..base.errors import TrainingError, calling_user_code, public_api
from ..base.specs import format_short
from ..checkpoint import CheckpointManager, read_arrays, read_manifest
from ..data import Position, Source, as_source
from ..training.loop.fit import fit
from ..training.loop.recovery import saved_sums

_NEEDED = {"step", "state", "data"}
# Arguments that the proof itself sets.
_OWN = {"steps", "epochs", "checkpoints", "resume", "early_stopping", "hooks"}
_SHOWN = 12
_MAIN = 'if __name__ == "__main__":'


class ResumeReport(NamedTuple):
    """What was compared, and is the same bit for bit.

    Attributes:
      steps: taken in all.
      arrays: parameters, state, the optimiser's state, keys: all of the training state.
      records: whose metrics were compared.
      batches: whose contents were compared, in their order.
    """

    steps: int
    arrays: int
    records: int
    batches: int

    def __str__(self) -> str:
        return (
            f"resumed exactly: after {self.steps} steps {self.arrays} arrays, {self.records} "
            f"records and {self.batches} batches are bitwise the same"
        )


@public_api
def check_resume(make: Callable[[], dict[str, Any]], steps: int) -> ResumeReport:
    """Proves that a training program, ended and resumed in a new process, is the same program.

    It trains in new processes: 2 * ``steps`` steps in one, and ``steps`` steps in one and then as
    many in another. The whole state, the metrics and the batches have to be the same, bit for
    bit.

    Args:
      make: gives the arguments of ``fit``, ``dict(step=, state=, data=, ...)``. It is called
        in each process, so it has to be at the top of a module; in a script, the call of
        ``check_resume`` has to be under ``if __name__ == "__main__":``.
      steps: before the end, and after it.

    Returns:
      What was compared.

    Raises:
      TrainingError: with all differences, by path, step and batch.
    """
    steps = arguments.positive("steps", steps)
    try:
        # As multiprocessing will: by its name in its module.
        pickle.dumps(make)
        found = callable(make)
    except (pickle.PicklingError, AttributeError, TypeError):
        found = False
    if not found:
        raise TrainingError(
            "make cannot be found by another process",
            expected="a function at the top of a module",
            got=format_short(make),
        )
    with tempfile.TemporaryDirectory() as folder:
        whole, parted = Path(folder, "whole"), Path(folder, "parted")
        _in_new_process(make, whole, 2 * steps)
        _in_new_process(make, parted, steps)
        _in_new_process(make, parted, 2 * steps)
        return _compared(whole, parted, 2 * steps)


def _in_new_process(make: Callable[[], dict[str, Any]], folder: Path, steps: int) -> None:
    # A fork would copy what JAX has compiled, and lose its threads. A resumed program starts from
    # nothing.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(make, folder, steps, there))
    process.start()
    # This process's own end too, or ``recv`` would wait for ever where the other one dies.
    there.close()
    try:
        text, hint = here.recv(), None
    except EOFError:
        text, hint = "its process ended", _MAIN
    process.join()
    if hint is not None:
        text = f"{text} with status {process.exitcode}"
    if text is not None:
        raise TrainingError(f"the program failed before it took {steps} steps", got=text, hint=hint)


def _train(make: Callable[[], dict[str, Any]], folder: Path, steps: int, pipe: Any) -> None:
    try:
        with calling_user_code("make", TrainingError):
            arguments = make()
        _check_arguments(arguments)
        # Metrics could be equal by chance where two batches changed places.
        arguments["data"] = RecordingSource(as_source(arguments["data"]), folder)
        arguments |= {"steps": steps, "progress": False}
        fit(**arguments, checkpoints=CheckpointManager(folder, keep=None))
        pipe.send(None)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _check_arguments(arguments: Any) -> None:
    names = set(arguments) if isinstance(arguments, dict) else set()
    if not names >= _NEEDED or names & _OWN:
        raise TrainingError(
            "make must return the arguments of fit",
            expected=f"a dict with {', '.join(sorted(_NEEDED))}, without {', '.join(sorted(_OWN))}",
            got=", ".join(sorted(names)) or format_short(arguments),
        )


class RecordingSource:
    """A source that writes a digest of each batch to a file."""

    def __init__(self, inner: Source, folder: Path):
        self._inner = inner
        self._file = folder / "batches.jsonl"
        self.start, self.rereads = inner.start, inner.rereads

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[Any, Position]]:
        with self._file.open("a") as file:
            for batch, after in self._inner.read(position, epochs):
                file.write(json.dumps([after, _digest(batch)]) + "\n")
                file.flush()
                yield batch, after


def _digest(batch: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        array = np.asarray(leaf)
        digest.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
    return digest.hexdigest()


def _compared(whole: Path, parted: Path, steps: int) -> ResumeReport:
    paths = [CheckpointManager(folder, keep=None).path(steps) for folder in (whole, parted)]
    arrays = [read_arrays(path) for path in paths]
    # Seconds and rates differ each time.
    manifests = [read_manifest(path) for path in paths]
    records: list[dict[Any, Any]] = [
        {str(row[0]): row[1:3] for row in manifest.history} for manifest in manifests
    ]
    batches = [
        dict(enumerate(map(json.loads, (folder / "batches.jsonl").read_text().splitlines())))
        for folder in (whole, parted)
    ]
    sums = [saved_sums(m.extra) or {} for m in manifests]
    extras = [{name: own.get(name) for name in ("sums", "counted")} for own in sums]
    differences = [
        *(f"batch {number} differs" for number in _differ(batches, _equal)),
        *(f"the record of step {step} differs" for step in _differ(records, _equal)),
        *(f"{name} since the last record differ" for name in _differ(extras, _equal)),
        *(f"{path}: the numbers differ" for path in _differ(arrays, _same)),
    ]
    if differences:
        more = len(differences) - _SHOWN
        shown = differences[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise TrainingError(
            f"training does not resume exactly, after {steps // 2} of {steps} steps",
            got="\n" + "\n".join(f"    {line}" for line in shown),
            hint="random numbers must come from the state's key, and data from its position",
        )
    return ResumeReport(steps, len(arrays[0]), len(records[0]), len(batches[0]))


def _differ(pair: list[dict[Any, Any]], same: Callable[[Any, Any], bool]) -> list[Any]:
    a, b = pair
    names = list(dict.fromkeys([*a, *b]))
    return [name for name in names if name not in a or name not in b or not same(a[name], b[name])]


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _equal(a: Any, b: Any) -> bool:
    # As text: NaN is to be the same as NaN.
    return json.dumps(a) == json.dumps(b)
