"""What is wrong with a Sequence, a stream or a carry: where, expected, got, and the hint."""

import jax.numpy as jnp
import numpy as np
from error_text import KEY, each, init, read

import jlayers as jl

STEPS = jl.spec((2, 6, 4))
X = jnp.ones((2, 6, 4))
CAUSAL = jl.serial(jl.Conv(4, 2, strides=2, padding="CAUSAL"), jl.LSTM(3))
PARAMS, STATE = CAUSAL.init(KEY, X)


def started(layer, x=X):
    params, state = layer.init(KEY, x)
    return jl.stream(layer).start(params, state, x)


SEQUENCES = [
    (
        lambda: jl.Sequence(jnp.ones(3)),
        "a Sequence must be (batch, time, ...)",
        "got:      float32[3]",
    ),
    (
        lambda: jl.Sequence(X, jnp.ones((2, 5), bool)),
        "the mask of a Sequence does not fit its values",
        "expected: bool[2, 6]",
        "got:      bool[2, 5]",
    ),
    (
        lambda: jl.Sequence(X, jnp.asarray([3, 2])),
        "the mask of a Sequence does not fit its values",
        "hint:     Sequence.from_lengths(values, lengths)",
    ),
    (
        lambda: jl.Sequence.from_lengths(X, [1, 2, 3]),
        "from_lengths: lengths must be one integer for each row",
        "expected: int[2]",
        "got:      int32[3]",
    ),
    (
        lambda: jl.Sequence.from_lengths(X, jnp.ones(2)),
        "from_lengths: lengths must be integers",
    ),
    (
        lambda: jl.Sequence.from_lengths(X, [1, 7]),
        "from_lengths: a length is outside the sequence",
        "expected: 0 to 6",
        "got:      7",
    ),
    (lambda: jl.Sequence.from_rows([]), "from_rows: rows must be of shape (time, ...)"),
    (
        lambda: jl.Sequence.from_rows([np.zeros((2, 3)), np.zeros((2, 4))]),
        "from_rows: rows must have one dtype, and one shape but for their lengths",
        "got:      float64[2, 3], float64[2, 4]",
    ),
    (
        lambda: jl.Sequence.from_rows([np.zeros(5)], length=4),
        "from_rows: a row of 5 steps does not fit into 4",
    ),
    (
        lambda: jl.Sequence(X)[0],
        "a Sequence is indexed by slices of rows and steps",
        "hint:     x[:, :10]; x.values[...] for the numbers alone",
    ),
    (
        lambda: init(jl.serial(jl.Dense(3), lambda x: x.sum(1)), jl.Sequence(STEPS)),
        "lambda at 'lambda': a function of each step of a Sequence must return steps",
        "expected: [2, 6, ...]",
        "got:      float32[2, 3]",
        "hint:     jl.on_sequence(function) for a function of the whole Sequence",
    ),
    (
        lambda: init(jl.serial(jl.Conv(3, 2), jl.Flatten()), jl.Sequence(STEPS)),
        "Flatten at 'flatten': would put padding and steps of a Sequence together",
        "got:      Sequence float32[2, 5, 3]",
        "hint:     each_step(layer) for what each step holds; GlobalAvgPool() for one row",
    ),
    (
        lambda: init(jl.add(jl.Dense(3), jl.Conv(3, 2)), jl.Sequence(STEPS)),
        "add: merges arrays of one shape and dtype",
    ),
    (
        lambda: jl.Sequence(X) + jl.Sequence(X[:, :3]),
        "cannot join Sequences of different lengths",
        "got:      bool[2, 6] and bool[2, 3]",
    ),
    (
        lambda: init(jl.concat(axis=1), (jl.Sequence(STEPS), STEPS)),
        "concat: cannot concatenate Sequences and arrays along time",
        "hint:     jl.Sequence(x)",
    ),
]

BODIES = [
    (
        lambda: init(
            jl.compose(lambda f, x: jnp.mean(f.dense(x), 1), dense=jl.Dense(3)), jl.Sequence(STEPS)
        ),
        "compose: the body must return steps for a Sequence",
        "expected: (batch, time, ...)",
        "got:      float32[2, 3]",
        "hint:     GlobalAvgPool() or on_sequence(function) as a child for what mixes steps",
    ),
    (
        lambda: init(
            jl.compose(
                lambda f, x: f.n(jnp.reshape(x, (-1, 4))).reshape(x.shape), n=jl.BatchNorm()
            ),
            jl.Sequence(STEPS),
        ),
        "compose: the body mixes the steps and the padding of a Sequence before a child",
        "hint:     GlobalAvgPool(), each_step(layer) or on_sequence(function) as children for what",
    ),
    (
        lambda: init(jl.bidirectional(jl.GRU(3)), (STEPS, jl.spec((2, 6), bool))),
        "bidirectional: resets mark where an episode starts; backwards they mark where it ends",
        "got:      (float32[2, 6, 4], bool[2, 6])",
    ),
    (
        lambda: init(jl.on_sequence(jnp.tanh), jl.Sequence(STEPS)),
        "on_sequence: expected an array here, got a Sequence, which would lose its mask",
        "hint:     x.map(function), or the function as a child of its own; arithmetic works",
    ),
]

STREAMS = [
    (
        lambda: started(jl.serial(jl.branch(jl.Dense(4), jl.Dense(4)), jl.CrossAttention(2))),
        "serial: cannot be streamed: its output depends on later steps",
        "got:      ReceptiveField(stride=1, lookback=inf, lookahead=inf)",
    ),
    (
        lambda: started(jl.compose(lambda f, x: f.a(x[:, 1:]), a=jl.Dense(2))),
        "compose: cannot be streamed: the body mixes steps",
        "got:      `slice` shifts the steps",
    ),
    (
        lambda: jl.stream(jl.each_step(jl.BatchNorm())).step(
            *jl.each_step(jl.BatchNorm()).init(KEY, X), {}, X, train=True
        ),
        "each_step: has state, which a step cannot update: statistics are of whole batches",
    ),
    (
        lambda: jl.stream(CAUSAL).step(
            PARAMS, STATE, jl.stream(CAUSAL).start(PARAMS, STATE, X), X[..., :3]
        ),
        "serial: *",
    ),
    (
        lambda: started(jl.serial(jl.Dense(4), jl.Conv(4, 3, padding="SAME"))),
        "Conv at 'conv': cannot be streamed: its windows reach later steps",
        "hint:     padding='CAUSAL'",
    ),
    (
        lambda: started(jl.MaxPool(3, strides=2)),
        "MaxPool: cannot be streamed: its windows reach later steps",
        "hint:     padding='CAUSAL', or 'VALID' for windows no wider than their stride",
    ),
    (
        lambda: jl.stream(jl.MaxPool(2)).step({}, {}, {}, X[:, :1]),
        "MaxPool: the window (2,) is larger than the input (1,)",
        "hint:     blocks of a multiple of the model's stride: jl.receptive_field(model, x).stride",
    ),
    (
        lambda: started(
            jl.causal(
                lambda params, state, x, *, capacity: {},
                lambda params, state, carry, x, *, key, train: (x, {}),
                receptive_field=jl.ReceptiveField(2, 0, 2),
            )
        ),
        "causal: cannot be streamed: its receptive field has later steps",
    ),
    (
        lambda: started(jl.LSTM(3, reverse=True)),
        "LSTM: cannot be streamed: it reads the sequence from its end",
    ),
    (
        lambda: started(jl.GRU(3, return_sequences=False)),
        "GRU: cannot be streamed: it gives the last step alone",
    ),
    (
        lambda: started(jl.GroupNorm(2)),
        "GroupNorm: cannot be streamed: its statistics are those of the whole sequence",
    ),
    (
        lambda: started(jl.GlobalAvgPool()),
        "GlobalAvgPool: cannot be streamed: it is one value for the whole sequence",
    ),
    (
        lambda: started(jl.Flatten()),
        "Flatten: cannot be streamed: it puts all steps of a row together",
    ),
    (
        lambda: started(jl.on_sequence(jnp.tanh)),
        "on_sequence: cannot be streamed: it is a function of the whole sequence",
    ),
    (
        lambda: started(jl.ensemble(jl.Dense(3), 2)),
        "ensemble: cannot be streamed: its output does not begin with (batch, time)",
    ),
    (
        lambda: jl.stream(CAUSAL).step(
            PARAMS, STATE, jl.stream(CAUSAL).start(PARAMS, STATE, X), X[:, :3]
        ),
        "Conv at 'conv': a block of 3 steps is not a multiple of the stride 2",
        "hint:     blocks of a multiple of the model's stride: jl.receptive_field(model, x).stride",
    ),
    (
        lambda: jl.stream(CAUSAL).step(PARAMS, STATE, {}, X),
        "serial: the carry does not fit the model and the block: 3 missing",
        "expected: the carry that start gives for x float32[2, 6, 4]",
        "missing    conv/context  float32[2, 1, 4]",
    ),
    (
        lambda: jl.stream(CAUSAL).step(
            PARAMS, STATE, jl.stream(CAUSAL).start(PARAMS, STATE, X), X[:1]
        ),
        "serial: the carry does not fit the model and the block: 3 different",
        "different  lstm/h        expected float32[1, 3], got float32[2, 3]",
    ),
    (
        lambda: jl.stream(jl.BatchNorm()).step(*jl.BatchNorm().init(KEY, X), {}, X, train=True),
        "BatchNorm: has state, which a step cannot update: statistics are of whole batches",
        "got:      mean, var",
        "hint:     train=False",
    ),
    (
        lambda: jl.stream(jl.lift(lambda x: x[:, 0])).step({}, {}, {}, X),
        "lambda: cannot be streamed: its output does not have the steps of its input",
        "expected: (batch, time, ...)",
    ),
    (
        lambda: jl.stream(jl.concat(axis=1)).step({}, {}, {}, (X, X)),
        "concat: cannot be streamed: it concatenates along time",
    ),
    (
        lambda: jl.stream(CAUSAL).start(PARAMS, STATE, jnp.ones(3)),
        "serial: takes blocks",
        "expected: (batch, steps, ...)",
    ),
    (
        lambda: jl.stream(CAUSAL).step(PARAMS, STATE, None, X),
        "serial: carry must be a tree of arrays",
        "hint:     carry = start(params, state, x); y, carry = step(params, state, carry, x)",
    ),
    (lambda: jl.stream(CAUSAL, capacity=0), "stream: capacity must be a positive int, got 0"),
    (
        lambda: jl.receptive_field(jl.GlobalMaxPool(), STEPS),
        "GlobalMaxPool: its output is not one sequence",
    ),
    (
        lambda: jl.receptive_field(
            jl.add(jl.Dense(4), jl.Conv(4, 2, strides=1, padding="SAME")), jnp.ones(3)
        ),
        "add: takes blocks",
    ),
]


@each(SEQUENCES, BODIES, STREAMS)
def test_texts(case):
    read(case)
