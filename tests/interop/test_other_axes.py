"""Convolutions that have more or fewer axes of size 1 there than here, or are dense layers here."""

import keras
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

RANDOM = np.random.default_rng(0)
L = keras.layers


def weights(name, *shape):
    return {
        f"{name}.weight": RANDOM.standard_normal(shape).astype("float32"),
        f"{name}.bias": RANDOM.standard_normal(shape[0]).astype("float32"),
    }


@pytest.mark.oracle("Keras")
def test_convolutions_of_keras():
    x = RANDOM.standard_normal((2, 9, 3)).astype("float32")
    with lenient():
        theirs = keras.Sequential([L.Input((9, 1, 3)), L.Conv2D(4, (5, 1)), L.Conv2D(6, 1)])
        want = np.asarray(theirs(x[:, :, None]))[:, :, 0]
    arrays = {w.path: w.numpy() for w in theirs.weights}
    for last in (jl.Dense(6), jl.Conv(6, 1)):
        model = jl.serial(jl.Conv(4, 5), last)
        plan = jl.interop.match(model, x, arrays)
        assert plan.matched[0].says == "Keras Conv: other axes of size 1"
        params, state = plan.load()
        np.testing.assert_allclose(model.apply(params, state, x)[0], want, rtol=1e-5, atol=1e-5)
        back = plan.export(params)
        assert back.keys() == arrays.keys()
        for name, array in back.items():
            np.testing.assert_array_equal(array, arrays[name])


def test_over_all_of_an_image():
    arrays = weights("head", 5, 3, 2, 4)
    x = RANDOM.standard_normal((1, 2, 4, 3)).astype("float32")
    model = jl.serial(jl.Flatten(), jl.Dense(5))
    y, _ = model.apply(*jl.interop.match(model, x, arrays).load(), x)
    want = np.einsum("nhwc,ochw->no", x, arrays["head.weight"]) + arrays["head.bias"]
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_where_both_have_both_kinds():
    """A layer takes an array of its own axes, whatever else would do."""
    arrays = weights("up", 6, 4) | weights("mix", 6, 4, 1, 1)
    model = jl.branch(a=jl.Conv(6, 1), b=jl.Dense(6))
    plan = jl.interop.match(model, jl.spec((1, 3, 3, 4)), arrays)
    assert plan.complete
    assert {pair.path: pair.names[0] for pair in plan.matched} == {
        "a": "mix.weight",
        "b": "up.weight",
    }
    plan = jl.interop.match(jl.Conv(6, (3, 1)), jl.spec((1, 5, 5, 4)), weights("up", 6, 4, 1))
    assert not plan.complete
