"""Numbers that prove nothing, and originals that change: what ``verify`` says of them."""

import jax.numpy as jnp
import keras
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

verify = jl.interop.verify
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((4, 6)).astype("float32")
KERNEL = RANDOM.standard_normal((6, 3)).astype("float32")
MODEL, PARAMS = jl.serial(jl.Dense(3, bias=False)), {"dense": {"kernel": KERNEL}}
NAN = np.where(np.arange(4)[:, None] == 1, np.float32("nan"), X)
LARGE = np.full((4, 6), 3_000_000)
# The model, its input, what the original gives, and whether they agree.
CASES = {
    "a scalar": (jnp.mean, X, X.mean(), True),
    "small": (lambda x: 1e-20 * x, X, 1e-20 * X, True),
    "small and wrong": (lambda x: 1e-20 * x, X, 2e-20 * X, False),
    "zeros": (lambda x: 0 * x, X, 0 * X, True),
    "zeros here alone": (lambda x: 0 * x, X, 1e-20 * X, False),
    "zeros there alone": (lambda x: 1e-20 * x, X, 0 * X, False),
    "below the smallest normal number": (lambda x: 0 * x, X, np.full((4, 6), 1e-40, "f"), True),
    "ids": (lambda x: x, LARGE, LARGE, True),
    "ids off by one": (lambda x: x + 1, LARGE, LARGE, False),
    "masks": (lambda x: x > 0, X, X < 0, False),
    "infinities": (lambda x: x * jnp.inf, X, X * np.inf, True),
    "another infinity": (lambda x: x * jnp.inf, X, -X * np.inf, False),
    "NaN here alone": (lambda x: x, NAN, X, False),
    "NaN there alone": (lambda x: x, X, NAN, False),
    "NaN in both": (lambda x: x, NAN, NAN, False),
    "all NaN": (lambda x: x, X * np.float32("nan"), X * np.float32("nan"), False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_agrees(name):
    model, x, there, agrees = CASES[name]
    assert verify(model, {}, {}, {"output": there}, x).ok == agrees


def test_nan_in_both_is_told():
    there = {"fc": NAN @ KERNEL, "output": np.tanh(NAN @ KERNEL)}
    model = jl.serial(jl.Dense(3, bias=False), jnp.tanh)
    report = verify(model, PARAMS, {}, there, NAN)
    # Inside it may be masked later, and is told; in the output it proves nothing.
    assert [(row.path, row.nans, row.ok) for row in report.rows] == [
        ("dense", 3, True),
        ("tanh", 3, True),
        ("", 3, False),
    ]
    assert "3 NaN in both, <- departs first" in str(report)
    with pytest.raises(jl.InteropError) as raised:
        report.check()
    assert "3 NaN in both" in str(raised.value)
    assert "NaN in both proves nothing: look at x" in str(raised.value)


def test_an_input_that_is_not_the_recorded_one():
    there = {"input": X, "output": X @ KERNEL}
    assert verify(MODEL, PARAMS, {}, there, X).ok
    report = verify(MODEL, PARAMS, {}, there, 2 * X)
    assert report.hint == "x is not the recorded 'input': leave it out"


def test_bytes_that_are_not_onnx():
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, b"text", X)
    assert "the bytes are not an ONNX model" in str(raised.value)


def test_errors_show_the_layer_and_not_its_tap():
    with pytest.raises(jl.LayerError) as raised:
        verify(MODEL, {}, {}, {"output": X @ KERNEL}, X)
    assert "layer:    serial(Dense(3, bias=False))" in str(raised.value)


class Counting(keras.layers.Layer):
    """Counts its calls, and draws at random whatever ``training`` is."""

    def __init__(self, rate):
        super().__init__(name="counting")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds, self.rate = keras.random.SeedGenerator(0), rate

    def call(self, x):
        self.count.assign(self.count + 1)
        return x + self.rate * keras.random.normal((6,), seed=self.seeds)


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("rate", [0, 1])
def test_a_keras_model_is_left_as_it_was_and_may_be_random(rate):
    net = keras.Sequential([Counting(rate), keras.layers.Dense(3, use_bias=False)])
    with lenient():
        net.build((None, 6))
    net.layers[1].kernel.assign(KERNEL)
    before = [np.asarray(each) for each in net.non_trainable_variables]
    report = verify(MODEL, PARAMS, {}, net, X)
    for each, kept in zip(net.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(each, kept)
    assert report.ok == (rate == 0)
    says = "the original is not the same each time it runs, first at 'counting'"
    assert report.hint == (says if rate else None)


@pytest.mark.oracle("Keras")
def test_what_a_keras_layer_raises_is_shown_whole():
    class Failing(keras.layers.Layer):
        def call(self, x):
            raise ValueError("such an input")

    net = keras.Sequential([Failing()])
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, net, X)
    assert "such an input" in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert "call" not in vars(net.layers[0])
