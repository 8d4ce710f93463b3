"""sleepecg 0.6.0: stages of sleep from the heart beats of a night, in half minutes.

Its three classifiers are `.keras` files in zip files: batch norm, a dense layer, two bidirectional
GRUs and a softmax. A step whose 36 features are all -1 is masked, wherever it is: Keras hands the
state over it, and so does a ``Sequence``.
"""

import pathlib
import tempfile
import zipfile

import jax
import numpy as np

import jlayers as jl

from . import wheels

CLASSIFIERS = ("ws-gru-mesa", "wrn-gru-mesa", "wrn-gru-mesa-weighted")


def network(classes):
    """From features (B, T, 36) to probabilities (B, T, classes), in a ``Sequence``."""
    return jl.serial(
        lambda x: jl.Sequence(x, (x != -1).any(-1)),
        jl.BatchNorm(epsilon=1e-3),
        jl.Dense(64),
        jax.nn.relu,
        jl.bidirectional(jl.GRU(8)),
        jl.bidirectional(jl.GRU(8)),
        jl.Dense(classes),
        jax.nn.softmax,
    )


def nights(state):
    """Two nights of features of the size that the file has seen: (2, 960, 36).

    As sleepecg prepares them: -1 where a feature is missing, and where the shorter night has no
    step, which is at the front. Some steps in the middle are missing as a whole.
    """
    random = np.random.default_rng(0)
    norm = state["batch_norm"]
    x = norm["mean"] + np.sqrt(norm["var"]) * random.standard_normal((2, 960, 36), np.float32)
    x = np.where(random.random(x.shape) < 0.02, np.float32(-1), x)
    x[1, :200] = -1
    x[0, 500:503] = -1
    return x


def results():
    """Every classifier beside Keras, at the steps that are not masked."""
    import keras

    for name in CLASSIFIERS:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(wheels.path("sleepecg", f"classifiers/{name}.zip")) as file:
                file.extract("classifier.keras", folder)
            path = pathlib.Path(folder, "classifier.keras")
            arrays = dict(jl.interop.read(path))
            original = keras.models.load_model(path, compile=False)
        model = network(original.output_shape[-1])
        params, state = jl.interop.match(model, jl.spec((1, 8, 36)), arrays).load()
        x = nights(state)
        y, _ = jax.jit(model.apply)(params, state, x)
        want = np.asarray(original(x))[np.asarray(y.mask)]
        difference, scale = wheels.largest_difference([y.values[y.mask]], [want])
        inputs = "two nights of features, drawn, with gaps"
        yield wheels.Result(
            f"sleepecg {name}", f"keras {keras.__version__}", inputs, difference, scale
        )
