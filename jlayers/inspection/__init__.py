"""Looking into a model: shapes, costs, choices of algorithm, non-finite values, recompilations.

None of this needs the training loop. ``find_non_finite`` takes parameters, a key and a batch;
``CompileWatch`` and ``jit_reporting_recompiles`` take any pure function.
"""

from importlib import import_module
from typing import Any

from .explain import Decision, Explanation, explain
from .flops import flops
from .parameters import parameters, variables
from .rewriting import rewrite
from .selectors import select_layers
from .summary import Summary, summary
from .traverse import walk

__all__ = [
    "CompileWatch",
    "Decision",
    "Difference",
    "Explanation",
    "Histogram",
    "ModelDiff",
    "NonFinite",
    "Picture",
    "Summary",
    "Transfer",
    "TransferReport",
    "TransferRow",
    "diff",
    "explain",
    "find_non_finite",
    "flops",
    "histograms",
    "jit_reporting_recompiles",
    "parameters",
    "picture",
    "rewrite",
    "select_layers",
    "summary",
    "transfer",
    "variables",
    "walk",
]
# Loaded when they are first asked for, so that ``import jlayers`` does not pay for them.
_LAZY = {
    "CompileWatch": ".compilation.watch",
    "Difference": ".model_diff",
    "Histogram": ".histogram",
    "ModelDiff": ".model_diff",
    "NonFinite": ".nonfinite.report",
    "Picture": ".drawing.picture",
    "Transfer": ".transferring",
    "TransferReport": ".transfer_report",
    "TransferRow": ".transfer_report",
    "diff": ".model_diff",
    "find_non_finite": ".nonfinite.find",
    "histograms": ".histogram",
    "jit_reporting_recompiles": ".compilation.watch",
    "picture": ".drawing.picture",
    "transfer": ".transferring",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
    return getattr(import_module(_LAZY[name], __name__), name)


# For completion at a prompt, which would otherwise miss the names that are not loaded yet.
def __dir__() -> list[str]:
    return __all__
