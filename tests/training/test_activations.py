"""Statistics of activations in ``fit``: those of the captured values, and nothing else changes."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

MODEL = jl.serial(blocks=jl.repeat(jl.serial(jl.Dense(3), jax.nn.relu), 2), head=jl.Dense(1))
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def loss(y):
    return jnp.mean(y**2)


STEP = training.train_step(MODEL, loss, optax.sgd(0.1))


def fitted(*hooks):
    state = STEP.start(jax.random.key(0), X)
    return training.fit(STEP, state, [(X,)], steps=4, progress=False, hooks=list(hooks))


def test_records_hold_the_statistics_of_every_copy(tmp_path):
    pytest.importorskip("tensorboard")
    log = training.tensorboard(tmp_path)
    measuring = training.Activations(MODEL, X, "**/relu", every=2, loss=loss, log=log)
    found, plain = fitted(log, measuring), fitted()
    # The steps are those of a loop without it.
    for a, b in zip(jax.tree.leaves(found.state), jax.tree.leaves(plain.state), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)
    assert [record.step for record in found.records if len(record.metrics) > 1] == [2, 4]
    params, state = found.state.params, found.state.state
    (_, seen), _ = jl.capture(MODEL, "**/relu").apply(params, state, X)
    gradients = jl.capture(MODEL, "**/relu", what="gradient", of=loss)
    (_, slopes), _ = gradients.apply(params, state, X)
    metrics = found.records[-1].metrics
    assert len(metrics) == 1 + 2 * 2 * 3
    for kind, values in (("activations", seen), ("activation_gradients", slopes)):
        for i, value in enumerate(np.asarray(values["blocks/relu"])):
            name = f"{kind}/blocks/relu/{i}"
            np.testing.assert_allclose(metrics[f"{name}/mean"], value.mean(), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(metrics[f"{name}/std"], value.std(), rtol=1e-5, atol=1e-7)
            dead = (value == 0).all(0).mean()
            np.testing.assert_allclose(metrics[f"{name}/dead"], dead, rtol=1e-5)
    events = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    assert len(read.Tags()["histograms"]) == 4
    last = read.Histograms("activations/blocks/relu/1")[-1]
    value = np.asarray(seen["blocks/relu"][1])
    assert (last.step, last.histogram_value.num) == (4, value.size)
    np.testing.assert_allclose(last.histogram_value.max, value.max(), rtol=1e-5)
    assert sum(last.histogram_value.bucket) == value.size


def test_several_outputs_and_one_statistic():
    model = jl.serial(jl.Dense(2), both=lambda x: (x, 2 * x), sum=lambda pair: pair[0] + pair[1])
    step = training.train_step(model, loss, optax.sgd(0.1))
    measuring = training.Activations(model, X, "both", every=1, statistics="norm")
    state = step.start(jax.random.key(0), X)
    record = training.fit(step, state, [(X,)], steps=1, progress=False, hooks=[measuring]).records[
        -1
    ]
    one, two = (record.metrics[f"activations/both/{i}/norm"] for i in (0, 1))
    np.testing.assert_allclose(2 * one, two, rtol=1e-5)


def test_errors():
    with pytest.raises(jl.TrainingError) as error:
        training.Activations(MODEL, X, "head", statistics=("mean", "histogram"))
    assert "unknown statistics ('mean', 'histogram')" in str(error.value)
    assert "log=training.tensorboard(folder) for histograms" in str(error.value)
    with pytest.raises(jl.TrainingError, match="log takes no histograms"):
        training.Activations(MODEL, X, "head", log=print)
    with pytest.raises(jl.LayerError, match="the pattern 'heads' fits no layer"):
        training.Activations(MODEL, X, "heads")
    with pytest.raises(jl.TrainingError, match="every must be a positive int"):
        training.Activations(MODEL, X, "head", every=0)
    with pytest.raises(jl.TrainingError, match=r"Activations: loss must be a function of \(y\)"):
        training.Activations(MODEL, X, "head", loss=lambda y, target: y)
