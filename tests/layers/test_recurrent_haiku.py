"""Recurrent layers against Haiku's cores, and convolutional ones against Flax's, in float64."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def forget(values):
    """Gates i, g, f, o, and 1 added to f in the step."""
    i, g, f, o = jnp.split(values, 4, axis=-1)
    return jnp.concatenate([i, f + 1 if values.ndim == 1 else f, g, o], -1)


def lstm(weights, name="lstm"):
    """One kernel for the input and h."""
    both, bias = (weights[f"{name}/linear"][key] for key in "wb")
    size = both.shape[1] // 4
    kernel, recurrent = jnp.split(forget(both), [both.shape[0] - size])
    return {"kernel": kernel, "recurrent_kernel": recurrent, "bias": forget(bias)}


def gru(weights):
    """Gates z, r, n, and z of the new value, where ours is of the old one."""

    def turned(values):
        z, r, n = jnp.split(values, 3, axis=-1)
        return jnp.concatenate([r, -z, n], -1)

    names = {"kernel": "w_i", "recurrent_kernel": "w_h", "bias": "b"}
    return {ours: turned(weights["gru"][theirs]) for ours, theirs in names.items()}


def simple_rnn(weights):
    """Two layers, a bias in each of them."""
    left, right = (weights[f"vanilla_rnn/{name}"] for name in ("linear", "linear_1"))
    return {"kernel": left["w"], "recurrent_kernel": right["w"], "bias": left["b"] + right["b"]}


def conv_lstm(weights, rank):
    left, right = (
        weights[f"conv{rank}_dlstm/{name}"] for name in ("input_to_hidden", "hidden_to_hidden")
    )
    bias = forget(left["b"] + right["b"])
    return {"kernel": forget(left["w"]), "recurrent_kernel": forget(right["w"]), "bias": bias}


def with_skips(f, x):
    first = f.first(x)
    second = f.second(jnp.concatenate([x, first], -1))
    return jnp.concatenate([first, second], -1)


RESETS = np.array([[0, 0, 1, 0, 1], [1, 0, 0, 1, 0]], bool)
# Haiku's core, our layer, conversion, shape of the input
CORES = {
    "LSTM": (lambda: hk.LSTM(3), jl.LSTM(3), lstm, (2, 5, 4)),
    "GRU": (lambda: hk.GRU(3), jl.GRU(3, reset_after=False), gru, (2, 5, 4)),
    "VanillaRNN": (
        lambda: hk.VanillaRNN(3),
        jl.SimpleRNN(3, activation=jax.nn.relu),
        simple_rnn,
        (2, 5, 4),
    ),
    "Conv1DLSTM": (
        lambda: hk.Conv1DLSTM((4,), 3, 2),
        jl.ConvLSTM(3, 2),
        lambda w: conv_lstm(w, 1),
        (2, 5, 4, 2),
    ),
    "Conv2DLSTM": (
        lambda: hk.Conv2DLSTM((4, 3), 3, (3, 2)),
        jl.ConvLSTM(3, (3, 2)),
        lambda w: conv_lstm(w, 2),
        (2, 5, 4, 3, 2),
    ),
    "with skips": (
        lambda: hk.deep_rnn_with_skip_connections([hk.LSTM(3), hk.LSTM(2)]),
        jl.compose(with_skips, first=jl.LSTM(3), second=jl.LSTM(2)),
        lambda w: {"first": lstm(w), "second": lstm(w, "lstm_1")},
        (2, 5, 4),
    ),
    "ResetCore": (
        lambda: hk.ResetCore(hk.LSTM(3)),
        jl.serial(lambda x: (x, jnp.asarray(RESETS)), lstm=jl.LSTM(3)),
        lambda w: {"lstm": lstm(w)},
        (2, 5, 4),
    ),
}


@pytest.mark.oracle("Haiku")
@pytest.mark.parametrize("name", sample([*CORES], 5, 6))
def test_core(name):
    core, layer, conversion, shape = CORES[name]

    def unroll(x):
        made = core()
        state = jax.tree.map(lambda leaf: leaf.astype(x.dtype), made.initial_state(x.shape[0]))
        steps = (x, jnp.asarray(RESETS)) if name == "ResetCore" else x
        return hk.dynamic_unroll(made, steps, state, time_major=False)[0]

    oracle = hk.without_apply_rng(hk.transform(unroll))
    x = convert.draw_input(shape, "float64")
    with convert.lenient():
        weights = convert.draw(jax.eval_shape(oracle.init, jax.random.key(0), x))
    apply = jl.without_state(layer).apply
    convert.compare(oracle.apply, lambda w, x: apply(conversion(w), x), weights, x)


@pytest.mark.oracle("Flax")
@pytest.mark.parametrize("rank", [1, 2])
def test_conv_lstm_of_flax(rank):
    cell = nn.ConvLSTMCell(3, (2, 3)[:rank], param_dtype="float64")
    oracle = nn.RNN(cell)
    x = convert.draw_input((2, 4, *(5, 4)[:rank], 2), "float64")
    with convert.lenient():
        weights = convert.draw(jax.eval_shape(oracle.init, jax.random.key(0), x))

    def conversion(weights):
        left, right = (weights["params"]["cell"][name] for name in ("ih", "hh"))
        kernels = {"kernel": forget(left["kernel"]), "recurrent_kernel": forget(right["kernel"])}
        return kernels | {"bias": forget(left["bias"] + right["bias"])}

    apply = jl.without_state(jl.ConvLSTM(3, (2, 3)[:rank])).apply
    convert.compare(oracle.apply, lambda w, x: apply(conversion(w), x), weights, x)
