"""What is wrong with a carry that is given, a layer that has none, and a context."""

import jax.numpy as jnp
from error_text import KEY, each, init, read

import jlayers as jl
from jlayers import decoding

STEPS = jl.spec((2, 6, 4))
X, IDS = jnp.ones((2, 6, 4)), jnp.ones((2, 3), jnp.int32)
STACK = jl.carried(jl.serial(jl.Conv(4, 2, padding="CAUSAL"), jl.LSTM(3)))
PARAMS, STATE = STACK.init(KEY, X)
H = jnp.zeros((2, 3))


def applied(carry, x=X):
    return STACK.apply(PARAMS, STATE, (x, carry))


def decoded(body, **children):
    model = jl.compose(body, embed=jl.Embedding(7, 8), head=jl.Dense(7), **children)
    params, state = model.init(KEY, (IDS, X))
    return decoding.generate(model, params, state, IDS, 2, context=X)


def _of_itself(f, inputs):
    x = f.embed(inputs[0])
    return f.head(x + f.attend((x, f.encoder(x))))


def _of_its_own_end(f, inputs):
    x = f.embed(inputs[0])
    _, carry = f.encoder(x)
    return f.head(f.decoder((x, carry))[0])


CARRIES = [
    (
        lambda: applied({"lstm_1": {"h": H}}),
        "serial: the carry does not fit the layer and x: 1 extra",
        "expected: the carry that the layer gives for x float32[2, 6, 4]",
        "extra      lstm_1/h  float32[2, 3]",
    ),
    (
        lambda: init(STACK, (STEPS, {"lstm": {"h": jl.spec((3, 3))}})),
        "serial: the carry does not fit the layer and x: 1 different",
    ),
    (
        lambda: applied({"lstm": {"h": jnp.zeros((3, 3))}}),
        "serial: the carry does not fit the layer and x: 1 different",
        "different  lstm/h  expected float32[2, 3], got float32[3, 3]",
    ),
    (
        lambda: applied({"lstm": H}),
        "serial: the carry does not fit the layer and x: 2 missing, 1 extra",
        "extra      lstm    float32[2, 3]",
    ),
    (
        lambda: applied({"lstm": {"c": H.astype(jnp.bfloat16)}}),
        "serial: the carry has another dtype than the layer's at 'lstm/c'",
        "expected: float32[2, 3]",
        "got:      bfloat16[2, 3]",
        "hint:     astype('float32')",
    ),
    (
        lambda: init(jl.carried(jl.serial(jl.Conv(4, 3, padding="SAME"), jl.LSTM(3))), STEPS),
        "Conv at 'conv': cannot be streamed: its windows reach later steps",
    ),
    (
        lambda: init(
            jl.carried(jl.serial(jl.bidirectional(jl.GRU(3)), jl.SelfAttention(2))), STEPS
        ),
        "SelfAttention at 'self_attention': cannot be streamed: every step sees the later ones",
    ),
    (
        lambda: init(jl.carried(jl.SelfAttention(2, causal=True)), STEPS),
        "SelfAttention: attention to all steps needs to know for how many it keeps room",
    ),
    (
        lambda: init(
            jl.carried(jl.compose(lambda f, x: f.rnn(x - x.mean(1, keepdims=True)), rnn=jl.GRU(3))),
            STEPS,
        ),
        "compose: cannot be streamed: the body mixes steps",
    ),
    (lambda: jl.carried(jl.LSTM(3), capacity=0), "carried: capacity must be a positive int, got 0"),
    (
        lambda: init(jl.bidirectional(jl.carried(jl.GRU(3))), STEPS),
        "bidirectional: gives a carry in each direction, which is not to be reversed",
        "hint:     carried(bidirectional(layer))",
    ),
]
CONTEXTS = [
    (
        lambda: decoding.generate(STACK, PARAMS, STATE, IDS, 2, context=jnp.ones((3, 4))),
        "generate: the context must have the rows of the prompt",
        "expected: [2, ...]",
        "got:      float32[3, 4]",
        "hint:     jnp.repeat(context, rows, 0) for one context of all rows",
    ),
    (
        lambda: decoded(
            _of_itself, encoder=jl.once(jl.bidirectional(jl.GRU(4))), attend=jl.CrossAttention(2)
        ),
        "generate: cannot be streamed: its output depends on later steps",
    ),
    (
        lambda: decoded(
            _of_its_own_end, encoder=jl.carried(jl.LSTM(8)), decoder=jl.carried(jl.LSTM(8))
        ),
        "generate: cannot be streamed: its output depends on later steps",
    ),
]


@each(CARRIES, CONTEXTS)
def test_texts(case):
    read(case)
