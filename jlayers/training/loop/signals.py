"""Requests to stop: SIGTERM from a cluster, Ctrl-C from a person."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """Notes SIGTERM and SIGINT, so that a loop can end between two steps. A context manager.

    The second Ctrl-C is Python's own ``KeyboardInterrupt``. Python delivers signals to the main
    thread alone: on another one nothing is noted.

    Attributes:
      raised: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.raised: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why the loop is to end, if a signal came."""
        if self.raised is None:
            return None
        return "SIGTERM" if self.raised is signal.SIGTERM else "interrupt"

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # None: a handler that was not set from Python, and could not be set again.
                if signal.getsignal(number) is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # The first Ctrl-C asks for an end between two steps, and a step may never end.
        if self.raised is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        # SIGTERM decides the exit status, whatever comes after it.
        if self.raised is not signal.SIGTERM:
            self.raised = signal.Signals(number)
