"""Where the parameters are right and the input is not, the input is blamed, by layer and size."""

import jax
import jax.numpy as jnp
from error_text import KEY, SEQUENCE, X, each, read

import jlayers as jl
from jlayers import Conv, Dense


def wrong(layer, made_for, given):
    """Applies the layer, with parameters made for one spec, to zeros of another."""
    params, state = layer.init(KEY, made_for)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), given)
    return lambda: layer.apply(params, state, zeros)


def of(*shape):
    return jl.spec(shape)


def positions(f, x):
    return x + f.param("table", jax.nn.initializers.zeros, x.shape[1:])[None]


EIGHT, NINE = of(4, 8), of(4, 9)

INPUTS = [
    (
        wrong(Dense(3), EIGHT, NINE),
        "Dense: its input has 9 features, and its parameters were made for 8",
        "expected: float32[4, 8]",
        "got:      float32[4, 9]",
    ),
    (
        wrong(jl.serial(encoder=jl.serial(jl.LayerNorm(), Dense(3)), head=Dense(2)), EIGHT, NINE),
        "LayerNorm at 'encoder/layer_norm': its input has 9 features, and its parameters were*",
        "layer:    LayerNorm()  (",
        "got:      float32[4, 9]",
    ),
    (
        wrong(jl.serial(Conv(4, 3), jl.Flatten(), Dense(2)), of(2, 9, 9, 1), of(2, 8, 8, 1)),
        "Dense at 'dense': its input has 144 features, and its parameters were made for 196",
        "expected: float32[2, 196]",
        "got:      float32[2, 144]",
        "before:   conv     float32[2, 8, 8, 1] -> float32[2, 6, 6, 4]",
        "          flatten  float32[2, 6, 6, 4] -> float32[2, 144]",
    ),
    (
        wrong(Conv(4, 3, groups=2), of(2, 9, 9, 4), of(2, 9, 9, 8)),
        "Conv: its input has 8 features, and its parameters were made for 4",
    ),
    (
        wrong(jl.bidirectional(jl.LSTM(3)), of(2, 5, 7), of(2, 5, 6)),
        "LSTM at 'forward': its input has 6 features, and its parameters were made for 7",
    ),
    (
        wrong(jl.SelfAttention(2), of(2, 5, 8), of(2, 5, 4)),
        "SelfAttention: its input has 4 features, and its parameters were made for 8",
    ),
    (
        wrong(jl.CrossAttention(2), (of(2, 5, 8), of(2, 3, 7)), (of(2, 5, 8), of(2, 3, 6))),
        "CrossAttention: its input has 6 features, and its parameters were made for 7",
        "expected: (float32[2, 5, 8], float32[2, 3, 7])",
        "got:      (float32[2, 5, 8], float32[2, 3, 6])",
    ),
    (
        wrong(jl.parallel(Dense(3), Dense(3)), (EIGHT, EIGHT), (EIGHT, NINE)),
        "Dense at 'dense_1': its input has 9 features, and its parameters were made for 8",
        "before:   dense  float32[4, 8] -> float32[4, 3]",
    ),
    (
        wrong(jl.residual(jl.remat(Dense(8)), Dense(8)), EIGHT, NINE),
        "Dense at 'body': its input has 9 features, and its parameters were made for 8",
    ),
    (
        wrong(jl.compose(positions), of(2, 5, 7), of(2, 6, 7)),
        "compose: its input has size 6 on axis 1, and its parameters were made for 5",
    ),
    (
        wrong(
            jl.LSTM(3),
            jl.Sequence(SEQUENCE, jl.spec((4, 10), bool)),
            jl.Sequence(of(4, 10, 7), jl.spec((4, 10), bool)),
        ),
        "LSTM: its input has 7 features, and its parameters were made for 6",
        "got:      Sequence float32[4, 10, 7]",
    ),
    (
        lambda: jax.jit(Dense(3).apply)(Dense(3).init(KEY, EIGHT)[0], {}, X),
        "Dense: its input has 5 features, and its parameters were made for 8",
    ),
]

# Here no other size of the input explains the difference.
PARAMETERS = [
    (
        lambda: Dense(4).apply(Dense(3).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 8))),
        "Dense: params do not fit the model: 2 different",
    ),
    (
        lambda: Dense(4).apply(Dense(3).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 9))),
        "Dense: params do not fit the model: 2 different",
    ),
    (
        lambda: Dense(8).apply(Dense(4).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 8))),
        "Dense: params do not fit the model: 2 different",
    ),
    (
        lambda: jl.serial(Dense(8), Dense(2)).apply(
            jl.serial(Dense(7), Dense(2)).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 9))
        ),
        "serial: params do not fit the model: 3 different",
    ),
    (
        lambda: Dense(4, bias=False).apply(Dense(4).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 9))),
        "Dense: params do not fit the model: 1 extra, 1 different",
    ),
    (
        lambda: jl.repeat(Dense(8), 2).apply(
            jl.repeat(Dense(8), 3).init(KEY, EIGHT)[0], {}, jnp.zeros((4, 8))
        ),
        "repeat: params do not fit the model: 2 different",
    ),
]


@each(INPUTS)
def test_the_input_is_blamed(case):
    read(case)


@each(PARAMETERS)
def test_the_parameters_are_shown_where_they_are_at_fault(case):
    read(case)
