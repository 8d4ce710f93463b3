"""Every way to compute a pool gives XLA's numbers, in float64, and so do its derivatives."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.derivatives import compare, compare_transforms, loss_of
from tables.tiers import sample

from jlayers import core
from jlayers.core import pooling
from jlayers.core.pooling import METHODS, choose_pool

pytestmark = pytest.mark.optimised(full=True)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _xla(operation, how):
    """XLA's windows; the mean's divisor counts the padding."""
    start, combine, divisor = {
        "max_pool": (-np.inf, lax.max, 1.0),
        "avg_pool": (0.0, lax.add, float(np.prod(how["window_shape"]))),
    }[operation]

    def run(x):
        window, strides = (1, *how["window_shape"], 1), (1, *how["strides"], 1)
        padding = ((0, 0), *how["padding"], (0, 0))
        return lax.reduce_window(x, start, combine, window, strides, padding) / divisor

    return run


def _ours(operation, how, method):
    more = {"count_include_pad": True} if operation == "avg_pool" else {}
    return lambda x: getattr(core, operation)(x, **how, **more, method=method)


def _random_case(seed):
    """Random rank, windows, strides and padding; in every other case, values that are equal."""
    draw = random.Random(seed)
    rank = draw.choice([1, 2, 2, 3])
    window = tuple(draw.choice([1, 2, 3, 4, 5] if rank < 3 else [1, 2, 3]) for _ in range(rank))
    strides = tuple(draw.choice([1, 2, 3]) for _ in window)
    padding = [(draw.randrange(k), draw.randrange(k)) for k in window]
    spatial = [k + draw.randrange(5) for k in window]
    values = np.random.default_rng(seed).normal(size=(2, *spatial, 3 if seed % 3 else 16))
    how = {"window_shape": window, "strides": strides, "padding": padding}
    return jnp.asarray(values.round(0 if seed % 2 else 6)), how


@pytest.mark.parametrize("seed", sample(range(8), 0, 1))
@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
def test_the_chosen_algorithm_gives_the_numbers_of_xla(operation, seed):
    x, how = _random_case(seed)
    ours, theirs = _ours(operation, how, None), _xla(operation, how)
    compare(ours, theirs, (x,), value=1e-12, derivatives=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
def test_every_method_passes_every_transformation(operation, method):
    how = {"window_shape": (3, 2), "strides": (2, 1), "padding": [(1, 0), (0, 1)]}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 2)))

    def curvature(f):
        return lambda t, x: jax.hessian(lambda t: loss_of(f)(x * jnp.cos(t)))(t)

    def each(f):
        return lambda t, x: jax.vmap(jax.grad(loss_of(f)))(jnp.stack([x, -x]))

    def scanned(f):
        def step(total, x):
            return total + jax.checkpoint(loss_of(f))(x), None

        start = jnp.zeros((), x.dtype)
        total = jax.grad(lambda x: lax.scan(step, start, jnp.stack([x, x + 1]))[0])
        return lambda t, x: total(x)

    ours, theirs = _ours(operation, how, method), _xla(operation, how)
    compare_transforms(ours, theirs, (curvature, each, scanned), (jnp.asarray(0.7), x))


@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("window", [(150,), (40, 2)])
def test_long_windows(operation, window):
    how = {"window_shape": window, "strides": (7, 1)[: len(window)], "padding": [(3, 0), (0, 1)]}
    how["padding"] = how["padding"][: len(window)]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *(k + 9 for k in window), 2)))
    ours, theirs = _ours(operation, how, None), _xla(operation, how)
    compare(ours, theirs, (x,), value=1e-12, derivatives=1e-10)

    def curvature(f):
        return lambda t, x: jax.hessian(lambda t: loss_of(f)(x * t))(t)

    compare_transforms(ours, theirs, (curvature,), (jnp.ones(()), x))


def test_a_few_images_at_a_time(monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 4, 2)))
    monkeypatch.setattr(pooling, "_MAX_BATCH_SIZE", 3 * x[0].size)
    monkeypatch.setattr(pooling, "_MAX_INTERMEDIATES", 2 * x.size)
    how = {"window_shape": (3, 2), "strides": (2, 2), "padding": [(1, 1), (0, 0)]}
    ours, theirs = loss_of(_ours("max_pool", how, None)), loss_of(_xla("max_pool", how))
    assert " scan[" in str(jax.make_jaxpr(jax.grad(ours))(x))
    for transform in (jax.grad, lambda f: jax.hessian(lambda x: f(jnp.sin(x)))):
        got, wanted = (jax.jit(transform(loss))(x) for loss in (ours, theirs))
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
def test_one_window_over_everything(operation):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 2)).round(1))
    how = {"window_shape": (5, 4), "strides": (5, 4), "padding": [(0, 0), (0, 0)]}
    ours, theirs = _ours(operation, how, None), _xla(operation, how)
    compare(ours, theirs, (x,), value=1e-12, derivatives=1e-10)


def test_the_rule():
    assert choose_pool(128, "cpu").method == "axes"
    assert choose_pool(129, "cpu").method == "direct"
    assert choose_pool(4, "gpu").method == "direct"


def test_bfloat16_sums_in_float32():
    x = jnp.full((1, 4096, 1), 1.0, jnp.bfloat16)
    y = core.avg_pool(x, window_shape=(4096,), strides=(4096,), padding=[(0, 0)])
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0]) == 1.0


@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
def test_an_unknown_method_is_refused(operation):
    how = {"window_shape": (2,), "strides": (2,), "padding": [(0, 0)]}
    with pytest.raises(ValueError, match=f"{operation} has no method 'magic'.*'direct', 'axes'"):
        getattr(core, operation)(jnp.ones((1, 4, 1)), **how, method="magic")
