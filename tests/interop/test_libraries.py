"""Whose arrays they are, where two libraries have the same names and shapes for another order."""

import jax
import keras
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

RANDOM = np.random.default_rng(0)
LAYERS = {
    "gru": (
        keras.layers.GRU(3, reset_after=False, name="gru"),
        jl.GRU(3, reset_after=False, return_sequences=False),
        (2, 5, 4),
    ),
    "transposed": (
        keras.layers.Conv1DTranspose(4, 3, name="conv_transpose"),
        jl.ConvTranspose(4, 3),
        (2, 5, 4),
    ),
}


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("case", LAYERS)
def test_the_format_or_the_caller_says_whose_arrays_they_are(tmp_path, case):
    layer, ours, shape = LAYERS[case]
    x = RANDOM.standard_normal(shape).astype("float32")
    with lenient():
        theirs = keras.Sequential([keras.Input(shape[1:]), layer])
        want = np.asarray(theirs(x))
    model = jl.serial(ours)
    theirs.save(tmp_path / "model.keras")
    theirs.save(tmp_path / "model.h5")
    plans = [jl.interop.match(model, x, jl.interop.read(file)) for file in tmp_path.iterdir()]
    arrays = {w.path: w.numpy() for w in theirs.weights}
    plans.append(jl.interop.match(model, x, arrays, library="keras"))
    assert len(plans) == 3
    for plan in plans:
        y, _ = model.apply(*plan.load(), x)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(jl.InteropError, match="may be of keras or flax") as caught:
        jl.interop.match(model, x, arrays)
    text = str(caught.value)
    assert "or 'as it is' for " in text or "or 'the same names' for " in text
    assert "match(..., library='keras'), or 'flax'" in text
    # Another layer that has names of Keras alone says it too.
    both = jl.serial(ours, jl.LayerNorm())
    with lenient():
        theirs.add(keras.layers.LayerNormalization(epsilon=1e-5))
        want = theirs(x)
    plan = jl.interop.match(both, x, {w.path: w.numpy() for w in theirs.weights})
    np.testing.assert_allclose(both.apply(*plan.load(), x)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS)
def test_our_own_names_are_our_own_order(tmp_path, case):
    _, ours, shape = LAYERS[case]
    model = jl.serial(ours)
    params, _ = model.init(jax.random.key(0), jl.spec(shape))
    file = jl.interop.write(tmp_path / "w.safetensors", jl.flatten(params))
    plan = jl.interop.match(model, jl.spec(shape), jl.interop.read(file))
    jax.tree.map(np.testing.assert_array_equal, plan.load()[0], params)
