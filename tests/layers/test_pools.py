"""Pools beside the maximum and the mean: whole numbers, padding of sequences, zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jlayers as jl


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float32"])
def test_min_pool_has_the_whole_range_of_a_dtype(dtype):
    least = np.iinfo(dtype).min if "int" in dtype else -np.inf
    most = np.iinfo(dtype).max if "int" in dtype else np.inf
    x = np.array([least, 3, most, most, 1, 2], dtype).reshape(1, 6, 1)
    y, _ = jl.MinPool(2).apply({}, {}, x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.ravel(), np.array([least, most, 1], dtype))


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (jl.MinPool, [[1, 2], [3, 4]]),
        (jl.SumPool, [[4, 7], [8, 4]]),
        (lambda *args, **options: jl.LpPool(2, *args, **options), None),
    ],
    ids=["min", "sum", "lp"],
)
def test_padded_steps_are_left_out(pool, expected):
    values = jnp.array([[3.0, 1, 2, 5], [3, 5, 4, -9]])[..., None]
    x = jl.Sequence(values, jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool))
    y, _ = pool(2, padding="SAME").apply({}, {}, x)
    if expected is None:
        expected = np.sqrt([[10, 29], [34, 16]])
    assert y.mask.all()
    np.testing.assert_allclose(y.values[..., 0], expected, rtol=1e-6)


def test_every_pool_has_holes_and_a_last_window():
    x = jnp.array([4.0, 1, 3, 5, 2, 6]).reshape(1, 6, 1)
    options = {"strides": 3, "dilation": 2, "ceil_mode": True}
    # Elements 0 and 2 of the first window; of the second 3 and 5.
    for layer, wanted in (
        (jl.MaxPool(2, **options), [4, 6]),
        (jl.MinPool(2, **options), [3, 5]),
        (jl.SumPool(2, **options), [7, 11]),
        (jl.AvgPool(2, **options), [3.5, 5.5]),
        (jl.LpPool(1, 2, **options), [7, 11]),
        # The third one begins at 4: what it lacks is not there, and does not count.
        (jl.AvgPool(3, strides=2, ceil_mode=True), [8 / 3, 10 / 3, 4]),
        (jl.AvgPool(3, strides=2, ceil_mode=True, count_include_pad=True), [8 / 3, 10 / 3, 4]),
        (jl.AvgPool(3, strides=2, ceil_mode=True, divisor=2), [4, 5, 4]),
        (jl.SumPool(3, strides=2, ceil_mode=True), [8, 10, 8]),
    ):
        np.testing.assert_allclose(layer.apply({}, {}, x)[0].ravel(), wanted, rtol=1e-6)


@pytest.mark.parametrize("method", ["axes", "direct", None])
def test_the_gradient_of_windows_with_holes(method):
    """It goes to the first of the largest values, for each way to find it."""
    layer = jl.MaxPool(3, strides=2, padding=2, dilation=2, method=method)
    x = np.random.default_rng(0).integers(0, 3, (1, 9, 2)).astype("float32")
    ct = np.random.default_rng(1).normal(size=(1, 5, 2)).astype("float32")
    y, vjp = jax.vjp(lambda x: layer.apply({}, {}, x)[0], jnp.asarray(x))
    wanted, gradient = np.zeros_like(y), np.zeros_like(x)
    for t in range(5):
        places = [i for i in (2 * t - 2, 2 * t, 2 * t + 2) if 0 <= i < 9]
        for c in range(2):
            best = max(places, key=lambda i, c=c: x[0, i, c])
            wanted[0, t, c] = x[0, best, c]
            gradient[0, best, c] += ct[0, t, c]
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_allclose(vjp(jnp.asarray(ct))[0], gradient, rtol=1e-5, atol=1e-6)


SYMBOLIC = export.symbolic_shape("n", constraints=["n >= 4"])


WRONG = {
    "ceil_mode pads after the last step": lambda: jl.MaxPool(2, padding="CAUSAL", ceil_mode=True),
    "dilation must be a positive int": lambda: jl.MaxPool(2, dilation=0),
    "divisor must be a number above 0": lambda: jl.AvgPool(2, divisor=0),
    "dilation (2, 2) has 2 entries for 1 spatial axis": lambda: jl.out_spec(
        jl.MaxPool(2, dilation=(2, 2)), jl.spec((2, 5, 4))
    ),
    "the window (5,) is larger than the input (4,)": lambda: jl.out_spec(
        jl.MaxPool(3, dilation=2), jl.spec((2, 4, 4))
    ),
    # Its elements are before and after the only pixel.
    "padding 'SAME' leaves windows (2,) with nothing else in them": lambda: jl.out_spec(
        jl.MaxPool(2, padding="SAME", dilation=2), jl.spec((2, 1, 4))
    ),
    "combine must be a function of (a, b)": lambda: jl.Pool(jnp.tanh, 0, 2),
    "combine(a, b) must have the shape and dtype of a and b": lambda: jl.out_spec(
        jl.Pool(lambda a, b: a > b, 0, 2), jl.spec((2, 5, 4))
    ),
    "start must be a number": lambda: jl.Pool(jnp.add, None, 2),
    "takes sizes or ratio": lambda: jl.FractionalMaxPool(2),
    "needs a key to train and got none": lambda: jl.FractionalMaxPool(2, ratio=0.5).apply(
        {}, {}, jnp.ones((2, 6, 1)), train=True
    ),
    "(5,) windows (3,) do not fit into (6,)": lambda: jl.out_spec(
        jl.FractionalMaxPool(3, sizes=5), jl.spec((2, 6, 1))
    ),
    "takes spatial axes of known sizes": lambda: jl.out_spec(
        jl.FractionalMaxPool(2, ratio=0.5), jax.ShapeDtypeStruct((2, *SYMBOLIC, 4), jnp.float32)
    ),
    "takes floating numbers, got int32": lambda: jl.out_spec(
        jl.BlurPool(), jl.spec((2, 6, 1), jnp.int32)
    ),
    "takes window_shape or sizes": jl.MaxUnpool,
    "takes a tuple (y, indices)": lambda: jl.out_spec(jl.MaxUnpool(2), jl.spec((2, 3, 4))),
    "the indices do not fit the values": lambda: jl.out_spec(
        jl.MaxUnpool(2), (jl.spec((2, 3, 4)), jl.spec((2, 3, 4)))
    ),
    "takes an array of rank 4, got rank 3": lambda: jl.out_spec(
        jl.AdaptiveAvgPool((2, None)), jl.spec((2, 3, 4))
    ),
    "sizes must be a positive int, got 0": lambda: jl.AdaptiveMaxPool((0, 2)),
    "sizes 2 of an axis without a known size": lambda: jl.out_spec(
        jl.AdaptiveAvgPool(2), jax.ShapeDtypeStruct((2, *SYMBOLIC, 4), jnp.float32)
    ),
    "indices=True takes spatial axes of known sizes": lambda: jl.out_spec(
        jl.MaxPool(2, indices=True), jax.ShapeDtypeStruct((2, *SYMBOLIC, 4), jnp.float32)
    ),
    "would put padding and steps of a Sequence together": lambda: jl.MaxPool(2, indices=True).apply(
        {}, {}, jl.Sequence(jnp.ones((2, 5, 1)))
    ),
    "counts by the length of the longest row": lambda: jl.AvgPool(
        2, strides=3, ceil_mode=True, count_include_pad=True
    ).apply({}, {}, jl.Sequence(jnp.ones((2, 5, 1)))),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("combine", "start", "named"),
    [
        (jnp.maximum, -np.inf, jl.MaxPool),
        (jnp.add, 0, jl.SumPool),
        (jnp.minimum, np.inf, jl.MinPool),
    ],
)
def test_a_pool_by_function_is_the_one_by_name(combine, start, named):
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    options = {"strides": (1, 2), "padding": 1, "ceil_mode": True}
    ours, theirs = jl.Pool(combine, start, (2, 3), **options), named((2, 3), **options)

    def value_and_slope(layer):
        y, vjp = jax.vjp(lambda x: layer.apply({}, {}, x)[0], x)
        return y, vjp(jnp.cos(y))[0]

    for a, b in zip(value_and_slope(ours), value_and_slope(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    products = jl.Pool(jnp.multiply, 1, 2).apply({}, {}, x[:, :, 0])[0]
    np.testing.assert_allclose(products, x[:, ::2, 0] * x[:, 1::2, 0], rtol=1e-6)


def test_global_pools_of_rows():
    values = jnp.array([[3.0, -1, 2, 5], [3, 5, 4, -9]])[..., None]
    x = jl.Sequence.from_lengths(values, [4, 3])
    for layer, wanted in ((jl.GlobalMinPool(), [-1, 3]), (jl.GlobalSumPool(), [9, 12])):
        np.testing.assert_array_equal(layer.apply({}, {}, x)[0].ravel(), wanted)
    numbers = jnp.array([-128, 3, 127], jnp.int8).reshape(1, 3, 1)
    assert jl.GlobalMinPool().apply({}, {}, numbers)[0].tolist() == [[-128]]


@pytest.mark.parametrize("layer", [jl.AdaptiveAvgPool((None, 2)), jl.AdaptiveMaxPool((None, 2))])
def test_adaptive_pools_of_each_step(layer):
    x = jl.Sequence.from_lengths(jax.random.normal(jax.random.key(0), (2, 5, 3, 4)), [5, 2])
    y, _ = layer.apply({}, {}, x)
    np.testing.assert_array_equal(y.mask, x.mask)
    np.testing.assert_array_equal(y.values[1, :2], layer.apply({}, {}, x.values[1:, :2])[0][0])
    with pytest.raises(jl.LayerError):
        jl.AdaptiveAvgPool((2, None)).apply({}, {}, x)


def test_attention_minds_the_mask():
    x = jax.random.normal(jax.random.key(0), (3, 5, 4))
    rows = jl.Sequence.from_lengths(x, [5, 2, 0])
    layer = jl.AttentionPool(hidden_features=3)
    params, _ = layer.init(jax.random.key(1), x)

    def loss(params):
        y, _ = layer.apply(params, {}, rows)
        return (y**2).sum(), y

    slope, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    alone, _ = jax.jit(layer.apply)(params, {}, x[1:2, :2])
    np.testing.assert_allclose(y[1], alone[0], rtol=1e-5)
    np.testing.assert_array_equal(y[2], np.zeros(4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_a_fraction_is_drawn_for_each_row_and_channel():
    x = jnp.broadcast_to(jnp.arange(40.0)[None, :, None], (2, 40, 3))
    layer = jl.FractionalMaxPool(2, ratio=0.6)
    (first, _), (second, _) = (
        layer.apply({}, {}, x, key=jax.random.key(seed), train=True) for seed in range(2)
    )
    assert first.shape == (2, 24, 3)
    assert not np.array_equal(first, second)
    steps = np.diff(first, axis=1)
    assert set(np.unique(steps)) <= {1, 2}
    assert len(np.unique(first.swapaxes(1, 2).reshape(6, -1), axis=0)) > 3
    np.testing.assert_array_equal(first[:, -1], 39)
    numbers = layer.apply({}, {}, x.astype(jnp.int8))[0]
    assert numbers.dtype == jnp.int8


def test_an_unpool_cuts_off_the_padding():
    x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
    pool = jl.MaxPool(2, padding=1, indices=True)
    back = jl.serial(pool, jl.MaxUnpool(2, cropping=1))
    assert back.apply({}, {}, x)[0].ravel().tolist() == [3, 0, 2, 5]


def test_whole_numbers_and_infinities_have_places():
    x = jnp.full((1, 5, 1), -jnp.inf).at[0, 4].set(-1.0)
    y, indices = jl.MaxPool(2, padding=1, indices=True).apply({}, {}, x)[0]
    # Padding never has the place, not even of minus infinity.
    np.testing.assert_array_equal(indices.ravel(), [0, 1, 4])
    np.testing.assert_array_equal(y.ravel(), [-np.inf, -np.inf, -1])
    numbers = jnp.array([-128, -128, 3, 127], jnp.int8).reshape(1, 4, 1)
    y, indices = jl.AdaptiveMaxPool(3, indices=True).apply({}, {}, numbers)[0]
    np.testing.assert_array_equal(y.ravel(), np.array([-128, 3, 127], "int8"))
    np.testing.assert_array_equal(indices.ravel(), [0, 2, 3])


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
def test_the_gradient_of_a_window_of_zeros_is_zero(p):
    x = jnp.array([0.0, 0.0, 0.0, 2.0]).reshape(1, 4, 1)
    gradient = jax.grad(lambda x: jl.LpPool(p, 2).apply({}, {}, x)[0].sum())(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient.ravel()[:2], 0)
