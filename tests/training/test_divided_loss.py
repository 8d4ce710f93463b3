"""``accumulate=``: parts that hold different things give the step of the undivided batch.

The oracle is the undivided step, whose loss is the user's own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype(np.float32)
T = RNG.normal(size=(8, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8).astype(np.int32)
# With accumulate=4 the last part is nothing but filling, the one before it half.
VALID = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
WEIGHTS = RNG.uniform(size=8).astype(np.float32)
LENGTHS = [5, 5, 1, 1, 3, 2, 0, 0]


def sequence(features):
    values = RNG.normal(size=(8, 5, features)).astype(np.float32)
    return jl.Sequence.from_lengths(values, LENGTHS)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def square(y, t):
    return ((y - t) ** 2)[..., 0]


def weighted_by_class(y, labels):
    counts = jnp.bincount(labels, length=3)
    return (cross_entropy(y, labels) * (1 / jnp.maximum(counts, 1))[labels]).sum()


def two_denominators(y, t, valid, weights):
    first = (square(y, t) * valid).sum() / valid.sum()
    return first + 0.1 * (jnp.abs(y)[:, 0] * weights).sum() / weights.sum() + jnp.abs(y).mean()


def with_metrics(y, labels, valid):
    own, right = cross_entropy(y, labels), y.argmax(-1) == labels
    return (own * valid).sum() / valid.sum(), {
        "accuracy": (right * valid).sum() / valid.sum(),
        "right": right.sum(),
        "valid": valid.sum(),
        "one": jnp.int32(1),
    }


LOSSES = {
    "mean": (1, X, (T,), lambda y, t: square(y, t).mean()),
    "sum": (1, X, (T,), lambda y, t: square(y, t).sum()),
    "valid steps": (1, sequence(2), (sequence(1),), lambda y, t: y.map(square, t).mean()),
    "padded": (1, X, (T, VALID), lambda y, t, v: (square(y, t) * v).sum() / v.sum()),
    "at least one": (
        1,
        X,
        (T, VALID),
        lambda y, t, v: (square(y, t) * v).sum() / jnp.maximum(v.sum(), 1),
    ),
    "mean where": (1, X, (T, VALID), lambda y, t, v: jnp.mean(square(y, t), where=v)),
    "average": (1, X, (T, WEIGHTS), lambda y, t, w: jnp.average(square(y, t), weights=w)),
    "weights of sum 1": (1, X, (T, WEIGHTS), lambda y, t, w: (square(y, t) * (w / w.sum())).sum()),
    "two denominators": (1, X, (T, VALID, WEIGHTS), two_denominators),
    "class counts": (3, X, (LABELS,), weighted_by_class),
    "log softmax": (
        3,
        X,
        (LABELS,),
        lambda y, labels: -(jax.nn.log_softmax(y) * jax.nn.one_hot(labels, 3)).sum(-1).mean(),
    ),
    "a jitted loss": (1, X, (T, VALID), jax.jit(lambda y, t, v: jnp.mean(square(y, t), where=v))),
    "a loop over rows": (
        1,
        X,
        (T,),
        lambda y, t: jax.lax.map(lambda pair: jnp.abs(pair[0] - pair[1]).sum(), (y, t)).mean(),
    ),
    "the parameters": (
        1,
        X,
        (T,),
        lambda y, t, params: square(y, t).mean() + jnp.sqrt(jnp.sum(params["kernel"] ** 2)),
    ),
    "metrics": (3, X, (LABELS, VALID), with_metrics),
}


def taken(parts, features, x, targets, loss):
    step = training.train_step(jl.Dense(features), loss, optax.sgd(1.0), accumulate=parts)
    state = step.start(jax.random.key(0), x)
    new, metrics = jax.jit(step)(state, (x, *targets))
    return jax.tree.map(jnp.subtract, state.params, new.params), metrics


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_any_content_give_the_undivided_step(name):
    with jax.numpy_dtype_promotion("standard"):
        whole, parts = taken(1, *LOSSES[name]), taken(4, *LOSSES[name])
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-6)


MIXING = {
    "a root": lambda y, t: jnp.sqrt(square(y, t).mean()),
    "rows against rows": lambda y, t: cross_entropy(y @ y.T, jnp.arange(len(y))).mean(),
    "statistics of the batch": lambda y, t: ((y - y.mean(0, keepdims=True)) * t).mean(),
    "neighbouring rows": lambda y, t: ((y[1:] - y[:-1]) ** 2).mean(),
    "a running sum": lambda y, t: jnp.cumsum(y, 0).mean(),
    "the worst row": lambda y, t: square(y, t).max(),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_loss_that_cannot_be_divided_is_refused(name):
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(jl.TrainingError, match=r"accumulate= cannot divide this loss: .* rows"),
    ):
        taken(2, 1, X, (T,), MIXING[name])


def test_a_model_in_a_scan_of_parts_is_run_once_for_each():
    model = jl.serial(jl.Dense(4), jax.nn.tanh, jl.Dense(1))
    step = training.train_step(
        model, lambda y, t: square(y, t).mean(), optax.sgd(1.0), accumulate=4
    )
    products = functools.partial(
        str.count, str(jax.make_jaxpr(step)(step.start(jax.random.key(0), X), (X, T)))
    )
    plain = training.train_step(model, lambda y, t: square(y, t).mean(), optax.sgd(1.0))
    once = str(jax.make_jaxpr(plain)(plain.start(jax.random.key(0), X), (X, T)))
    assert products("dot_general") == once.count("dot_general")
