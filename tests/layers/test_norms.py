"""Norms against Flax, Haiku, Keras and papers, in float64, with the same random weights."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl
from jlayers import data

os.environ.setdefault("KERAS_BACKEND", "jax")

import haiku as hk
import keras

F64 = {"param_dtype": "float64"}
SHAPE = (2, 3, 4, 5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def check(oracle, layer, shape=SHAPE):
    apply = jl.without_state(layer).apply
    x = convert.draw_input(shape, "float64")
    with convert.lenient():
        shapes = jax.eval_shape(oracle.init, jax.random.key(0), x)
    weights = convert.draw(shapes).get("params", {})
    convert.compare(lambda w, x: oracle.apply({"params": w}, x), apply, weights, x)


# Axes of the statistics, and of the parameters: each path of core.axes_norm.
AXES = [
    ((-2, -1), (-2, -1)),
    ((1, 2, 3), -1),
    ((1, 2), (2, 3)),
    (1, 1),
    ((1, 2), -1),
    (-1, (1, 3)),
    ((0, 2), (2, 3)),
]


@pytest.mark.oracle("Flax")
@pytest.mark.parametrize("axes", sample(AXES, 0, 1, 2), ids=str)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_over_axes(kind, axes):
    theirs = {"epsilon": 1e-2, "reduction_axes": axes[0], "feature_axes": axes[1], **F64}
    ours = {"epsilon": 1e-2, "axis": axes[0], "feature_axes": axes[1]}
    if kind == "layer":
        check(nn.LayerNorm(**theirs), jl.LayerNorm(**ours))
    else:
        check(nn.RMSNorm(**theirs), jl.RMSNorm(**ours))


def test_the_parameters_are_those_of_the_axes_by_default():
    params, _ = jl.LayerNorm(axis=(3, 1)).init(jax.random.key(0), jl.spec(SHAPE))
    assert params["scale"].shape == (3, 5)
    params, _ = jl.RMSNorm(feature_axes=()).init(jax.random.key(0), jl.spec(SHAPE))
    assert params["scale"].shape == ()


def test_one_scale_is_the_norm_of_vectors():
    """ScaleNorm (Nguyen & Salazar, 2019): ``g * x / |x|``."""
    x = convert.draw_input((3, 8), "float64")
    y, _ = jl.RMSNorm(feature_axes=(), epsilon=0.0).apply({"scale": np.array(0.5)}, {}, x)
    g = 0.5 * np.sqrt(8)
    np.testing.assert_allclose(y, g * x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axis": 4}, r"LayerNorm: there is no axis \[4\]"),
        ({"axis": (1, -3)}, r"LayerNorm: axes \[1, -3\] name an axis twice"),
        ({"axis": ()}, r"axis must be an int or a tuple of different ints, got \(\)"),
        ({"feature_axes": (1, 1)}, "feature_axes must be an int or a tuple of different ints"),
        ({"axis": (2, 3)}, "takes no empty axis of feature_axes"),
    ],
    ids=str,
)
def test_errors_of_axes(options, text):
    with pytest.raises(jl.LayerError, match=text):
        jl.LayerNorm(**options).init(jax.random.key(0), jl.spec((2, 3, 0, 5)))


def test_a_norm_over_time_is_refused_for_a_mask():
    x = jl.Sequence.from_lengths(np.ones((2, 4, 3)), [4, 2])
    layer = jl.LayerNorm(axis=(1, 2), feature_axes=-1)
    with pytest.raises(jl.LayerError, match="mixes steps, and would read the padding"):
        layer.init(jax.random.key(0), x)


@pytest.mark.oracle("Flax")
@pytest.mark.parametrize("size", sample([1, 2, 5], 1))
def test_groups_by_size(size):
    oracle = nn.GroupNorm(None, group_size=size, epsilon=1e-2, **F64)
    check(oracle, jl.GroupNorm(group_size=size, epsilon=1e-2), (2, 3, 10))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: jl.GroupNorm(), "GroupNorm: takes groups or group_size"),
        (lambda: jl.GroupNorm(2, group_size=3), "got: +groups 2, group_size 3"),
        (
            lambda: jl.out_spec(jl.GroupNorm(group_size=3), jl.spec((2, 5, 4))),
            "groups of 3 do not divide the 4 features",
        ),
    ],
    ids=range(3),
)
def test_errors_of_groups(make, text):
    with pytest.raises(jl.LayerError, match=text):
        make()


@pytest.mark.oracle("Haiku")
@pytest.mark.parametrize("whole", [True, False], ids=["rows", "steps"])
def test_a_conditional_norm_is_that_of_haiku(whole):
    """Haiku's BatchNorm takes scale and offset at the call."""
    norm = jl.BatchNorm(scale=False, bias=False, epsilon=1e-2)
    model = jl.serial(jl.parallel(norm, jl.serial()), jl.FiLM())
    x = convert.draw_input((3, 4, 5), "float64")
    condition = 0.5 * convert.draw_input((3, 2) if whole else (3, 4, 2), "float64")
    params, state = model.init(jax.random.key(0), (x, condition))
    params = convert.draw(params)
    oracle = hk.transform_with_state(
        lambda x, scale, shift: hk.BatchNorm(False, False, 0.9, eps=1e-2)(
            x, True, scale=scale, offset=shift
        )
    )

    def theirs(weights, x):
        kernel, bias = weights["film"]["kernel"], weights["film"]["bias"]
        scale, shift = jnp.split(condition @ kernel + bias, 2, axis=-1)
        if whole:
            scale, shift = scale[:, None], shift[:, None]
        new = oracle.init(None, x, 1 + scale, shift)[1]
        return oracle.apply({}, new, None, x, 1 + scale, shift)[0]

    def ours(weights, x):
        return model.apply(weights, state, (x, condition), train=True)[0]

    convert.compare(theirs, ours, params, x)


def test_a_condition_must_fit():
    with pytest.raises(jl.LayerError, match="the condition must have leading axes of x"):
        jl.FiLM().init(jax.random.key(0), (jl.spec((2, 5, 4)), jl.spec((5, 3))))
    with pytest.raises(jl.LayerError, match=r"FiLM: takes two arrays"):
        jl.FiLM().init(jax.random.key(0), jl.spec((2, 5, 4)))


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize(
    "options",
    sample([{}, {"learned_epsilon": True}, {"threshold": False}], 0, 1),
    ids=convert.label,
)
def test_filter_response_norm(options):
    """By NumPy from the paper, with loops over examples and channels."""
    layer = jl.FilterResponseNorm(epsilon=1e-2, **options)
    x = convert.draw_input(SHAPE, "float64")
    params = convert.draw(layer.init(jax.random.key(0), x)[0])
    wanted = np.empty(SHAPE)
    for i in range(SHAPE[0]):
        for c in range(SHAPE[-1]):
            square = np.mean(x[i, ..., c] ** 2)
            y = x[i, ..., c] / np.sqrt(square + 1e-2 + abs(params.get("epsilon", 0)))
            y = params["scale"][c] * y + params["bias"][c]
            wanted[i, ..., c] = np.maximum(y, params["threshold"][c]) if layer_has(options) else y
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], wanted, rtol=1e-12)


def layer_has(options):
    return options.get("threshold", True)


def test_filter_response_norm_leaves_padding_out():
    layer = jl.FilterResponseNorm()
    x = convert.draw_input((2, 4, 3, 5), "float64")
    params = convert.draw(layer.init(jax.random.key(0), x)[0])
    padded = jl.Sequence.from_lengths(jnp.asarray(x).at[1, 2:].set(jnp.nan), [4, 2])
    y, _ = layer.apply(params, {}, padded)
    short, _ = layer.apply(params, {}, x[1:, :2])
    np.testing.assert_allclose(y.values[1:, :2], short, rtol=1e-12)


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("axis", sample([-1, (1, 3), None], 0, 2), ids=str)
def test_data_norm_is_that_of_keras(axis):
    x = 3 + 2 * np.random.default_rng(0).standard_normal((10, 3, 4, 5)).astype("float32")
    x[..., 2] = 7  # a variance of zero
    oracle = keras.layers.Normalization(axis=axis)
    with convert.lenient():
        oracle.adapt(x)
        wanted = np.asarray(oracle(x))
    axes = () if axis is None else axis
    layer = jl.DataNorm(feature_axes=axes)
    state = data.moments(data.Batches((x, np.arange(10)), 4), feature_axes=axes).state
    got, same = layer.apply({}, state, x, train=True)
    assert same is state
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    back, _ = jl.DataNorm(feature_axes=axes, invert=True).apply({}, state, got)
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4)


def test_data_norm_takes_integers():
    state = {"mean": np.float32([2]), "var": np.float32([4])}
    y, _ = jl.DataNorm().apply({}, state, jnp.array([[4], [0]], jnp.uint8))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, [[1], [-1]])


@pytest.mark.parametrize("last", ["drop", "pad", "keep"])
def test_moments_count_each_row_once(last):
    x = 1e4 + np.random.default_rng(0).standard_normal((10, 3)).astype("float32")
    found = data.moments(data.Batches((x, np.arange(10)), 4, key=0, last=last))
    assert found.count == 10
    np.testing.assert_allclose(found.mean, x.astype("float64").mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.var, x.astype("float64").var(0), rtol=1e-9)


def test_moments_of_steps_and_parts():
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype("float32")
    lengths = [5, 2, 0, 4]
    mask = np.arange(5) < np.array(lengths)[:, None]
    padded = jl.Sequence.from_lengths(np.where(mask[..., None], x, np.nan), lengths)
    valid = x.astype("float64")[mask]
    whole = data.moments(padded)
    parts = data.moments(padded[:1]) + data.moments(
        [{"steps": padded[1:]}], select=lambda b: b["steps"]
    )
    for found in (whole, parts):
        assert found.count == 11
        np.testing.assert_allclose(found.mean, valid.mean(0), rtol=1e-9)
        np.testing.assert_allclose(found.var, valid.var(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: data.moments(np.ones((0, 3))), "moments of no values"),
        (lambda: data.moments([{"x": np.ones(3)}]), "a batch must be one array, or begin with one"),
        (lambda: data.moments(np.ones((2, 3)), feature_axes=2), "there is no axis"),
        (lambda: data.moments(np.array(["a"])), "takes real numbers"),
        (
            lambda: data.moments(jl.Sequence.from_lengths(np.ones((2, 3)), [3, 1]), feature_axes=1),
            "have an axis of the mask",
        ),
        (
            lambda: data.moments(np.ones((2, 3))) + data.moments(np.ones((2, 4))),
            "moments of different features",
        ),
    ],
    ids=range(6),
)
def test_errors_of_moments(call, text):
    with pytest.raises(jl.DataError, match=text):
        call()


@pytest.mark.parametrize("epsilon", [1e-12, 1e-30])
def test_unit_norm_at_the_ends_of_the_range(epsilon):
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [3e19, 4e19]], jnp.float32)
    y, pull = jax.vjp(lambda x: jl.UnitNorm(epsilon=epsilon).apply({}, {}, x)[0], x)
    np.testing.assert_allclose(y[:2], [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isnan(y[2]).all()
    (slope,) = pull(jnp.ones_like(y))
    assert np.isfinite(slope[:2]).all()


@pytest.mark.parametrize("p", [0.5, 1, 3])
def test_unit_norm_of_another_exponent(p):
    x = jnp.array([[0.0, 0.0], [3.0, -4.0], [0.0, 2.0]])
    y, pull = jax.vjp(lambda x: jl.UnitNorm(p=p).apply({}, {}, x)[0], x)
    np.testing.assert_allclose((np.abs(y) ** p).sum(-1) ** (1 / p), [0, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(y[1, 0] / y[1, 1], -0.75, rtol=1e-6)
    assert np.isfinite(pull(jnp.ones_like(y))[0]).all()


def test_local_response_norm_beyond_the_range():
    y, _ = jl.LocalResponseNorm(2).apply({}, {}, jnp.array([[1.0, 1.0, 3e19]], jnp.float32))
    assert np.isfinite(y[0, 0])
    assert np.isnan(y[0, 2])
