"""Requests to stop: SIGTERM from a cluster, Ctrl-C from a person.

How to read this file: ``Signals`` notes a signal, and the loop ends between two steps. A loop that
waits for its source would not come to the next step: after a moment a thread sends SIGURG, whose
handler raises ``Interrupted`` if the loop is still in a function that was marked
``interruptible``. To look at the frames costs a signal its time, and a step nothing.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

T = TypeVar("T")
# Seconds that a source has to give its batch after a signal, and an evaluation to end.
GRACE, LONG_GRACE = 0.25, 5.0
# What Python itself sets. Other handlers are the user's, and decide themselves what happens.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
# The system ignores it by default, and it wakes a thread that waits in a system call.
_WAKE: signal.Signals | None = getattr(signal, "SIGURG", None)
_patience: dict[CodeType, float] = {}


class Interrupted(BaseException):
    """Ends a wait; no ``Exception``, which a source may handle as one of its own."""


def interruptible(function: Callable[..., Any], seconds: float) -> None:
    """Marks a function that a signal may end by ``Interrupted`` after so many seconds.

    What it does until then must have changed nothing that the loop keeps.
    """
    _patience[function.__code__] = seconds


def _wait(frame: FrameType | None) -> float | None:
    """The seconds that what is being executed has, None where it must not be ended."""
    while frame is not None:
        if frame.f_code in _patience:
            return _patience[frame.f_code]
        frame = frame.f_back
    return None


class Signals:
    """Notes SIGTERM and SIGINT, so that a loop can end between two steps. A context manager.

    The second Ctrl-C is Python's own ``KeyboardInterrupt``. A signal that the process ignores is
    ignored here as well, and a handler of the user's own is called instead of this one:
    between two steps, since what it raises inside a step would lose the state. Python delivers
    signals to the main thread alone: on another one nothing is noted.

    Attributes:
      raised: not None after a signal: the loop must ``attend`` to it.
      reason: why the loop is to end, None where it need not.
    """

    def __init__(self) -> None:
        self.raised: signal.Signals | None = None
        self.reason: str | None = None
        self._before: dict[int, Any] = {}
        self._postponed: list[int] = []
        self._since = 0.0
        # Reentrant, as a handler must be: `True` after a signal, `False` at the end.
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            # None: a handler that was not set from Python, and could not be set again.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._note)
        free = _WAKE is not None and _is_ours(signal.getsignal(_WAKE), signal.SIG_DFL)
        if self._before and free and _WAKE is not None:
            self._before[_WAKE] = signal.signal(_WAKE, self._end_wait)
            # Not started in the handler, which may have interrupted the start of another thread.
            self._thread = threading.Thread(
                target=_remind,
                args=(self._asked, threading.get_ident(), _WAKE),
                name="jlayers-signals",
                daemon=True,
            )
            self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._asked.put(False)
        if self._thread is not None:
            self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self.attend()

    @staticmethod
    def watched(items: Iterator[T]) -> Iterator[T]:
        """The items of a loop: signals come by themselves."""
        return items

    def attend(self) -> None:
        """Between two steps: calls the handlers of the user's that were postponed."""
        while self._postponed:
            number = self._postponed.pop(0)
            handler = self._before.get(number) or signal.getsignal(number)
            if callable(handler):
                handler(number, None)
        if self.reason is None:
            self.raised = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if not _is_ours(before, *_DEFAULTS):
            if _wait(frame) is not None:
                before(number, frame)
            else:
                self._postponed.append(number)
                self.raised = signal.Signals(number)
            return
        # The first Ctrl-C asks for an end between two steps, and a step may never end.
        if self.reason == "interrupt" and number == signal.SIGINT:
            raise KeyboardInterrupt
        # SIGTERM decides the exit status, whatever comes after it.
        if self.reason != "SIGTERM":
            self.reason = "SIGTERM" if number == signal.SIGTERM else "interrupt"
        self.raised = signal.Signals(number)
        self._since = time.monotonic()
        self._asked.put(True)
        if before not in _DEFAULTS:  # of a loop around this one, which is to end too
            before(number, None)
        if self._thread is None and _wait(frame) is not None:
            raise Interrupted

    def _end_wait(self, number: int, frame: FrameType | None) -> None:
        seconds = _wait(frame)
        if seconds is not None and time.monotonic() - self._since >= seconds:
            raise Interrupted


def _is_ours(handler: Any, *others: object) -> bool:
    """Whether a handler is that of a loop, or one of these."""
    return handler in others or isinstance(getattr(handler, "__self__", None), Signals)


def _remind(asked: queue.SimpleQueue[bool], thread: int, number: signal.Signals) -> None:
    """Wakes the loop again and again once a signal came, until the loop is over."""
    goes_on = asked.get()
    while goes_on:
        with contextlib.suppress(queue.Empty):
            goes_on = asked.get(timeout=GRACE)
            continue
        signal.pthread_kill(thread, number)
