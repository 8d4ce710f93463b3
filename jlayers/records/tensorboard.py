"""Records as event files, which TensorBoard shows."""

from __future__ import annotations

import importlib
import os
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ..base.errors import TrainingError, public_api
from .record import Record, first_new_step

# Records that may wait for the disk. Beyond them the loop waits too.
_WAITING = 10_000


class _Events:
    """Passes records, and histograms, to the writer's own thread."""

    # Of several processes the first one alone writes it.
    writes_a_file = True

    def __init__(self, folder: str, flush_seconds: float):
        self._folder = folder
        self._flush_seconds = flush_seconds
        self._writer: Any = None
        self._first_new: int | None = None

    def on_start(self, step: int, records: list[Record]) -> None:
        """Later events for steps that the loop does not know, from a run before, are dropped."""
        self._first_new = first_new_step(step, records)

    @public_api
    def __call__(self, record: Record) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # A metric of the user's that has one of these names is what is shown.
        own = {"steps_per_second": record.steps_per_second, "epoch": record.epoch}
        scalars = own | record.metrics
        self._write(
            record.step,
            [Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()],
        )

    @public_api
    def histograms(self, step: int, histograms: Mapping[str, Any]) -> None:
        """Writes what ``jl.inspection.histograms`` returned, under the paths.

        Args:
          step: the number that it is shown at.
          histograms: ``{path: Histogram}``.
        """
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        values = []
        for path, one in histograms.items():
            count = one.size - one.non_finite
            # All of them are of finite numbers, of which there may be none.
            known = (one.smallest, one.largest, one.mean, one.std) if count else (0.0,) * 4
            smallest, largest, mean, std = known
            shown = HistogramProto(
                min=smallest,
                max=largest,
                num=count,
                sum=mean * count,
                sum_squares=(std**2 + mean**2) * count,
                bucket_limit=one.edges[1:],
                bucket=one.counts,
            )
            values.append(Summary.Value(tag=path, histo=shown))
        self._write(step, values)

    def _write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time()
        try:
            opens = self._writer is None
            if opens:
                self._writer = self._open()
            if opens or self._first_new is not None:
                # For its readers: what was written of this step and later ones before is void.
                first = step if self._first_new is None else self._first_new
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=min(step, first), session_log=start)
                self._writer.add_event(event)
                self._first_new = None
            event = Event(wall_time=now, step=step, summary=Summary(value=values))
            self._writer.add_event(event)
        except OSError as error:
            raise TrainingError(
                f"tensorboard: event files in {self._folder} cannot be written",
                got=f"{type(error).__name__}: {error.strerror}",
                hint="another folder, or free space on the disk",
            ) from None

    def close(self) -> None:
        """Waits until everything is in the file. A later record opens another file."""
        # Detached, or it would be closed again when Python ends.
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._closing.detach()
            writer.close()

    def _open(self) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # Checked before the writer is made: it would fail in a thread, with its own traceback.
        os.makedirs(self._folder, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
        # Its readers take files in the order of their names. These begin with the second, and end
        # with a count as text: of one second, the tenth file would be read before the ninth.
        while any(
            f".tfevents.{int(time.time()):010d}." in name for name in os.listdir(self._folder)
        ):
            time.sleep(0.02)
        writer = EventFileWriter(self._folder, _WAITING, self._flush_seconds)
        # Runs when this object is collected and when Python ends.
        self._closing = weakref.finalize(self, writer.close)
        return writer


@public_api
def tensorboard(folder: str | os.PathLike[str], *, flush_seconds: float = 10.0) -> _Events:
    """A function that writes every record as scalars to an event file in a folder: for ``hooks``.

    Each metric is a scalar by its name, beside "steps_per_second" and "epoch". The file is
    written by the ``tensorboard`` package, on its thread: a record costs the loop the time to put
    it into a queue. A resumed training with the same folder replaces what was written of the same
    and later steps, as TensorBoard shows it.

    Args:
      folder: made with the first record.
      flush_seconds: the longest time until a record is in the file; it also is when Python ends,
        and after ``close()`` of what is returned.

    Raises:
      TrainingError: where ``tensorboard`` is not installed; with a record, where the folder cannot
        be written.

    >>> import tempfile
    >>> from jlayers import training
    >>> folder = tempfile.mkdtemp()
    >>> log = training.tensorboard(folder)  # doctest: +SKIP
    >>> log(training.Record(10, 0, {"loss": 0.5}, 1.25, 8.0))  # doctest: +SKIP
    """
    try:
        # Now and not in the loop: it takes half a second.
        importlib.import_module("tensorboard.summary.writer.event_file_writer")
    except ImportError:
        raise TrainingError(
            "the package tensorboard is not installed", hint="pip install tensorboard"
        ) from None
    return _Events(os.path.abspath(os.fspath(folder)), flush_seconds)
