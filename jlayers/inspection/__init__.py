"""Looking into a model: shapes, costs, choices of algorithm, non-finite values, recompilations.

None of this needs the training loop. ``find_non_finite`` takes parameters, a key and a batch;
``CompileWatch`` and ``jit_reporting_recompiles`` take any pure function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .explain import Decision, Explanation, explain
from .flops import flops
from .summary import Summary, summary

if TYPE_CHECKING:
    from .compilation.watch import CompileWatch, jit_reporting_recompiles
    from .nonfinite.find import find_non_finite
    from .nonfinite.report import NonFinite

# Loaded when they are first asked for, so that ``import jlayers`` does not pay for them.
_LAZY = {
    "CompileWatch": ".compilation.watch",
    "NonFinite": ".nonfinite.report",
    "find_non_finite": ".nonfinite.find",
    "jit_reporting_recompiles": ".compilation.watch",
}

__all__ = [
    "CompileWatch",
    "Decision",
    "Explanation",
    "NonFinite",
    "Summary",
    "explain",
    "find_non_finite",
    "flops",
    "jit_reporting_recompiles",
    "summary",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
