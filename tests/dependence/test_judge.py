"""What a caller hands to ``judge`` and ``judge_call``, and what they say of where it happens."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jlayers.base.dependence import judge, judge_call

X = jax.ShapeDtypeStruct((2, 6, 4), "float32")
IDS = jax.ShapeDtypeStruct((2, 6), "int32")


@pytest.fixture(autouse=True)
def _as_users_run_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_a_verdict_for_each_output():
    def f(x, ids):
        return {"mean": x.mean(1), "each": (x * 2, ids + 1), "before": jnp.cumsum(ids, 1)}

    found = judge(f, X, IDS)
    assert jax.tree.map(lambda v: v.kind, found, is_leaf=lambda v: hasattr(v, "kind")) == {
        "mean": "mixed",
        "each": ("each", "each"),
        "before": "earlier",
    }
    assert not found["mean"].leads
    assert found["each"][1].leads


def test_parameters_keep_their_shape():
    def f(params, x):
        return x @ params["kernel"] + params["positions"][: x.shape[1]]

    params = {
        "kernel": jax.ShapeDtypeStruct((4, 6), "float32"),
        "positions": jax.ShapeDtypeStruct((100, 6), "float32"),
    }
    found = judge(f, params, X, timed=(False, True))
    assert (found.kind, found.place, found.why_place.primitive) == ("each", True, "add")
    only = judge(lambda p, x: x @ p["kernel"], params, X, timed=(False, True))
    assert only.is_per_step
    # A parameter may be as long as the rows or steps of the call.
    square = jax.ShapeDtypeStruct((6, 6), "float32")
    narrow = jax.ShapeDtypeStruct((2, 6, 6), "float32")
    assert judge_call(lambda w, x: x @ w, square, narrow, timed=(False, True)).is_per_step


def test_steps_without_a_batch():
    steps = jax.ShapeDtypeStruct((6, 4), "float32")
    assert judge(jnp.tanh, steps, lead=1).is_per_step
    assert judge_call(jnp.tanh, steps, lead=1).is_per_step
    assert judge(lambda x: x - x.mean(0), steps, lead=1).kind == "mixed"


def test_timed_by_a_prefix_or_a_function():
    def f(inputs):
        return inputs["x"] + inputs["scale"].sum()

    inputs = {"x": X, "scale": jax.ShapeDtypeStruct((6,), "float32")}
    assert judge(f, inputs, timed=({"x": True, "scale": False},)).is_per_step
    assert judge(f, inputs, timed=lambda leaf: leaf.ndim == 3).is_per_step


def test_keys_are_plain():
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)

    def f(key, x):
        return x + jax.random.normal(key, x.shape[2:])

    assert judge(f, key, X, timed=(False, True)).is_per_step

    def drop(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)

    assert judge(drop, key, X, timed=(False, True)).is_per_step

    def drop_after_split(key, x):
        first, second = jax.random.split(key)
        rate = jax.random.uniform(jax.random.fold_in(first, 3), ())
        return jnp.where(jax.random.bernoulli(second, rate, x.shape[:2])[..., None], x, 0)

    assert judge(drop_after_split, key, X, timed=(False, True)).is_per_step
    # With a key of its own, a function draws the same numbers at the same positions.
    found = judge(lambda x: drop(jax.random.key(0), x), X)
    assert (found.kind, found.place) == ("each", True)


def test_several_timed_inputs():
    assert judge(lambda x, y: x * y[..., None], X, IDS).is_per_step
    found = judge(lambda x, y: x + jnp.pad(y, ((0, 0), (1, 0)))[:, :-1, None], X, IDS)
    assert (found.kind, found.window) == ("earlier", (-1, 0))


@pytest.mark.parametrize(
    ("arguments", "timed"),
    [
        ((X, jax.ShapeDtypeStruct((2, 7), "float32")), True),
        ((jax.ShapeDtypeStruct((2,), "float32"),), True),
        ((X,), False),
    ],
)
def test_timed_arrays_must_agree(arguments, timed):
    with pytest.raises(ValueError, match=r"timed arrays must lead with one \(batch, time\), got"):
        judge(lambda *a: a[0], *arguments, timed=timed)


def test_what_the_function_raises():
    with pytest.raises(TypeError, match="dot_general"):
        judge(lambda x: x @ jnp.ones((5, 5)), X)
    with pytest.raises(TypeError, match="dot_general"):
        judge_call(lambda x: x @ jnp.ones((5, 5)), X)


def test_a_function_of_one_length_alone():
    table = np.ones((6, 4), "float32")
    for found in (judge(lambda x: x + table, X), judge_call(lambda x: x + table, X)):
        assert (found.kind, found.rows, found.place, found.leads) == ("mixed", True, True, True)
        assert found.why.reason == "cannot be traced for another number of steps"


def test_even_lengths_alone():
    def even(x):
        assert x.shape[1] % 2 == 0
        return x * 2

    assert judge(even, X).is_per_step
    assert judge_call(even, X).is_per_step


def test_a_short_table_of_positions():
    table = np.arange(24, dtype="float32").reshape(6, 4)
    for found in (judge, judge_call):
        verdict = found(lambda x: x + table[: x.shape[1]], X)
        assert (verdict.kind, verdict.rows, verdict.place) == ("each", False, True)


def _long(x):
    return x - x.mean(1, keepdims=True) if x.shape[1] > 100 else x


def _short(x):
    return x / min(x.shape[1], 4)


def _many(x):
    return x.cumsum(1) if x.shape[0] > 12 else x


def _sixteenths(x):
    return x * (x.shape[1] // 16)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (_long, (2, 80, 4)),
        (_long, (2, 120, 4)),
        (_short, (2, 64, 4)),
        (_many, (12, 6, 4)),
        (_sixteenths, (2, 9, 4)),
        (_sixteenths, (2, 33, 4)),
    ],
)
def test_python_that_looks_at_sizes(function, shape):
    x = jax.ShapeDtypeStruct(shape, "float32")
    assert judge(function, x).is_per_step
    assert not judge_call(function, x).is_per_step


def test_where_it_happens():
    def f(x):
        y = jnp.tanh(x)
        return y - jax.nn.softmax(y, axis=1)  # here

    lines, start = inspect.getsourcelines(f)
    here = start + next(i for i, line in enumerate(lines) if "# here" in line)
    found = judge(f, X)
    assert found.why.primitive == "reduce_max"
    assert found.why.reason == "reduces over time"
    assert found.why.source.file == __file__
    assert found.why.source.function == "f"
    assert found.why.source.line == here
    assert str(found.why).startswith("`reduce_max` reduces over time (")


def test_where_it_happens_for_the_second_caller_of_a_cached_function():
    def first(x):
        return jnp.median(x, axis=1)

    def second(x):
        return jnp.median(x, axis=1)

    judge(first, X)
    assert judge(first, X).why.source.function == "first"
    assert judge(second, X).why.source.function == "second"


def test_where_it_happens_inside_the_users_own_jit_and_loops():
    @jax.jit
    def inner(x):
        return jnp.flip(x, 1)

    def outer(x):
        return lax.fori_loop(0, 3, lambda i, h: inner(h) + 1, x)

    found = judge(outer, X)
    assert (found.why.primitive, found.why.source.function) == ("rev", "inner")


def test_without_a_source(monkeypatch):
    from jlayers.base.dependence import source

    monkeypatch.setattr(source, "_OWN", "")  # every file is ours then
    found = judge(lambda x: x.mean(1, keepdims=True) + x, X)
    assert found.why.source is None
    assert str(found.why) == "`reduce_sum` reduces over time"


def test_large_constants_are_not_read(monkeypatch):
    from jlayers.base.dependence import constants

    read, original = [], constants._read

    def record(array):
        read.append(np.shape(array))
        return original(array)

    monkeypatch.setattr(constants, "_read", record)
    for table in (jnp.zeros((5000, 256)), np.zeros((5000, 256), "float32")):
        assert judge(lambda ids, table=table: jnp.asarray(table)[ids], IDS).is_per_step
    assert read
    assert (5000, 256) not in read


def test_a_constant_that_is_made_anew_is_compared():
    assert judge(lambda x: x + np.arange(4.0), X).is_per_step
    calls = []

    def f(x):
        calls.append(0)
        return x + np.full(4, len(calls), "float32")

    assert judge(f, X).place


def test_inside_a_transformation():
    seen = []

    def loss(w, x):
        seen.append(judge(lambda v: v @ w, X))
        return (x @ w).sum()

    jax.jit(jax.grad(loss))(jnp.ones((4, 4)), jnp.ones((2, 6, 4)))
    assert all(verdict.is_per_step for verdict in seen)


def test_what_is_not_known_mixes(monkeypatch):
    from jlayers.base.dependence import walk

    without = {key: rule for key, rule in walk.RULES.items() if key != "tanh"}
    monkeypatch.setattr(walk, "RULES", without)
    found = judge(jnp.tanh, X)
    assert (found.kind, found.rows, found.place) == ("mixed", True, True)
    assert (found.why.primitive, found.why.reason) == ("tanh", "is not known to this analysis")


def test_a_rule_that_fails_mixes(monkeypatch):
    from jlayers.base.dependence import walk

    def fails(equation, arguments):
        raise KeyError("a parameter of another version")

    monkeypatch.setattr(walk, "RULES", {**walk.RULES, "tanh": fails})
    found = judge(jnp.tanh, X)
    assert (found.kind, found.rows, found.place) == ("mixed", True, True)
    assert found.why.reason == "is in a form that is not known to this analysis"


def test_mutable_arrays_mix():
    new_ref = getattr(jax, "new_ref", None)
    if new_ref is None:
        pytest.skip("this JAX has no mutable arrays")

    def f(x):
        total = new_ref(jnp.zeros((x.shape[0], 1, 4)))
        total[...] = x.mean(1, keepdims=True)
        return x - total[...]

    found = judge(f, X)
    assert (found.kind, found.rows) == ("mixed", True)
    assert found.why.reason == "uses mutable arrays, which this analysis does not follow"


def test_a_print_changes_nothing():
    def f(x):
        jax.debug.print("{}", x.mean())
        return x * 2

    assert judge(f, X).is_per_step
