"""Half precision, and values near the ends of a dtype: norms, means, attention, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.tiers import named

import jlayers as jl

# layer, axes of the statistics, whether values are centred
NORMS = {
    "layer norm": (jl.LayerNorm(), (2,), True),
    "rms norm": (jl.RMSNorm(), (2,), False),
    "group norm": (jl.GroupNorm(1), (1, 2), True),
    "batch norm": (jl.BatchNorm(), (0, 1), True),
}
# dtype, the largest value, the error allowed
RANGES = {
    "float16, small": (jnp.float16, 1e-3, 2e-3),
    "float16, near its end": (jnp.float16, 6e4, 2e-3),
    "bfloat16": (jnp.bfloat16, 1.0, 2e-2),
    "bfloat16, large": (jnp.bfloat16, 1e18, 2e-2),
    "float32, small": (jnp.float32, 1e-18, 1e-5),
    "float32, large": (jnp.float32, 1e13, 1e-5),
    "float32, near its root": (jnp.float32, 1e18, 1e-5),
}


def _norm_in_float64(x, scale, bias, dy, axes, centred, epsilon=1e-5):
    """(y, dx, dscale): the formula and its gradient."""

    def mean(values):
        return values.mean(axes, keepdims=True)

    centre = x - mean(x) if centred else x
    inverse = 1 / np.sqrt(mean(centre**2) + epsilon)
    x_hat, g = centre * inverse, dy * scale
    dx = inverse * (g - x_hat * mean(g * x_hat))
    if centred:
        dx -= inverse * mean(g)
    return x_hat * scale + bias, dx, (dy * x_hat).sum((0, 1))


@pytest.mark.parametrize(
    "range_name",
    named(RANGES, "float16, near its end", "bfloat16, large", "float32, near its root"),
)
@pytest.mark.parametrize("name", NORMS)
def test_norm_and_its_gradient(name, range_name):
    (layer, axes, centred), (dtype, largest, error) = NORMS[name], RANGES[range_name]
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(3, 5, 8))
    x = jnp.asarray(x / np.abs(x).max() * largest, dtype)
    dy = jnp.asarray(numbers.normal(size=x.shape), dtype)
    scale = jnp.asarray(numbers.normal(size=8), jnp.float32)
    params, state = layer.init(jax.random.key(0), x)
    params |= {"scale": scale}

    @jax.jit
    def run(params, x, dy):
        y, pull = jax.vjp(lambda p, x: layer.apply(p, state, x, train=True)[0], params, x)
        dparams, dx = pull(dy)
        return y, dx, dparams["scale"]

    wide = (np.asarray(a, np.float64) for a in (x, scale, params.get("bias", 0.0), dy))
    wanted = _norm_in_float64(*wide, axes, centred)
    for got, expected in zip(run(params, x, dy), wanted, strict=True):
        unit = np.abs(expected).max()  # float16 holds no gradient below 6e-8
        tolerance = {"rtol": error, "atol": error * unit + 6e-8 * (dtype == jnp.float16)}
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, **tolerance)


@pytest.mark.parametrize("name", NORMS)
def test_norm_of_values_whose_squares_overflow_is_nan_and_not_zero(name):
    layer = NORMS[name][0]
    x = jnp.linspace(-1e30, 1e30, 24).reshape(1, 3, 8)
    y, _ = layer.apply(*layer.init(jax.random.key(0), x), x, train=True)
    assert np.isnan(y).all()


MEANS = {
    "average pool": jl.AvgPool(3, strides=1, padding=1),
    "average pool, XLA's own": jl.AvgPool(2, method="direct"),
    "global average pool": jl.GlobalAvgPool(),
    "average": jl.average(jnp.positive, jnp.positive, jnp.positive),
    "bidirectional average": jl.bidirectional(jl.lift(jnp.positive), jl.average()),
}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", named(MEANS, "average pool", "global average pool", "average"))
def test_mean_of_values_whose_sum_is_out_of_range(name, dtype):
    largest = 6e4 if dtype == jnp.float16 else 1e37
    x = jnp.full((2, 6, 4), largest, dtype)
    layer = MEANS[name]
    y, _ = layer.apply(*layer.init(jax.random.key(0), x), x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.unique(np.asarray(y)), np.asarray(x)[0, 0, :1])


@pytest.mark.parametrize("method", ["direct", "blocks"])
def test_attention_in_float16_sums_its_scores_in_float32(method):
    """Queries and keys of 300: products of 90000 and more, where float16 ends at 65504."""
    q = k = (
        jnp.full((1, 4, 2, 8), 300.0, jnp.float16) * jnp.eye(4, 8, dtype=jnp.float16)[None, :, None]
    )
    v = jnp.asarray(np.arange(64.0).reshape(1, 4, 2, 8), jnp.float16)

    def loss(q, k, v):
        return jnp.sum(jl.core.attention(q, k, v, method=method).astype(jnp.float32))

    y = jl.core.attention(q, k, v, method=method)
    np.testing.assert_allclose(np.asarray(y, np.float32), np.asarray(v, np.float32), rtol=1e-2)
    for gradient in jax.grad(loss, argnums=(0, 1, 2))(q, k, v):
        assert np.isfinite(gradient).all()
