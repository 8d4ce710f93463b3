"""The user's line of code behind an equation.

How to read this file: JAX keeps with each equation the calls that led to it. Their form is not
documented, so they are read by what they look like, and any surprise means that there is no line.
"""

from __future__ import annotations

import os
import sysconfig
from typing import Any, NamedTuple

import jax

from .domain import Cause
from .equation import inner

_OWN = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


class Source(NamedTuple):
    """A line of code.

    Attributes:
      file, line: where it is.
      function: the function it is in.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def source(cause: Cause) -> Source | None:
    """The innermost line outside JAX, jlayers and Python's library; None if it is not known.

    JAX traces a function of its own once and for all callers, so what is inside names its first
    caller: then the line is that of the call.
    """
    found = None
    for equation in cause.equations:
        found = _line(equation) or found
        if _is_function_of_jax(equation):
            break
    return found


def _line(equation: Any) -> Source | None:
    try:
        for frame in equation.source_info.traceback.frames:
            file = frame.file_name
            if not file.startswith((_OWN, _JAX, "<frozen")) and not _is_standard(file):
                return Source(file, frame.line_num, frame.function_name.split(".")[-1])
    except Exception:
        return None
    return None


def _is_standard(file: str) -> bool:
    # Packages of others are inside the standard library's folder, and are users of it.
    return file.startswith(_STANDARD) and "site-packages" not in file


def _is_function_of_jax(equation: Any) -> bool:
    if equation.primitive.name not in {"jit", "pjit", "custom_jvp_call", "custom_vjp_call"}:
        return False
    try:
        program = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
        file = inner(program).debug_info.func_filename
        return file is None or os.path.abspath(file).startswith(_JAX)
    except Exception:
        return True
