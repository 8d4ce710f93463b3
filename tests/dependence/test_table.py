"""Every row of the table: what is true is what running shows, and the verdict is as it says."""

import jax
import jax.numpy as jnp
import pytest
from tables.tiers import sample

from jlayers.base.dependence import judge, judge_call, trace

from . import functions_across_steps, functions_of_each_step
from .oracle import BATCH, FEATURES, STEPS, observe
from .rows import EACH, EARLIER

ROWS = functions_of_each_step.table.rows + functions_across_steps.table.rows
X = jax.ShapeDtypeStruct((BATCH, STEPS, FEATURES), "float32")
# Every second row in both tiers, and all that have something to say.
SOME = {i for i, row in enumerate(ROWS) if i % 2 == 0 or row.says or row.why}
TABLE = pytest.mark.parametrize("row", sample(ROWS, *SOME), ids=lambda row: row.name)
# A verdict that says too much refuses what is right: each of these has its reason in the table.
FALSE_ALARMS = {
    "python_loop_over_steps",
    "loop_that_writes_in_place",
    "pairs_of_steps_and_back",
    "reversed_and_back",
}


@pytest.fixture(autouse=True)
def _as_users_run_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _kind(window):
    return "each" if window == (0, 0) else "earlier" if window[1] <= 0 else "mixed"


@TABLE
def test_row(row):
    found, verdict = observe(row.function), judge(row.function, X)
    # What the table says is true.
    assert found.leads == row.leads
    assert found.rows == row.rows
    assert not row.leads or _kind(found.window) == row.kind
    assert row.place in (None, found.moved)
    # No miss: the verdict allows for all that moved.
    if row.leads:
        assert verdict.window[0] <= found.window[0]
        assert verdict.window[1] >= found.window[1]
    assert verdict.rows >= found.rows
    assert verdict.leads == found.leads
    assert verdict.place >= (found.moved and row.kind == EACH and not row.rows)
    # No false alarm but those of the table.
    for says in (verdict, judge_call(row.function, X)):
        assert says.kind == (row.says or row.kind)
        assert row.window in (None, says.window)
        assert says.leads <= row.leads
        if row.kind in (EACH, EARLIER) and not row.says:
            assert says.rows == row.rows
        if row.kind == EACH and not row.says:
            assert row.place in (None, says.place)
        assert (says.why is None) == says.is_per_step


def test_false_alarms_are_few():
    alarms = {row.name for row in ROWS if row.kind == EACH and row.says}
    assert alarms == FALSE_ALARMS
    assert len(ROWS) >= 200
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_features_as_many_as_rows_or_steps(monkeypatch):
    """Lengths that happen to be equal are not taken for one another."""
    monkeypatch.setattr(trace, "OWN_SIZES", (((FEATURES, 8), (8, 16)),))
    for row in ROWS:
        found = judge(row.function, X)
        assert found.kind == (row.says or row.kind), row.name
        assert row.window in (None, found.window), row.name
        if found.kind == EACH:
            assert found.rows == row.rows, row.name
            assert row.place in (None, found.place), row.name


def test_gradients_of_functions_of_each_step():
    rows = [row for row in functions_of_each_step.table.rows if row.place is False and not row.says]
    # What reverse mode refuses; and a scatter's gradient, which tells by number who wrote last.
    rows = [row for row in rows if not row.name.startswith(("while_", "put_along"))]
    judged = 0
    for row in rows:
        y = jax.eval_shape(row.function, X)
        if jnp.issubdtype(y.dtype, jnp.floating):
            found = judge(lambda x, ct, f=row.function: jax.vjp(f, x)[1](ct)[0], X, y)
            assert found.is_per_step, (row.name, found)
            judged += 1
    assert judged > 100
