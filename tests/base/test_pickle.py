"""Pickles of layers: the call that built them, and functions by name."""

import functools
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES

import jlayers as jl

# Of functions that no module has under a name.
UNNAMED = {
    "self-attention, a pattern",
    "rnn of a user's cell",
    "a user's cell",
    "a function of a sequence",
    "causal",
    "stateless",
}


def described(model):
    layers = [(path, layer.kind, layer.maker) for path, layer in jl.walk(model)]
    return repr(model), model.site, layers


def body(f, x):
    return f.dense(x)


# JAX has a function of this name.
def outer(by):
    def scaled(x):
        return x * by

    return scaled


def shifted(by):
    def shift(x):
        return x + by

    return shift


@jl.factory
def Twice(features, activation=jnp.tanh):
    return jl.serial(jl.Dense(features), activation, jl.Dense(features))


def test_every_layer_of_the_table_is_pickled_unless_a_function_has_no_name():
    refused = set()
    for name, row in INSTANCES.items():
        try:
            data = pickle.dumps(row.layer)
        except jl.LayerError:
            refused.add(name)
            continue
        assert described(pickle.loads(data)) == described(row.layer), name
    assert refused == UNNAMED


@pytest.mark.parametrize(
    "model",
    [
        Twice(3),
        jl.compose(body, dense=Twice(3, activation=jax.nn.silu)),
        jl.serial(outer(3.0), shifted(2.0), functools.partial(jax.nn.gelu, approximate=False)),
        jl.Dense(3, kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")),
        jl.rewrite(jl.serial(jl.Dense(3), jl.Dense(2)), "dense_1", lambda _: jl.Embedding(5, 3)),
    ],
    ids=["factory", "compose", "functions", "initialiser", "rewritten"],
)
def test_layers_of_users(model):
    assert described(pickle.loads(pickle.dumps(model))) == described(model)


def test_what_it_computes_is_the_same(key):
    model = jl.serial(shifted(jnp.ones((1, 4))), jl.Dense(3), jl.Affine())
    again = pickle.loads(pickle.dumps(model))
    x = np.arange(8.0, dtype="float32").reshape(2, 4)
    params, state = model.init(key, x)
    np.testing.assert_array_equal(
        again.apply(params, state, x)[0], model.apply(params, state, x)[0]
    )


def test_functions_without_a_name_are_refused_and_named():
    with pytest.raises(jl.LayerError) as caught:
        pickle.dumps(jl.serial(jl.Dense(3), head=jl.serial(lambda x: x)))
    lines = str(caught.value).splitlines()
    assert "<lambda test_pickle.py" in lines[0]
    assert "cannot be pickled: no module has it under a name" in lines[0]
    assert (
        lines[-1] == "  hint:     def it in a module, not in a function; or pickle with cloudpickle"
    )


def test_a_closure_that_a_call_does_not_give_again_is_refused():
    count = iter(range(10))

    def made(x):
        def function(y):
            return y + x + kept

        kept = next(count)
        return function

    with pytest.raises(jl.LayerError, match="cannot be pickled"):
        pickle.dumps(jl.serial(made(1)))


def test_a_process_of_its_own_reads_it(tmp_path):
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(jl.serial(jl.LSTM(3), jax.nn.relu)))
    code = f"import pickle; print(pickle.load(open({str(path)!r}, 'rb')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "serial(LSTM(3), jax.nn.relu)"
