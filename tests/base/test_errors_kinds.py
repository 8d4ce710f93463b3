"""The class of an error says what it concerns: a layer, a checkpoint, the data or the training."""

import jax
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

MODEL = jl.Dense(2)
BATCH = (np.ones((4, 3), np.float32), np.zeros(4, np.int32))
TX = optax.sgd(0.1)


def loss(y, target):
    return optax.softmax_cross_entropy_with_integer_labels(y, target).mean()


def state():
    return training.train_state(MODEL, TX, jax.random.key(0), jl.spec((4, 3)))


# (what goes wrong, in a folder; the class)
KINDS = {
    "a layer's argument": (lambda path: jl.Dense(0), jl.LayerError),
    "a layer's input": (lambda path: MODEL.init(jax.random.key(0), jl.spec(())), jl.LayerError),
    "a combinator's argument": (lambda path: jl.repeat(MODEL, 0), jl.LayerError),
    "a leaf": (
        lambda path: training.save_checkpoint(path / "a", {"a": "b"}, step=0),
        jl.CheckpointError,
    ),
    "a shared check in checkpoint": (
        lambda path: training.CheckpointManager(path, keep=0),
        jl.CheckpointError,
    ),
    "no checkpoint": (lambda path: training.read_arrays(path / "none"), jl.CheckpointError),
    "no data": (lambda path: training.as_source(3), jl.DataError),
    "a shared check in data": (lambda path: training.Batches(BATCH, 0), jl.DataError),
    "a shared check of a key in data": (
        lambda path: training.Batches(BATCH, 2, key=0.5),
        jl.DataError,
    ),
    "a step's argument": (
        lambda path: training.train_step(MODEL, loss, TX, clip=-1),
        jl.TrainingError,
    ),
    "a shared check in training": (
        lambda path: training.train_step(MODEL, loss, TX, steps=0),
        jl.TrainingError,
    ),
    "a shared check in a class of training": (
        lambda path: training.EarlyStopping("loss", patience=0),
        jl.TrainingError,
    ),
    "a pattern of frozen": (
        lambda path: training.train_state(
            MODEL, TX, jax.random.key(0), jl.spec((4, 3)), frozen="nose/**"
        ),
        jl.TrainingError,
    ),
    "a batch": (lambda path: training.train_step(MODEL, loss, TX)(state(), 3), jl.TrainingError),
    "data in fit": (
        lambda path: training.fit(training.train_step(MODEL, loss, TX), state(), 3, steps=1),
        jl.DataError,
    ),
    "a layer in a step": (
        lambda path: training.train_step(MODEL, loss, TX)(state(), (np.ones((4, 7)), BATCH[1])),
        jl.LayerError,
    ),
    "a layer made in a function of training": (
        lambda path: training.train_state(
            jl.lift(lambda x: jl.Dense(0)), TX, jax.random.key(0), jl.spec((4, 3))
        ),
        jl.LayerError,
    ),
}


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("filtering", ["auto", "off"])
def test_the_class_says_what_it_concerns(what, filtering, tmp_path):
    wrong, kind = KINDS[what]
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", filtering)
    try:
        with pytest.raises(kind) as caught:
            wrong(tmp_path)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert type(caught.value) is kind or kind is jl.CheckpointError
    assert isinstance(caught.value, jl.JlayersError)
    assert isinstance(caught.value, ValueError)
    assert type(caught.value).__module__.startswith("jlayers")


def test_special_errors_have_the_class_of_their_concern():
    assert issubclass(training.NonFiniteError, jl.TrainingError)
    assert issubclass(training.CorruptCheckpointError, jl.CheckpointError)
