"""Warnings that point at the user's line."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

_OWN = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")) + os.sep


def warn(text: str) -> None:
    """A ``UserWarning`` of the nearest frame outside jlayers."""
    frame: Any = sys._getframe(1)
    depth = 2  # as warnings count: 1 is this function
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, stacklevel=depth)
