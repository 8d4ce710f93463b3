"""histograms: against NumPy, with numbers that are not finite, and as TensorBoard reads them."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import training

RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": RNG.normal(size=(7, 9)).astype(np.float32), "bias": np.zeros(9)},
    "head": {"kernel": jnp.asarray(RNG.normal(size=(9, 2)), jnp.bfloat16)},
}


def test_figures_are_those_of_numpy():
    found = jl.inspection.histograms(PARAMS, bins=5)
    assert list(found) == ["dense/bias", "dense/kernel", "head/kernel"]
    for path, array in jl.flatten(PARAMS).items():
        values = np.asarray(array).astype(np.float64)
        counts, edges = np.histogram(values, 5)
        one = found[path]
        np.testing.assert_array_equal(one.counts, counts)
        np.testing.assert_allclose(one.edges, edges)
        figures = values.mean(), values.std(), values.min(), values.max()
        assert (one.mean, one.std, one.smallest, one.largest) == pytest.approx(figures)
        assert (one.size, one.zeros, one.non_finite) == (values.size, (values == 0).sum(), 0)


def test_numbers_that_are_not_finite_are_counted_apart():
    found = jl.inspection.histograms(
        {"some": jnp.array([jnp.nan, jnp.inf, 1.0, 0.0]), "all": jnp.full(3, jnp.nan), "no": {}}
        | {"empty": jnp.zeros((0, 2))}
    )
    assert (found["some"].non_finite, found["some"].mean, found["some"].counts.sum()) == (2, 0.5, 2)
    assert (found["all"].non_finite, found["all"].counts.sum()) == (3, 0)
    assert math.isnan(found["all"].mean)
    assert found["empty"].size == 0
    assert "nan" in str(found)


def test_the_table_has_a_bar_for_each_bin():
    found = jl.inspection.histograms({"a": jnp.array([0.0, 1.0, 1.0, 1.0, 1.0, 3.0])}, bins=3)
    assert found["a"].bars == "▂█▂"
    assert "|▂█▂|" in str(found)
    assert repr(found) == str(found)


def test_a_pattern_selects():
    assert list(jl.inspection.histograms(PARAMS, "**/kernel")) == ["dense/kernel", "head/kernel"]


def test_statistics_are_metrics():
    found = jl.inspection.histograms(PARAMS, "head/**").statistics()
    assert list(found) == [f"head/kernel/{n}" for n in ("mean", "std", "zeros", "non_finite")]
    assert all(isinstance(value, float) for value in found.values())


def test_tensorboard_reads_them(tmp_path):
    pytest.importorskip("tensorboard")
    log = training.tensorboard(tmp_path)
    found = jl.inspection.histograms(PARAMS | {"lost": jnp.full(3, jnp.nan)}, bins=6)
    log(training.Record(2, 0, {"loss": 0.5}, 1.0, 1.0))
    log.histograms(3, found)
    log.close()
    reader = importlib.import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "histograms": 0})
    reader.Reload()
    (event,) = reader.Histograms("dense/kernel")
    own, read_back = found["dense/kernel"], event.histogram_value
    assert event.step == 3
    assert (read_back.num, list(read_back.bucket)) == (63, list(own.counts))
    np.testing.assert_allclose(read_back.bucket_limit, own.edges[1:])
    values = PARAMS["dense"]["kernel"].astype(np.float64)
    assert read_back.sum_squares == pytest.approx((values**2).sum())
    assert reader.Histograms("lost")[0].histogram_value.num == 0
    assert reader.Scalars("loss")[0].step == 2


ERRORS = [
    (
        lambda: jl.inspection.histograms(PARAMS, "**/scale"),
        "histograms: the pattern '**/scale' fits no path",
        "dense/bias",
    ),
    (
        lambda: jl.inspection.histograms({"a": jl.spec((2,))}),
        "histograms: a has no numbers to count",
        "arrays, outside of jit",
    ),
    (
        lambda: jax.jit(lambda p: jl.inspection.histograms(p) and 0)({"a": jnp.ones(2)}),
        "histograms: a has no numbers to count",
        "arrays, outside of jit",
    ),
    (
        lambda: jl.inspection.histograms({"a": jnp.ones(2, jnp.complex64)}),
        "histograms: a is complex",
        "jnp.abs",
    ),
    (
        lambda: jl.inspection.histograms(PARAMS, bins=0),
        "histograms: bins must be a positive int, got 0",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)
