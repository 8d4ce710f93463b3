"""States in and out against Keras (initial_state, return_state) and Flax (initial_carry), live."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from tables.tiers import named, sample

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from flax import linen as nn
from keras import layers as k

LENGTHS = np.asarray([3, 5, 1])
MASK = np.arange(5) < LENGTHS[:, None]
KERAS = {
    "LSTM": (k.LSTM, jl.LSTM, convert.same, "hc"),
    "GRU": (k.GRU, jl.GRU, convert.keras_gru, "h"),
    "SimpleRNN": (k.SimpleRNN, jl.SimpleRNN, convert.same, "h"),
}


def _keras(layer, shape):
    """Random weights, and ``call(weights, x, states)`` of a Keras layer."""
    with keras.StatelessScope(initialize_variables=False):
        layer.build(shape)
    two = isinstance(layer, k.Bidirectional)
    sides = {"forward": layer.forward_layer, "backward": layer.backward_layer} if two else {}
    own = {
        name: {variable.name: variable for variable in side.weights}
        for name, side in (sides or {"": layer}).items()
    }
    variables, tree = jax.tree.flatten(own if two else own[""])

    def call(weights, x, states):
        values = list(zip(variables, tree.flatten_up_to(weights), strict=True))
        with keras.StatelessScope(values):
            return tuple(layer(x, mask=jnp.asarray(MASK), initial_state=states))

    return convert.draw(jax.tree.unflatten(tree, variables)), call


@pytest.mark.parametrize(
    "case",
    sample(
        [
            (name, sequences, reverse, both_ways)
            for name in KERAS
            for sequences in (True, False)
            for reverse, both_ways in ((False, False), (True, False), (False, True))
        ],
        5,
        7,
    ),
    ids=str,
)
def test_keras(case):
    name, sequences, reverse, both_ways = case
    oracle, ours, conversion, states = KERAS[name]
    theirs = oracle(
        3,
        return_sequences=sequences,
        return_state=True,
        go_backwards=reverse,
        zero_output_for_mask=sequences,
    )
    layer = ours(3, return_sequences=sequences, reverse=reverse)
    if both_ways:
        theirs, layer = k.Bidirectional(theirs), jl.bidirectional(layer)
        conversion = convert.both_ways(conversion)
    layer = jl.carried(layer)
    weights, call = _keras(theirs, (3, 5, 4))
    x = convert.draw_input((3, 5, 4))
    count = len(states) * (1 + both_ways)
    first = [np.random.default_rng(i).normal(size=(3, 3)).astype(np.float32) for i in range(count)]

    def run(given, x):
        values = given["states"]
        sides = [dict(zip(states, values, strict=False))]
        if both_ways:
            sides.append(dict(zip(states, values[len(states) :], strict=True)))
        carry = {"forward": sides[0], "backward": sides[1]} if both_ways else sides[0]
        inputs = (jl.Sequence(x, jnp.asarray(MASK)), carry)
        (y, carry), _ = layer.apply(conversion(given["weights"]), {}, inputs)
        if sequences:
            y = jnp.flip(y.fill(), 1) if reverse else y.fill()
        sides = [carry["forward"], carry["backward"]] if both_ways else [carry]
        return (y, *(side[state] for side in sides for state in states))

    convert.compare(
        lambda given, x: call(given["weights"], x, given["states"]),
        run,
        {"weights": weights, "states": first},
        x,
    )


FLAX = {
    "LSTM": (nn.LSTMCell, jl.LSTM, convert.flax_lstm, "ch"),
    "GRU": (nn.GRUCell, jl.GRU, convert.flax_gru, "h"),
    "SimpleRNN": (nn.SimpleCell, jl.SimpleRNN, convert.flax_simple_rnn, "h"),
}


@pytest.mark.parametrize("reverse", sample([False, True], 1), ids=["forward", "reverse"])
@pytest.mark.parametrize("name", named(FLAX, "LSTM"))
def test_flax(name, reverse):
    cell, ours, conversion, states = FLAX[name]
    options = {"return_carry": True, "reverse": reverse, "keep_order": True}
    with jax.enable_x64(True):
        theirs = nn.RNN(cell(3, param_dtype=jnp.float64), **options)
        layer = jl.carried(ours(3, reverse=reverse))
        x = convert.draw_input((3, 5, 4), "float64")
        like = jax.eval_shape(theirs.init, jax.random.key(0), x)["params"]
        first = [np.random.default_rng(i).normal(size=(3, 3)) for i in range(len(states))]
        valid = MASK[..., None]

        # Their carry is a tuple (c, h), or one array.
        def flax(given, x):
            carry = tuple(given["states"]) if len(states) > 1 else given["states"][0]
            after, y = theirs.apply(
                {"params": given["weights"]}, x, seq_lengths=LENGTHS, initial_carry=carry
            )
            return (jnp.where(valid, y, 0), *(after if len(states) > 1 else (after,)))

        def run(given, x):
            carry = dict(zip(states, given["states"], strict=True))
            inputs = (jl.Sequence.from_lengths(x, LENGTHS), carry)
            (y, carry), _ = layer.apply(conversion(given["weights"]), {}, inputs)
            return (y.fill(), *(carry[state] for state in states))

        convert.compare(flax, run, {"weights": convert.draw(like), "states": first}, x)
