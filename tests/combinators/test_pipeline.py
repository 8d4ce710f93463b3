"""pipeline: equal to repeat, whatever the parts and wherever the stages are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from jax.sharding import AxisType
from tables.tiers import full

import jlayers as jl
from jlayers import sharding, training

BLOCK = jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(4), jax.nn.gelu, jl.Dense(8)))
X = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def loss(y):
    return jnp.mean(jnp.sin(y) ** 2)


def after_a_step(model, **where):
    step = training.train_step(model, loss, optax.sgd(0.1), **where)
    state, metrics = jax.jit(step)(step.start(jax.random.key(0), X), (X,))
    return state.params, metrics["loss"]


@pytest.mark.parametrize("parts", [2, *full(1, 8)])
@pytest.mark.parametrize(
    ("sizes", "names", "kind"),
    [
        (None, None, None),
        ((2, 2), ("data", "stage"), AxisType.Auto),
        ((2, 2), ("data", "stage"), AxisType.Explicit),
    ],
    ids=str,
)
def test_it_trains_as_repeat_does(parts, sizes, names, kind):
    expected, value = after_a_step(jl.repeat(BLOCK, 4))
    where = {}
    if sizes is not None:
        rules = sharding.pipeline_parallel("stage") + sharding.data_parallel("data")
        where = {"mesh": jax.make_mesh(sizes, names, axis_types=(kind,) * 2), "rules": rules}
    found, got = after_a_step(jl.pipeline(BLOCK, 4, stages=2, parts=parts), **where)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    if sizes is not None:
        assert jax.tree.leaves(found)[0].sharding.spec[0] == "stage"


def test_stages_hand_on_what_they_made():
    """Each of four devices computes a quarter of the products, and gathers no parameters."""
    mesh = jax.make_mesh((4,), ("stage",), axis_types=(AxisType.Auto,))
    where = {"mesh": mesh, "rules": sharding.pipeline_parallel("stage")}
    model = jl.pipeline(BLOCK, 4, stages=4, parts=4)
    step = training.train_step(model, loss, optax.sgd(0.1), **where)
    found = sharding.plan(step, (X,)).compiled.traffic
    assert found.collectives["collective-permute"] > 0
    kernels = 4 * 2 * 4 * 8 * 4
    assert found.bytes.get("all-gather", 0) < kernels


def _counts(f, x):
    f.add_loss(jnp.sum(x) * 0 + 1.0)
    return f.dense(x)


def test_added_losses_are_means_over_the_parts():
    model = jl.with_losses(jl.pipeline(jl.compose(_counts, dense=jl.Dense(8)), 4, 2, 4))
    params, state = model.init(jax.random.key(0), X)
    (_, added), _ = model.apply(params, state, X)
    assert float(added) == 4


def test_parts_have_random_numbers_of_their_own():
    model = jl.pipeline(jl.Dropout(0.5), 2, stages=2, parts=2)
    params, state = model.init(jax.random.key(0), X)
    y, _ = model.apply(params, state, jnp.ones((8, 8)), key=jax.random.key(1), train=True)
    assert len({row.tobytes() for row in np.asarray(y)}) > 4


@each(
    [
        (
            lambda: jl.pipeline(BLOCK, 4, stages=3, parts=2),
            "pipeline: 3 stages do not divide 4 copies",
            "expected: stages= that divides n",
        ),
        (
            lambda: jl.pipeline(jl.BatchNorm(), 4, 2, 2).init(jax.random.key(0), X),
            "*the layer of a pipeline has a state, which parts would change at different times*",
            "hint:     a norm without running statistics, such as LayerNorm, or repeat",
        ),
        (
            lambda: jl.pipeline(BLOCK, 4, 2, 3).apply(
                *jl.pipeline(BLOCK, 4, 2, 3).init(jax.random.key(0), X), X
            ),
            "*the batch cannot be divided into 3 parts*",
            "expected: arrays whose first axis is a multiple of parts=3",
        ),
    ]
)
def test_what_is_refused(case):
    read(case)
