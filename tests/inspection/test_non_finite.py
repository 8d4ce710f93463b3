"""Which layer went non-finite: the exact place, forward and back, and the rows of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from tables.tiers import full

import jlayers as jl
from jlayers.base.tracing import trace
from jlayers.inspection.nonfinite.probes import (
    nodes_of,
    probed,
    with_probes,
    without_probes,
)
from jlayers.training.loop.non_finite import find_non_finite
from jlayers.training.loss_scale import LossScale
from jlayers.training.state import train_state

HUGE = 3e38
X = jnp.arange(1.0, 33.0).reshape(8, 4) / 32


def mean(y, *targets):
    return jnp.mean(y)


def start(model, x, params=None, **options):
    """The first run, with some of the parameters, named by path, multiplied."""
    run = train_state(model, optax.sgd(0.1), jax.random.key(0), x, **options)
    flat = jl.flatten(run.params)
    for path, change in (params or {}).items():
        flat[path] = change(flat[path])
    return run._replace(params=jl.unflatten(flat))


def find(model, x=X, loss=mean, targets=(), params=None, **options):
    return find_non_finite(model, loss, start(model, x, params), (x, *targets), **options)


def place(found):
    return found.kind, found.path, found.copies, found.rows


def to(value):
    return lambda leaf: jnp.full_like(leaf, value)


def copy_to(i, value):
    return lambda leaf: leaf.at[i].set(value)


def positive(x):
    return jnp.abs(x) + jnp.asarray(1, x.dtype)


BLOCK = jl.residual(jl.serial(jl.Dense(4), positive, jl.Dense(4)))
DEEP = jl.serial(jl.Dense(4), blocks=jl.repeat(BLOCK, 12), head=jl.Dense(2))
NET = jl.serial(
    jl.Conv(4, 3),
    jl.BatchNorm(),
    jax.nn.relu,
    jl.MaxPool(2),
    jl.Conv(3, 1),
    jl.Flatten(),
    jl.Dense(2),
)
IMAGES = jax.random.normal(jax.random.key(1), (6, 8, 8, 2))
LENGTHS = jnp.asarray([5, 3, 1])
GARBAGE = jl.Sequence.from_lengths(
    jnp.where(
        jnp.arange(5)[None, :, None] < LENGTHS[:, None, None],
        jax.random.normal(jax.random.key(2), (3, 5, 4)),
        jnp.nan,
    ),
    LENGTHS,
)
RECURRENT = jl.serial(jl.LSTM(4), jl.Dense(3), jl.on_sequence(jl.Sequence.last))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        pytest.param(DEEP, X, marks=pytest.mark.full),
        pytest.param(NET, IMAGES, marks=pytest.mark.full),
        (RECURRENT, GARBAGE),
        (jl.serial(jl.ensemble(jl.remat(jl.Dense(3)), 3), jl.Dropout(0.5), jnp.tanh), X),
    ],
    ids=["repeat", "conv", "padding", "ensemble"],
)
def test_nothing_to_report(model, x):
    assert find(model, x) is None


def test_probes_change_nothing():
    model = jl.serial(
        jl.repeat(jl.serial(jl.Dense(4), jl.Dropout(0.5), jl.BatchNorm()), 3, remat=True),
        jl.ensemble(jl.serial(jl.Dropout(0.3), jl.Dense(2)), 2),
    )
    run = start(model, X)
    around = probed(nodes_of(model, [jl.spec(X.shape)]), 8, ())
    found = trace(around, X)

    def outcome(layer, params, state):
        def loss(params):
            y, new = layer.apply(params, state, X, key=run.key, train=True)
            return jnp.sum(y**2), (y, new)

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    plain = outcome(model, run.params, run.state)
    gradient, (y, state) = outcome(
        around, with_probes(run.params, found.params), with_probes(run.state, found.state)
    )
    mine = without_probes(gradient), (y, without_probes(state))
    assert jax.tree.structure(mine) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_forward_in_a_function():
    x = X.at[jnp.asarray([2, 5]), 1].set(0)
    found = find(
        jl.serial(positive, first=jl.serial(lambda x: x - 1, jnp.log), head=jl.Dense(2)), x
    )
    assert place(found) == ("forward", "first/log", (), (2, 5))
    head, *lines = str(found).splitlines()
    assert head == "log at 'first/log': its input is finite, its output is not"
    assert lines[0].startswith("  layer:    jax.numpy.log  (")
    assert "test_non_finite.py:" in lines[0]
    assert lines[1:] == [
        "  input:    float32[8, 4], from 0 to 1",
        "  output:   float32[8, 4], 2 infinite, the rest from -3.47 to 0",
        "  rows:     2, 5 (2 of 8)",
        "  hint:     jnp.log(jnp.maximum(x, 1e-6)): log of values not above 0",
    ]


@pytest.mark.parametrize("copy", [*full(0), 7])
def test_forward_in_one_copy(copy):
    found = find(DEEP, params={"blocks/body/dense_1/kernel": copy_to(copy, HUGE)})
    assert place(found)[:3] == ("forward", "blocks/body/dense_1", ((copy, 12),))
    head = f"Dense at 'blocks/body/dense_1', copy {copy} of 0 to 11: its input is finite, its"
    assert str(found).startswith(head)
    assert "Dense(4)  (" in str(found)


WRAPPED = [
    (jl.ensemble(jl.serial(positive, jl.Dense(3)), 3), ((1, 3),), "dense"),
    (jl.remat(jl.serial(positive, jl.Dense(3))), (), "dense"),
    (jl.repeat(jl.serial(positive, jl.Dense(4)), 3, remat=True), ((1, 3),), "dense"),
    (jl.repeat(jl.serial(positive, jl.Dense(4)), 1), ((0, 1),), "dense"),
    (jl.repeat(jl.serial(positive, jl.Dense(4)), 3, shared=True), (), "dense"),
    (
        jl.ensemble(jl.repeat(jl.residual(jl.serial(positive, jl.Dense(4))), 3), 2),
        ((1, 2), (1, 3)),
        "body/dense",
    ),
]


@pytest.mark.parametrize(("model", "copies", "path"), WRAPPED)
def test_forward_under_wrappers(model, copies, path):
    at = tuple(i for i, _ in copies)
    found = find(
        jl.serial(jl.Dense(4), inside=model),
        params={f"inside/{path}/kernel": copy_to(at, HUGE) if at else to(HUGE)},
    )
    assert place(found)[:3] == ("forward", f"inside/{path}", copies)


def test_an_id_out_of_range():
    ids = jnp.asarray([[1, 2], [3, 5], [0, 4]], jnp.int32)
    found = find(jl.serial(jl.Embedding(5, 3), jl.Dense(1)), ids)
    assert place(found) == ("forward", "embedding", (), (1,))
    assert found.hint == "ids from 0 to 4: one out of range has a row of NaN"


def test_forward_in_images():
    found = find(NET, IMAGES, params={"conv_1/kernel": to(HUGE)})
    assert place(found) == ("forward", "conv_1", (), tuple(range(6)))
    assert "  rows:     all 6" in str(found).splitlines()


def test_inputs_of_different_sizes():
    model = jl.serial(lambda x: jnp.log(x[0]) * jnp.sum(x[1]), jl.Dense(2))
    found = find(model, (X.at[2].set(0), jnp.ones((3, 2))))
    assert place(found) == ("forward", "lambda", (), ())


def test_rows_of_steps():
    x = jnp.ones((3, 5, 4)).at[2, 4].set(0)
    found = find(jl.serial(jl.each_step(jl.serial(jnp.log, jl.Dense(2)))), x)
    assert place(found) == ("forward", "serial/log", (), (2,))
    assert "jax.numpy.log" in str(found)


def test_forward_in_time():
    model = jl.bidirectional(jl.serial(positive, jl.Dense(3)))
    params = {"bidirectional/backward/dense/kernel": to(HUGE)}
    found = find(jl.serial(model), jnp.ones((2, 3, 4)), params=params)
    assert place(found) == ("forward", "bidirectional/backward/dense", (), (0, 1))


def test_a_valid_step_of_a_sequence():
    x = jl.Sequence(GARBAGE.values.at[1, 2].set(0), GARBAGE.mask)
    found = find(jl.serial(lambda x: x * x, jnp.log), x, lambda y: y.mean().sum())
    assert place(found) == ("forward", "log", (), (1,))
    assert "Sequence float32[3, 5, 4], 4 infinite" in str(found)


def twice(f, x):
    y = f.shared(positive(x))
    return f.shared(y * 1e30) + f.other(y)


def test_a_child_that_is_called_twice():
    model = jl.compose(twice, shared=jl.serial(jl.Dense(4), jnp.square), other=jl.Dense(4))
    found = find(jl.serial(block=model))
    assert place(found)[:2] == ("forward", "block/shared/square")
    assert "  call:     1 of 0 to 1" in str(found).splitlines()


def test_code_between_children():
    def body(f, x):
        return f.second(jnp.log(f.first(x) * 0))

    model = jl.serial(block=jl.compose(body, first=jl.Dense(4), second=jl.Dense(4)))
    found = find(model)
    assert place(found)[:2] == ("forward", "block")
    assert str(found).startswith(
        "compose at 'block': its own code produces a non-finite value, before 'block/second'"
    )
    after = jl.compose(lambda f, x: f.first(x) / 0, first=jl.Dense(4))
    found = find(jl.serial(block=after))
    assert place(found)[:2] == ("forward", "block")
    assert "the outputs of its children are finite" in str(found)


def test_masked_scores_are_no_failure():
    def masked(x):
        return jnp.concatenate([x[:, :2], jnp.full_like(x[:, 2:], -jnp.inf)], 1)

    scores = jl.serial(jl.Dense(4), masked, jax.nn.softmax)
    assert find(scores) is None
    found = find(jl.serial(jl.Dense(4), masked, jax.nn.softmax, lambda x: x * 0, jnp.log))
    assert place(found)[:2] == ("forward", "log")


def test_the_first_to_run_of_two():
    def body(f, x):
        y = f.runs_first(x * 0)
        return y + f.runs_last(x * 0)

    model = jl.serial(block=jl.compose(body, runs_last=jnp.log, runs_first=jnp.log))
    assert place(find(model))[:2] == ("forward", "block/runs_first")


def unit_or_zero(x):
    length = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
    safe = jnp.broadcast_to(length > 0, x.shape)
    return jnp.where(
        safe, x / jnp.where(length > 0, length, jnp.ones_like(length)), jnp.zeros_like(x)
    )


def trap(x):
    return jnp.where(x > 0, jnp.log(x), jnp.zeros_like(x))


ZERO = X.at[3].set(0)
BACKWARD = [
    (jl.serial(jl.Dense(4, bias=False), inside=jl.serial(jnp.abs, jnp.sqrt)), "inside/sqrt"),
    (jl.serial(jl.Dense(4, bias=False), trap, jl.Dense(2)), "trap"),
    (jl.serial(jl.Dense(4, bias=False), inside=jl.serial(unit_or_zero)), "inside/unit_or_zero"),
    (jl.serial(jl.Dense(4, bias=False), jl.remat(jl.serial(jnp.abs, jnp.sqrt))), "serial/sqrt"),
]


@pytest.mark.parametrize(("model", "path"), BACKWARD, ids=[path for _, path in BACKWARD])
def test_backward_only(model, path):
    found = find(model, ZERO)
    assert found.kind == "backward"
    assert found.path == path
    assert found.rows == (3,) or path == "trap"
    assert 3 in found.rows
    text = str(found)
    assert "the gradient of its output is finite, that of its input is not" in text
    assert "have no gradient at 0" in text


def test_backward_in_one_copy():
    block = jl.serial(jl.Dense(4), lambda x: jnp.sqrt(jnp.abs(x)))
    params = {
        "deep/dense/kernel": lambda leaf: to(1.0)(leaf).at[2].set(0),
        "deep/dense/bias": lambda leaf: to(1.0)(leaf).at[2].set(0),
    }
    found = find(jl.serial(jl.Dense(4), deep=jl.repeat(block, 5)), params=params)
    assert place(found)[:3] == ("backward", "deep/lambda", ((2, 5),))


def test_a_gradient_that_nobody_needs():
    def body(f, x):
        return f.second(f.roots(x)) + f.third(x)

    roots = jl.compose(body, roots=jnp.sqrt, second=jl.Dense(2), third=jl.Dense(2))
    assert find(roots, ZERO) is None

    def after(f, x):
        y = f.hidden(x)
        return y + f.last(f.roots(x))

    hidden = jl.serial(jl.Dense(4, bias=False), jnp.abs, jnp.sqrt)
    model = jl.compose(after, hidden=hidden, roots=jnp.sqrt, last=jl.Dense(4))
    assert place(find(model, ZERO)) == ("backward", "hidden/sqrt", (), (3,))


def test_backward_in_code_between_children():
    def body(f, x):
        return f.second(jnp.sqrt(f.first(x) * 0))

    model = jl.serial(block=jl.compose(body, first=jl.Dense(4), second=jl.Dense(4)))
    found = find(model)
    assert place(found)[:2] == ("backward", "block")
    assert "produces a non-finite gradient, for 'block/first'" in str(found)


def test_a_parameters_gradient():
    def body(f, x):
        return x * jnp.sqrt(f.param("scale", jax.nn.initializers.zeros, ()))

    found = find(jl.serial(jl.Dense(4), scaled=jl.compose(body)))
    assert place(found)[:2] == ("backward", "scaled")
    assert "that of its parameters is not" in str(found)
    assert "of the parameters 1 infinite" in str(found) or "of the parameters 1 NaN" in str(found)


def log_loss(y, labels):
    return -jnp.mean(jnp.log(y)[jnp.arange(8), labels])


def test_the_loss():
    labels = jnp.zeros(8, jnp.int32)
    model = jl.serial(jl.Dense(3), lambda x: x.at[6, 0].set(0) * x)
    positive_model = jl.serial(model, jnp.abs)
    found = find(positive_model, X, log_loss, (labels,))
    assert place(found) == ("loss", "", (), (6,))
    head, *lines = str(found).splitlines()
    assert head == "loss: the model's output is finite, the loss is inf"
    assert lines[0] == "  loss:     log_loss"
    assert "optax.softmax_cross_entropy" in lines[-1]


def test_an_id_and_a_label_that_are_out_of_range():
    ids = jnp.asarray([0, 4, 5, -5])
    found = find(jl.serial(jl.Embedding(5, 3), jl.Dense(1)), ids)
    assert place(found) == ("forward", "embedding", (), (2,))
    assert found.hint == "ids from 0 to 4: one out of range has a row of NaN"

    def loss(y, labels):
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    found = find(jl.Dense(3), jnp.ones((3, 2)), loss, (jnp.asarray([0, 3, 1]),))
    assert found.kind == "loss"
    assert found.hint == "labels from 0 to 2: the targets hold 3"


def test_the_losss_gradient():
    found = find(jl.serial(jl.Dense(3)), ZERO, lambda y: jnp.mean(jnp.sqrt(jnp.abs(y))))
    assert place(found) == ("loss gradient", "", (), (3,))
    assert str(found).startswith("loss: the loss is finite, its gradient by the model's output")


def test_float16_that_overflows_backward_only():
    x = X.astype(jnp.float16)
    model = jl.serial(jl.Dense(4), inside=jl.serial(lambda x: x * 4))
    scale = LossScale(initial=2.0**15)
    run = start(model, x, loss_scale=scale)

    def loss(y):
        return jnp.sum(y.astype(jnp.float32))

    found = find_non_finite(model, loss, run, (x,))
    assert place(found)[:2] == ("backward", "inside/lambda")
    assert "loss_scale=training.LossScale()" in str(found)
    assert find_non_finite(model, loss, start(model, x), (x,)) is None


def test_float16_that_overflows_forward():
    x = X.astype(jnp.float16)
    found = find(jl.serial(jl.Dense(4), lambda x: jnp.abs(x) + 1, big=lambda x: x * 60000 * 2), x)
    assert place(found)[:2] == ("forward", "big")
    assert "float16 ends at 65504" in str(found)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.float8_e4m3fn])
def test_other_types(dtype):
    def broken(x):
        return jnp.where(jnp.arange(8)[:, None] == jnp.full_like(X, 5, int), jnp.nan, X).astype(
            dtype
        )

    model = jl.serial(jl.Dense(4), cast=lambda x: x.astype(dtype), broken=broken)
    found = find(model, X, lambda y: jnp.sum(jnp.abs(y.astype(jnp.complex64))))
    assert place(found) == ("forward", "broken", (), (5,))
    assert "4 NaN" in str(found)


def test_a_batch_that_is_not_finite():
    x = {"image": X.at[1, 2].set(jnp.nan).at[6, 0].set(jnp.inf), "id": jnp.arange(8)}
    model = jl.serial(lambda x: x["image"], jl.Dense(2))
    found = find_non_finite(model, mean, start(model, x), (x,))
    assert place(found) == ("batch", "[0]['image']", (), (1, 6))
    assert str(found).splitlines() == [
        "batch at \"[0]['image']\": is not finite",
        "  holds:    float32[8, 4], 1 NaN and 1 infinite",
        "  first:    at [1, 2]",
        "  rows:     1, 6 (2 of 8)",
        "  hint:     fix the data, or leave these rows out",
    ]
    target = np.ones(8, np.float32)
    target[4] = np.nan
    model = jl.serial(jl.Dense(1))
    found = find(model, X, lambda y, target: jnp.mean(y[:, 0] - target), (target,))
    assert place(found) == ("batch", "[1]", (), (4,))


def test_a_valid_step_of_the_batch():
    x = GARBAGE._with(GARBAGE.values.at[1, 2, 3].set(jnp.inf))
    found = find(RECURRENT, x)
    assert place(found) == ("batch", "[0]", (), (1,))


def test_parameters_and_state_that_were_not_finite():
    model = jl.serial(jl.repeat(jl.Dense(4), 8))
    found = find(model, params={"dense/kernel": copy_to((7, 1, 2), jnp.nan)})
    assert place(found)[:2] == ("params", "dense/kernel")
    assert "  first:    at [7, 1, 2]" in str(found).splitlines()
    model = jl.serial(
        jl.compose(lambda f, x: x * f.variable("v", jax.nn.initializers.zeros, ()).value)
    )
    run = start(model, X)
    run = run._replace(state=jax.tree.map(to(jnp.inf), run.state))
    found = find_non_finite(model, mean, run, (X,))
    assert place(found)[:2] == ("state", "compose/v")


def test_a_new_state_that_is_not_finite():
    def body(f, x):
        seen = f.variable("seen", jax.nn.initializers.zeros, ())
        if f.train:
            seen.value = seen.value + jnp.max(x) * jnp.inf
        return x

    found = find(jl.serial(jl.Dense(2), keeps=jl.compose(body)))
    assert place(found)[:2] == ("new state", "keeps/seen")


def test_the_norm_alone():
    found = find(jl.serial(jl.Dense(2), head=jl.Dense(1)), X, lambda y: jnp.sum(y) * 1e30)
    assert found.kind == "norm"
    assert found.path in ("head/kernel", "head/bias", "dense/kernel", "dense/bias")
    assert "every number of the gradient is finite" in str(found)


def test_a_sum_of_gradients():
    model = jl.serial(both=jl.compose(lambda f, x: f.a(x) + f.a(x), a=jl.Dense(1, bias=False)))
    zero = {"both/a/kernel": to(0)}
    found = find(model, jnp.ones((2, 1)), lambda y: jnp.sum(y) * 1.5e38, params=zero)
    assert place(found)[:2] == ("gradient", "both/a/kernel")


def test_frozen_and_accumulated():
    def body(f, x):
        return x * jnp.sqrt(f.param("scale", jax.nn.initializers.zeros, ()))

    model = jl.serial(jl.Dense(4), scaled=jl.compose(body))
    assert find(model, frozen=("scaled/**",)) is None
    x = X.at[5, 0].set(0)
    model = jl.serial(jnp.log, jl.Dense(2))
    found = find(model, x, accumulate=4)
    assert place(found) == ("forward", "log", (), (5,))
    assert "float32[2, 4]" in str(found)
    assert "  rows:     5 (1 of 8)" in str(found).splitlines()


def test_the_key_is_the_steps_own():
    """A layer that fails for the draws of some steps only."""

    def body(f, x):
        return jnp.where(jax.random.bernoulli(f.key()), jnp.nan, 1.0) * x

    model = jl.serial(jl.Dense(2), chance=jl.compose(body))
    run = start(model, X)

    def fails(step):
        key = jax.random.fold_in(run.key, step)
        y, _ = model.apply(run.params, run.state, X, key=key, train=True)
        return not jnp.isfinite(y).all()

    steps = {fails(step): step for step in range(6)}
    for failed, step in sorted(steps.items()):
        found = find_non_finite(model, mean, run._replace(step=jnp.int32(step)), (X,))
        assert (found is not None) == failed
    assert found.path == "chance"


def by_hand(inner):
    """A pair with a child that leaves the child's state away, as one without state may."""

    def apply(params, state, x, *, key, train):
        return inner.apply(params["inner"], {}, x)[0], state

    return jl.Layer(
        lambda key, x: ({"inner": inner.init(key, x)[0]}, {}),
        apply,
        name="by_hand",
        children={"inner": inner},
        rebuild=lambda new: by_hand(new["inner"]),
    )


def test_a_pair_that_cannot_be_looked_into():
    inside = by_hand(jl.serial(positive, jl.Dense(4)))
    model = jl.serial(jl.Dense(4), inside=inside, last=jl.Dense(2))
    found = find(model, params={"inside/inner/dense/kernel": to(HUGE)})
    assert place(found)[:2] == ("forward", "inside")


def test_a_model_that_differentiates_forwards():
    def body(f, x):
        return jax.jvp(f.inner, (x,), (jnp.ones_like(x),))[1] / 0

    found = find(jl.serial(slope=jl.compose(body, inner=jl.Dense(4))))
    assert place(found)[:2] == ("forward", "")
    assert str(found).startswith("serial: its input is finite, its output is not")


WRONG = [
    (
        lambda: find_non_finite(mean, mean, start(DEEP, X), (X,)),
        "find_non_finite: model must be a Layer",
    ),
    (
        lambda: find_non_finite(DEEP, mean, start(DEEP, X), X),
        "find_non_finite: the batch must be a tuple",
        "(x, *targets)",
        "float32[8, 4]",
    ),
    (
        lambda: find(NET, IMAGES, accumulate=4),
        "find_non_finite: the batch cannot be split into 4 equal parts",
        "accumulate=4",
    ),
    (
        lambda: find_non_finite(DEEP, mean, start(DEEP, X), (X[:, :3],)),
        "Dense at *: its input has 3 features, and its parameters were made for*",
    ),
    (
        lambda: find_non_finite(DEEP, mean, start(DEEP, X)._replace(params={}), (X,)),
        "serial: params do not fit the model*",
    ),
    (
        lambda: find(DEEP, loss=lambda y: y),
        "find_non_finite: the loss must return a scalar",
    ),
]


@each(WRONG)
def test_errors(case):
    read(case)
