"""Dicts that remember results for a bounded number of keys, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import TypeVar

V = TypeVar("V")

# A model served with ever new lengths must not grow without bound.
REMEMBERED = 128
# One for all: it is held for the time of two dict operations.
_LOCK = threading.Lock()


def remember(memo: dict[Hashable, V], key: Hashable, value: V) -> V:
    """``value`` under ``key``; the oldest entry goes where there are too many.

    Reading is ``memo.get(key)``, at any time: another thread may have dropped the entry.

    Returns:
      What is remembered: the value that another thread was first with, if one was.
    """
    with _LOCK:
        value = memo.setdefault(key, value)
        # A dict keeps the order of insertion.
        while len(memo) > REMEMBERED:
            del memo[next(iter(memo))]
    return value
