"""Options of batch norm and batch renorm against Flax, Haiku and Keras, over several batches."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from tables.tiers import sample

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import haiku as hk
import keras
from flax import linen as nn


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def batches(shape, count=3, dtype="float64"):
    rng = np.random.default_rng(3)
    return [2 * rng.standard_normal(shape).astype(dtype) + i for i in range(count)]


def trained(layer, params, state, xs):
    run = jax.jit(functools.partial(layer.apply, train=True))
    for x in xs:
        y, state = run(params, state, x)
    return y, state


@pytest.mark.oracle("Haiku")
def test_the_debiased_statistics_are_those_of_haiku(float64):
    oracle = hk.transform_with_state(
        lambda x, train: hk.BatchNorm(True, True, decay_rate=0.9, eps=1e-2)(x, train)
    )
    layer = jl.BatchNorm(momentum=0.9, epsilon=1e-2, debiased=True)
    xs = batches((4, 3, 5))
    with convert.lenient():
        theirs, running = oracle.init(jax.random.key(0), xs[0], True)
    theirs = convert.draw(theirs)
    (own,) = theirs.values()
    params = {"scale": own["scale"].reshape(-1), "bias": own["offset"].reshape(-1)}
    state = layer.init(jax.random.key(0), jl.spec(xs[0].shape, "float64"))[1]
    with convert.lenient():
        # Haiku's init takes a step of its own: the statistics start again.
        running = jax.tree.map(jnp.zeros_like, running)
    run = jax.jit(functools.partial(layer.apply, train=True))
    apply = jax.jit(oracle.apply, static_argnums=4)
    for x in xs:
        with convert.lenient():
            wanted, running = apply(theirs, running, None, x, True)
        y, state = run(params, state, x)
        np.testing.assert_allclose(y, wanted, rtol=1e-10)
        for name in ("mean", "var"):
            average = running[f"batch_norm/~/{name}_ema"]["average"].reshape(-1)
            np.testing.assert_allclose(state[name], average, rtol=1e-10)
    with convert.lenient():
        wanted, _ = apply(theirs, running, None, xs[0], False)
    y, _ = jax.jit(layer.apply)(params, state, xs[0])
    np.testing.assert_allclose(y, wanted, rtol=1e-10)
    assert state["count"] == 3


@pytest.mark.parametrize("momentum", [1.0, None])
def test_without_a_momentum_all_batches_count_alike(float64, momentum):
    layer = jl.BatchNorm(momentum=momentum, debiased=momentum is not None)
    xs = batches((4, 3, 5))
    _, state = trained(layer, *layer.init(jax.random.key(0), xs[0]), xs)
    np.testing.assert_allclose(state["mean"], np.mean([x.mean((0, 1)) for x in xs], 0), rtol=1e-12)
    np.testing.assert_allclose(state["var"], np.mean([x.var((0, 1)) for x in xs], 0), rtol=1e-12)


def test_no_momentum_keeps_the_last_batch():
    layer, xs = jl.BatchNorm(momentum=0, debiased=True), batches((4, 5), dtype="float32")
    _, state = trained(layer, *layer.init(jax.random.key(0), xs[0]), xs)
    np.testing.assert_allclose(state["mean"], xs[-1].mean(0), rtol=1e-5)


@pytest.mark.oracle("Flax")
@pytest.mark.parametrize("axes", sample([1, (1, 3), (-2, -1), 0], 0, 1), ids=str)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_feature_axes(float64, axes, train):
    settings = {"momentum": 0.8, "epsilon": 1e-2}
    layer = jl.BatchNorm(feature_axes=axes, **settings)
    oracle = nn.BatchNorm(
        axis=axes, use_running_average=not train, param_dtype="float64", **settings
    )
    x = convert.draw_input((2, 3, 4, 5), "float64")
    with convert.lenient():
        weights = jax.eval_shape(oracle.init, jax.random.key(0), x)
    weights = jax.tree.map(lambda value: value.astype("float64"), convert.draw(weights))

    def theirs(weights, x):
        y, new = oracle.apply(weights, x, mutable=["batch_stats"])
        return y, new["batch_stats"]

    def ours(weights, x):
        return layer.apply(weights["params"], weights["batch_stats"], x, train=train)

    convert.compare(theirs, ours, weights, x)


CLIPS = [
    {},
    {"rmax": 1.2, "rmin": 0.9, "dmax": 0.3},
    {"rmax": 1.5},
]


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("clip", sample(CLIPS, 1), ids=convert.label)
@pytest.mark.parametrize(
    "options", sample([{}, {"scale": False}, {"bias": False}]), ids=convert.label
)
def test_renorm(options, clip, train):
    """Values and gradients, and the statistics after three batches, by Keras."""
    names = {"bias": "center"}
    theirs = {names.get(name, name): value for name, value in options.items()}
    settings = {"momentum": 0.8, "epsilon": 1e-2}
    oracle = keras.layers.BatchNormalization(
        renorm=True, renorm_clipping=clip, renorm_momentum=0.8, **settings, **theirs
    )
    ours = {"max_scale": clip.get("rmax"), "max_shift": clip.get("dmax")}
    # Keras has no lower end by default, and 0 is below every r.
    layer = jl.BatchRenorm(**ours, min_scale=clip.get("rmin", 0.0), **settings, **options)
    xs = batches((4, 3, 5), dtype="float32")
    oracle.build(xs[0].shape)
    for variable in oracle.trainable_variables:
        variable.assign(convert.draw({variable.name: variable.value})[variable.name])
    params = {
        name: jnp.asarray(variable.value)
        for name, variable in (("scale", oracle.gamma), ("bias", oracle.beta))
        if variable is not None
    }
    state = layer.init(jax.random.key(0), jl.spec(xs[0].shape))[1]
    run = jax.jit(functools.partial(layer.apply, train=True))
    for x in xs:
        y, state = run(params, state, x)
        wanted = oracle(x, training=True)
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["mean"], oracle.moving_mean.value, rtol=1e-5)
    np.testing.assert_allclose(state["var"], oracle.moving_variance.value, rtol=1e-4)
    variables = oracle.trainable_variables, oracle.non_trainable_variables

    def call(weights, x):
        own = [weights[name] for name in params]
        values = [variable.value for variable in variables[1]]
        with convert.lenient():
            return oracle.stateless_call(own, values, x, training=train)[0]

    def mine(weights, x):
        return layer.apply(weights, state, x, train=train)[0]

    x = jnp.asarray(batches((4, 3, 5), 4, "float32")[-1])
    wanted, got = (convert.value_and_gradients(f, params, x) for f in (call, mine))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4), wanted, got)


def test_renorm_begins_as_the_paper_says(float64):
    """With no room for r and d it is batch norm, and with all of it the running statistics'."""
    xs = batches((6, 5))
    tight = jl.BatchRenorm(max_scale=1.0, max_shift=0.0)
    state = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    plain = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}

    def run(layer, train):
        return jax.jit(functools.partial(layer.apply, train=train))(plain, state, xs[0])[0]

    np.testing.assert_allclose(run(tight, True), run(jl.BatchNorm(), True), rtol=1e-12)
    free = jl.BatchRenorm(max_scale=None, max_shift=None)
    np.testing.assert_allclose(run(free, True), run(free, False), rtol=1e-10)


@pytest.mark.parametrize("make", [jl.BatchNorm, jl.BatchRenorm], ids=["norm", "renorm"])
@pytest.mark.parametrize("masked", [False, True], ids=["array", "masked"])
def test_statistics_over_a_mapped_axis(float64, make, masked):
    """Two parts of a batch under vmap, or shard_map, are the batch: values, state, gradients."""
    layer, whole = make(axis_name="parts", momentum=0.5), make(momentum=0.5)
    rng = np.random.default_rng(0)
    # A large mean: a difference of mean squares would lose its digits.
    x = jnp.asarray(rng.standard_normal((4, 3, 5)) + 1e6)
    mask = jnp.asarray(np.arange(3) < np.array([[3], [1], [2], [0]]))
    params, state = whole.init(jax.random.key(0), x)
    params = convert.draw(params)
    weights = jnp.asarray(rng.standard_normal(x.shape) * np.asarray(mask)[..., None])

    def loss(layer, params, x, mask, weights):
        given = jl.Sequence(x, mask) if masked else x
        y, new = layer.apply(params, state, given, train=True)
        return jnp.sum((y.values if masked else y) * weights), new

    def by_parts(params, x):
        halves = (a.reshape(2, 2, *a.shape[1:]) for a in (x, mask, weights))
        sums, new = jax.vmap(
            lambda *part: loss(layer, params, *part), axis_name="parts", out_axes=(0, None)
        )(*halves)
        return jnp.sum(sums), new

    wanted = jax.value_and_grad(lambda *a: loss(whole, *a, mask, weights), (0, 1), has_aux=True)
    got = jax.value_and_grad(by_parts, (0, 1), has_aux=True)

    def near(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)

    jax.tree.map(near, jax.jit(got)(params, x), jax.jit(wanted)(params, x))


def test_statistics_over_devices():
    layer = jl.BatchNorm(axis_name="batch", momentum=0.5)
    x = jnp.asarray(batches((4, 3, 5), 1, "float32")[0])
    params, state = layer.init(jax.random.key(0), x)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split, everywhere = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()

    def total(params, x):
        def part(params, x):
            y, new = layer.apply(params, state, x, train=True)
            return jax.lax.psum(jnp.sum(y**3), "batch"), new

        return jax.shard_map(part, mesh=mesh, in_specs=(everywhere, split), out_specs=everywhere)(
            params, x
        )

    def plain(params, x):
        y, new = jl.BatchNorm(momentum=0.5).apply(params, state, x, train=True)
        return jnp.sum(y**3), new

    def near(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    got, wanted = (jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True)) for f in (total, plain))
    jax.tree.map(near, got(params, x), wanted(params, x))


def test_groups_of_devices_have_statistics_of_their_own():
    x = jnp.asarray(batches((2, 4, 5), 1, "float32")[0])
    layer = jl.BatchNorm(axis_name="d", axis_index_groups=[[0], [1]], momentum=0.0)
    params, state = layer.init(jax.random.key(0), x[0])
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    run = jax.shard_map(
        lambda x: layer.apply(params, state, x[0], train=True)[1]["mean"][None],
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(run)(x), x.mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda x: jl.BatchNorm(axis_name="d").apply(
                *jl.BatchNorm().init(KEY, x), x, train=True
            ),
            "there is no mapped axis 'd' here",
        ),
        (lambda x: jl.BatchNorm(axis_name=1), "axis_name must be a str or a tuple of them, got 1"),
        (lambda x: jl.BatchRenorm(max_scale=0.5), "max_scale is below the lower end of r"),
        (lambda x: jl.BatchNorm(feature_axes=(0, 1, 2)).init(KEY, x), "leave none for the statist"),
        (
            lambda x: jl.BatchNorm(feature_axes=1).init(KEY, x[:, :0]),
            "takes no empty axis of feature_axes",
        ),
        (
            lambda x: jl.BatchNorm(feature_axes=1).init(KEY, jl.Sequence.from_lengths(x, [3, 2])),
            "have an axis of the mask",
        ),
        (
            lambda x: jl.stream(jl.BatchNorm(feature_axes=1)).start(
                *jl.BatchNorm(feature_axes=1).init(KEY, x), x
            ),
            "may be time",
        ),
    ],
    ids=range(7),
)
def test_errors(call, text):
    with pytest.raises(jl.LayerError, match=text):
        call(jnp.ones((2, 3, 4)))


KEY = jax.random.key(0)
