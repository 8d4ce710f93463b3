"""Targets that would be broadcast against the output raise; no other loss does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training
from jlayers.inspection.aligned_targets import check_targets

F = jnp.ones
INTS = jnp.zeros(4, jnp.int32)


def mse(y, t):
    return ((y - t) ** 2).mean()


def cross_entropy(y, labels):
    return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()


WRONG = {
    "(n, 1), (n,)": (mse, F((4, 1)), F(4)),
    "(n,), (n, 1)": (mse, F(4), F((4, 1))),
    "(n, t, 1), (n, t)": (mse, F((4, 4, 1)), F((4, 4))),
    "(1, t, 1), (1, t)": (mse, F((1, 5, 1)), F((1, 5))),
    "binary": (lambda y, t: optax.sigmoid_binary_cross_entropy(y, t).mean(), F((4, 1)), F(4)),
    "huber": (lambda y, t: optax.huber_loss(y, t).mean(), F((4, 1)), F(4)),
    "a jitted loss": (jax.jit(mse), F((4, 1)), F(4)),
    "where": (lambda y, t: jnp.where(t > 0, y, 0).mean(), F((4, 1)), F(4)),
    "accuracy": (lambda y, t: ((y > 0) == t).mean(), F((4, 1)), F(4) > 0),
    "dicts": (lambda y, t: mse(y["a"], t["b"]), {"a": F((4, 1))}, {"b": F(4)}),
    "weights": (lambda y, t, w: ((y - t) ** 2 * w).mean(), F((4, 1)), F((4, 1)), F(4)),
}
RIGHT = {
    "equal": (mse, F((4, 1)), F((4, 1))),
    "labels": (cross_entropy, F((4, 3)), INTS),
    "labels of one class": (cross_entropy, F((4, 1)), INTS),
    "one-hot of one class": (
        lambda y, t: -(jax.nn.one_hot(t, 1) * jax.nn.log_softmax(y)).mean(),
        F((4, 1)),
        INTS,
    ),
    "labels, time first": (lambda y, t: cross_entropy(y, t.T), F((5, 4, 3)), F((4, 5)).astype(int)),
    "target[:, None]": (lambda y, t: mse(y, t[:, None]), F((4, 1)), F(4)),
    "output[..., 0]": (lambda y, t: mse(y[..., 0], t), F((4, 4, 1)), F((4, 4))),
    "squeeze": (lambda y, t: mse(y.squeeze(-1), t), F((4, 1)), F(4)),
    "ravel": (lambda y, t: mse(y.ravel(), t), F((4, 1)), F(4)),
    "reshape": (lambda y, t: mse(y, t.reshape(y.shape)), F((4, 1)), F(4)),
    "weights of rows": (
        lambda y, t, w: (((y - t) ** 2).mean(-1) * w).mean(),
        F((4, 3)),
        F((4, 3)),
        F(4),
    ),
    "a mask of steps": (
        lambda y, t, m: (((y - t) ** 2)[..., 0] * m).sum(),
        F((4, 5, 1)),
        F((4, 5, 1)),
        F((4, 5)),
    ),
    "weights of classes": (
        lambda y, t, w: (w * (y - t) ** 2).mean(),
        F((4, 4)),
        F((4, 4)),
        F(4),
    ),
    "several quantiles": (lambda y, t: jnp.abs(y - t).mean(), F((4, 1)), F((4, 3))),
    "ranking": (
        lambda y, t: (jnp.sign(t[:, None] - t[None]) * (y - y.T)).mean(),
        F((4, 1)),
        F(4),
    ),
    "distances": (
        lambda y, t: jnp.exp(-((y[:, None] - t[None]) ** 2)).mean(),
        F((4, 1)),
        F((4, 1)),
    ),
    "vmap": (lambda y, t: jax.vmap(lambda a, b: (a[0] - b) ** 2)(y, t).mean(), F((4, 1)), F(4)),
    "a batch of one": (mse, F((1, 1)), F(1)),
    "actions": (lambda y, a: -jnp.take_along_axis(y, a[:, None], 1).mean(), F((4, 1)), INTS),
}


@pytest.mark.parametrize("name", WRONG)
def test_targets_that_would_be_broadcast_raise(name):
    loss, y, *targets = WRONG[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        jax.eval_shape(loss, y, *targets)
        with pytest.raises(jl.TrainingError, match="broadcast a target"):
            check_targets(loss, y, targets)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_meant_does_not_raise(name):
    loss, y, *targets = RIGHT[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        jax.eval_shape(loss, y, *targets)
        check_targets(loss, y, targets)


def test_the_step_and_the_evaluation_name_both():
    x, t = np.ones((4, 3), np.float32), np.ones(4, np.float32)
    step = training.train_step(jl.Dense(1), mse, optax.sgd(0.1))
    state = step.start(jax.random.key(0), x)
    evaluate = training.make_evaluator(jl.Dense(1), lambda y, t: {"mse": mse(y, t)}, [(x, t)])
    with jax.numpy_rank_promotion("allow"):
        for wrong in (lambda: step(state, (x, t)), lambda: evaluate(state)):
            with pytest.raises(jl.TrainingError) as caught:
                wrong()
            text = str(caught.value)
            assert "output (4, 1), batch/1 (4,)" in text
            assert "hint:     target[..., None], or output[..., 0]" in text
