"""Whole training steps: one module of ``bench.steps`` a model, its contenders timed in turns.

A module has ``NAME`` and ``contenders()``, a dict of functions by framework. Each builds a
``Step``: ``run()`` does one step and waits for it, ``first_losses`` are those of the first steps
from the weights and batches that all share. ``JUDGED`` says how many of them are compared, if not
all.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import jax
import numpy as np

from .contenders import Unavailable
from .leniency import lenient
from .neighbours import mark, share_of_others
from .timing import time_boxed

# Losses after a few steps: rounding grows with each. Accelerators multiply in TensorFloat-32.
TOLERANCE = {"cpu": 2e-3}
TOLERANCE_ELSEWHERE = 2e-2


def models() -> dict[str, ModuleType]:
    """The modules by the name of their row: ``lstm_lm`` as "step-lstm-lm"."""
    name = f"{__package__}.steps"
    found = {
        entry.name: importlib.import_module(f"{name}.{entry.name}")
        for entry in pkgutil.iter_modules(importlib.import_module(name).__path__)
    }
    # One that is there for its first step alone is measured with the start-up.
    return {
        f"step-{entry.replace('_', '-')}": module
        for entry, module in found.items()
        if hasattr(module, "NAME") and not hasattr(module, "first_step")
    }


def measure_step(module: Any, budget: float, rounds: int) -> dict[str, Any]:
    """A model's row, ready to be stored: for each contender a status and the mode "step"."""
    steps, results = {}, {}
    for name, build in module.contenders().items():
        try:
            with lenient():
                steps[name] = build()
        except (Unavailable, ModuleNotFoundError) as reason:
            results[name] = {"status": "missing", "reason": str(reason)}
        except Exception as error:  # one framework's trouble is no other's
            results[name] = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
        else:
            results[name] = {"status": "ok"}
    judged = getattr(module, "JUDGED", None)
    losses = {name: step.first_losses[:judged] for name, step in steps.items()}
    for name, reason in strangers(losses).items():
        results[name] = {"status": "wrong", "reason": reason}
    ready = {name: step.run for name, step in steps.items() if results[name]["status"] == "ok"}
    start = mark()
    with lenient():
        timings = time_boxed(ready, budget, rounds)
    share = share_of_others(start)
    for name, timing in timings.items():
        results[name]["step"] = {
            **timing._asdict(),
            "trace": steps[name].trace_seconds,
            "compile": steps[name].compile_seconds,
            "temp_bytes": steps[name].temp_bytes,
        }
    return {"op": "step", "model": module.NAME, "contenders": results, "others": share}


def strangers(losses: dict[str, Any]) -> dict[str, str]:
    """Those whose losses are not everybody's, and how far off they are.

    Nobody is the judge: each is held against the median of all.
    """
    if not losses:
        return {}
    allowed = TOLERANCE.get(jax.default_backend(), TOLERANCE_ELSEWHERE)
    curves = {name: np.asarray(curve, np.float64).reshape(-1) for name, curve in losses.items()}
    shared = min(curve.size for curve in curves.values())
    if not shared:
        return {name: "gives no losses to compare" for name in curves if not curves[name].size}
    middle = np.median([curve[:shared] for curve in curves.values()], axis=0)
    off = {
        name: float(np.max(np.abs(curve[:shared] - middle) / np.maximum(np.abs(middle), 1e-6)))
        for name, curve in curves.items()
    }
    return {
        name: f"first losses are off by {error:.1e} from the median of all (allowed {allowed:.0e})"
        for name, error in off.items()
        if not error <= allowed
    }
