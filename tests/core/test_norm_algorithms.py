"""``standardize`` gives the numbers of its definition, and so do its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.derivatives import compare, compare_transforms, loss_of

from jlayers import core
from jlayers.core import norm

pytestmark = pytest.mark.optimised(full=True)

EPSILON = 1e-3
# axes, groups
CASES = {"batch": ((0, 1, 2), None), "group": ((1, 2), 2), "instance": ((1, 2), 4)}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _defined(x, scale, bias, axes, groups):
    groups = groups or x.shape[-1]
    parts = x.reshape(*x.shape[:-1], groups, -1)
    mean = jnp.mean(parts, (*axes, x.ndim), keepdims=True)
    variance = jnp.var(parts, (*axes, x.ndim), keepdims=True)
    y = (parts - mean) / jnp.sqrt(variance + EPSILON)
    repeated = (
        jnp.broadcast_to(s, (*s.shape[:-1], parts.shape[-1])).reshape(*s.shape[:-2], -1)
        for s in (mean, variance)
    )
    row = (1,) * (x.ndim - 1) + (-1,)
    return y.reshape(x.shape) * scale.reshape(row) + bias.reshape(row), *repeated


def _functions(case):
    axes, groups = CASES[case]

    def ours(*args):
        return core.standardize(*args, EPSILON, axes, groups)

    def theirs(*args):
        return _defined(*args, axes, groups)

    return ours, theirs


def _arguments(mean=0.5):
    draw = np.random.default_rng(0).normal
    sizes = ((2, 3, 4, 4), (4,), (4,))
    x, scale, bias = (jnp.asarray(draw(size=size)) for size in sizes)
    return x + mean, scale, bias


# The second mean is large against the deviation: the variance is taken of centred values.
@pytest.mark.parametrize("mean", [0.5, 300.0])
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives(case, mean):
    ours, theirs = _functions(case)
    args = _arguments(mean)
    compare(ours, theirs, args, value=1e-8, derivatives=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("large")
def test_values_and_derivatives_as_of_many_values(case):
    ours, theirs = _functions(case)
    compare(ours, theirs, _arguments(), value=1e-8, derivatives=1e-7)


@pytest.fixture
def large(monkeypatch):
    """Small arrays take the program of large ones: one pass if the mean is near zero."""
    monkeypatch.setattr(norm, "_MAX_CACHED", 0)
    # What was traced before has the other program.
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("large")
def test_transformations(case):
    ours, theirs = _functions(case)
    x, scale, bias = _arguments()

    def curvature(f):
        def along(x):
            return lambda t: loss_of(f)(x * jnp.cos(t), scale * t, bias)

        return lambda t, x: jax.hessian(along(x))(t)

    def each(f):
        gradients = jax.vmap(jax.grad(loss_of(f)), (0, None, None))
        return lambda t, x: gradients(jnp.stack([x, jnp.sin(x) + 300]), scale, bias)

    def scanned(f):
        def step(total, x):
            return total + jax.checkpoint(loss_of(f))(x, scale, bias), None

        start = jnp.zeros((), x.dtype)
        total = jax.grad(lambda x: lax.scan(step, start, jnp.stack([x, x + 1]))[0])
        return lambda t, x: total(x)

    arguments = (jnp.asarray(0.7), x)
    compare_transforms(ours, theirs, (curvature, each, scanned), arguments, 1e-7)


@pytest.mark.parametrize("mean", [7.0, 9.0, 1e3, 3e4])
@pytest.mark.parametrize("channels", [2, 40, 5000], ids="{} channels".format)
def test_float32_keeps_the_variance_of_values_far_from_zero(channels, mean):
    """Where E[x^2] - E[x]^2 alone would have lost it."""
    shape = (200_000 // channels, channels)
    x = np.random.default_rng(0).normal(size=shape)
    x[:, -1] += mean  # of one channel alone
    x = x.astype(np.float32)
    one, zero = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
    y, _, variance = core.standardize(jnp.asarray(x), one, zero, 0.0, (0,))
    exact = x.astype(np.float64).var(0, keepdims=True)
    np.testing.assert_allclose(variance, exact, rtol=3e-5)
    np.testing.assert_allclose(np.std(np.asarray(y, np.float64), 0), 1.0, rtol=3e-5)


@pytest.mark.parametrize("shape", [(4, 32), (300, 256)], ids="{0[0]} rows".format)
@pytest.mark.parametrize("mean", [0.5, 40.0])
def test_positions_and_channels_of_bfloat16(shape, mean):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape) + mean, jnp.bfloat16)
    scale, bias = jnp.ones(shape[-1], x.dtype), jnp.zeros(shape[-1], x.dtype)
    exact = np.asarray(x, np.float64)
    wide, last = jnp.float64, exact.ndim - 1
    of_channels, means, variances = core.standardize(x, scale, bias, EPSILON, (0,))
    np.testing.assert_allclose(means[0], exact.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variances[0], exact.var(0), rtol=1e-4)
    of_positions = core.position_norm(x, scale, bias, EPSILON)
    for y, axis in ((of_channels, 0), (of_positions, last)):
        centred = exact - exact.mean(axis, keepdims=True)
        expected = centred / np.sqrt(exact.var(axis, keepdims=True) + EPSILON)
        np.testing.assert_allclose(y.astype(wide), expected, atol=2e-2)


def test_the_root_mean_square_of_bfloat16():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(300, 256)), jnp.bfloat16)
    y = core.position_norm(x, None, None, EPSILON, centred=False)
    exact = np.asarray(x, np.float64)
    expected = exact / np.sqrt(np.mean(exact**2, -1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(y.astype(jnp.float64), expected, atol=2e-2)
