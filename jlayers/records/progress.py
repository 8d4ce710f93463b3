"""The progress bar on a terminal, and lines of progress in a log file.

How to read this file: ``at`` decides whether it is time for ``_draw``, which refreshes the live
display (``_drawing``) or writes a line. Both are made of the small texts at the end.
"""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Mapping
from time import monotonic

import rich.console
import rich.live
import rich.progress_bar
import rich.text

from ..base import arguments
from ..base.errors import public_init

# Seconds between two drawings, which take two milliseconds each.
_REDRAW = 0.5
# The rate is that over the last so many drawings: half a minute on a terminal.
_SAMPLES = 60


@public_init("Progress")
class Progress:
    """A line with the state of the loop: a bar on a terminal, now and then a line elsewhere.

    There is no thread: it is drawn inside ``at``, at most twice a second. On a terminal, what is
    printed meanwhile appears above the bar. Where the output goes to a file or a pipe there are
    plain lines, the last one at the end. If the terminal goes away, it falls silent and the loop
    continues.

    Args:
      total: the step at which the loop ends, None where that is not known.
      description: the text at the start of the line.
      every: seconds from one plain line to the next.
      console: of rich; standard output by default.

    Raises:
      TrainingError: for an invalid argument.

    >>> from jlayers import training
    >>> with training.Progress(200) as progress:
    ...     progress.at(150)
    ...     progress.metrics({"loss": 0.25})
    ...     progress.at(200)
    training  200/200  100%  ...  loss 0.25
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        description: str = "training",
        every: float = 10.0,
        console: rich.console.Console | None = None,
    ):
        self._total = None if total is None else arguments.integer("total", total, 0)
        self._every = arguments.number("every", every)
        self._description = description
        self._console = console
        self._step = 0
        self._metrics: dict[str, float] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._started = self._due = monotonic()
        self._live: rich.live.Live | None = None
        self._silent = False

    def __enter__(self) -> Progress:
        self._started = monotonic()
        self._samples.clear()
        if self._console is None:
            # rich takes a file for a terminal where FORCE_COLOR is set.
            terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
            self._console = rich.console.Console(force_terminal=terminal)
        else:
            terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._interval = _REDRAW if terminal else self._every
        self._due = self._started + self._interval
        if terminal:
            self._live = rich.live.Live(
                console=self._console,
                auto_refresh=False,
                # Of the two, what is redirected to a file has to get there.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
                get_renderable=self._drawing,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        live, self._live = self._live, None
        if live is None:
            self._draw()
            return
        try:
            live.stop()  # draws once more
        except (OSError, ValueError):
            self._silent = True

    def at(self, step: int) -> None:
        """The loop has taken ``step`` steps in total."""
        self._step = step
        now = monotonic()
        # The first sample is that of the first call, not of the start: the time before it is that
        # of compiling, and would make the rate too low for half a minute.
        if not self._samples:
            self._samples.append((now, step))
        if now >= self._due:
            self._due = now + self._interval
            self._samples.append((now, step))
            self._draw()

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """The newest metrics, by name; those that are not among them stay."""
        self._metrics.update(metrics)

    def note(self, text: str) -> None:
        """A line of its own, before the bar is shown or after."""
        if not self._silent:
            print(text, file=None if self._console is None else self._console.file, flush=True)

    def _draw(self) -> None:
        if self._silent or self._console is None:
            return
        try:
            if self._live is not None:
                self._live.refresh()
            else:
                fields = (self._count(), self._percent(), *self._times(), self._metrics_text())
                line = "  ".join(filter(None, (self._description, *fields)))
                self._console.file.write(f"{line}\n")
                self._console.file.flush()
        except (OSError, ValueError):  # a terminal that is gone, a closed file
            self._silent = True

    def _drawing(self) -> rich.console.RenderableType:
        # One text, 1.8 ms: the table of rich.progress takes 4.6 ms, of every half second.
        row = rich.text.Text(no_wrap=True, overflow="ellipsis")
        row.append(f"{self._description}  {self._count()}  ")
        room = min(30, self._console.width - 65) if self._console else 0
        if self._console and self._total is not None and room >= 4:
            bar = rich.progress_bar.ProgressBar(self._total, self._step, room)
            for segment in self._console.render(bar):
                row.append(segment.text, segment.style)
            row.append(f"  {self._percent()}  ")
        row.append("  ".join(filter(None, self._times())))
        if self._metrics:
            row.append(f"\n{self._metrics_text()}")
        return row

    def _metrics_text(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self._metrics.items())

    def _count(self) -> str:
        return f"{self._step}/{self._total}" if self._total is not None else f"step {self._step}"

    def _percent(self) -> str:
        if self._total is None:
            return ""
        return f"{math.floor(100 * self._step / self._total) if self._total else 100}%"

    def _times(self) -> tuple[str, str]:
        """The rate, and the time elapsed and left."""
        now = monotonic()
        elapsed = _clock(now - self._started)
        then, step = self._samples[0] if self._samples else (now, 0)
        if now <= then or self._step <= step:
            return "", elapsed
        rate = (self._step - step) / (now - then)
        if self._total is not None and self._step < self._total:
            elapsed += f" < {_clock((self._total - self._step) / rate)}"
        if rate < 1:
            return f"{1 / rate:.1f} s/step", elapsed
        return (f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}") + " steps/s", elapsed


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
