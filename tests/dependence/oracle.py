"""Runs a function and sees which outputs move: what is true, whatever an analysis says."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH, STEPS, FEATURES = 3, 8, 4
# More rows and steps, in which the others are contained with their number moved.
ROWS_BEFORE, STEPS_BEFORE, STEPS_AFTER = 1, 3, 2


class Observed(NamedTuple):
    """What moved.

    Attributes:
      window: the least and greatest number of a step that moved an output step, less its own.
      rows: whether a row moved another row.
      moved: whether the same steps gave another result elsewhere in a longer, larger batch.
      leads: whether the output leads with rows and steps.
    """

    window: tuple[int, int]
    rows: bool
    moved: bool
    leads: bool


def observe(function, seed=0, jit=True):
    """What moves when one row, or one step, changes, and when all are elsewhere."""
    random = np.random.default_rng(seed)
    f = jax.jit(function) if jit else function

    def run(x):
        return np.asarray(f(jnp.asarray(x)))

    x = random.normal(size=(BATCH, STEPS, FEATURES)).astype("float32")
    y = run(x)
    leads = y.shape[:2] == (BATCH, STEPS)
    offsets = set()
    rows = False
    for s in range(STEPS):
        for scale in (1, 9):
            other = x.copy()
            other[:, s] = scale * random.normal(size=(BATCH, FEATURES))
            changed = _changed(run(other), y)
            if y.ndim > 1:
                offsets |= {s - t for t in range(y.shape[1]) if changed[:, t].any()}
    for r in range(BATCH):
        for scale in (1, 9):
            other = x.copy()
            other[r] = scale * random.normal(size=(STEPS, FEATURES))
            changed = _changed(run(other), y)
            rows |= changed.ndim == 0 or any(changed[q].any() for q in range(len(y)) if q != r)
    moved = False
    if leads:
        shape = (BATCH + ROWS_BEFORE, STEPS_BEFORE + STEPS + STEPS_AFTER, FEATURES)
        larger = random.normal(size=shape).astype("float32")
        there = np.s_[ROWS_BEFORE:, STEPS_BEFORE : STEPS_BEFORE + STEPS]
        larger[there] = x
        part = run(larger)[there]
        # Another shape may be another order of summation.
        moved = part.shape != y.shape or not np.allclose(part, y, 1e-4, 1e-5, equal_nan=True)
    return Observed((min(offsets, default=0), max(offsets, default=0)), rows, moved, leads)


def _changed(a, b):
    return ~((a == b) | (np.isnan(a) & np.isnan(b)))
