"""What users write themselves: it is right with masks and in streams, or refused by its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read

import jlayers as jl

F = 8
NORMAL = jax.nn.initializers.normal()
MASK = jnp.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
X = jl.Sequence(jax.random.normal(jax.random.key(0), (3, 6, F)), MASK)
IDS = jl.Sequence(jax.random.randint(jax.random.key(1), (3, 6), 0, 11), MASK)
MEMORY = jl.Sequence(jax.random.normal(jax.random.key(2), (3, 5, F)), MASK[:, 1:])


@pytest.fixture(autouse=True)
def _as_users_write():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def dense(features=F):
    return jl.Dense(features)


def arithmetic(f, x):
    return x + f.mlp(jax.nn.relu(f.norm(x))) * 2.0


def heads(f, x):
    batch, time, features = x.shape
    split = f.mlp(x).reshape(batch, time, 2, features // 2)
    return (split * split.sum(-1, keepdims=True)).reshape(x.shape)


def squeeze_and_excite(f, x):
    return jnp.tanh(x) * jax.nn.sigmoid(f.gate(f.pool(x)))[:, None, :]


def strided(f, x):
    return f.mlp(jax.nn.gelu(f.down(x)) * 2.0)


def nested(f, x):
    return f.inner(jnp.tanh(x))


def with_memory(f, inputs):
    x, memory = inputs
    return x + f.cross((jnp.tanh(x), jnp.tanh(memory)))


def counted_positions(f, x):
    table = f.param("table", NORMAL, (32, F))
    return f.mlp(jnp.tanh(x) + table[f.positions(x)])


def tied(f, ids):
    x = f.embed(ids) + f.place(f.positions(ids))
    return f.attend(x) @ f.embed.params["embedding"].T


CONV = jl.Conv(F, 3, strides=2, padding="CAUSAL")
EMBED = {"embed": jl.Embedding(11, F), "place": jl.Embedding(32, F)}
RIGHT = {
    "a function": (jl.serial(jax.nn.gelu, lambda x: x / jnp.linalg.norm(x, axis=-1)[..., None]), X),
    "arithmetic": (jl.compose(arithmetic, norm=jl.LayerNorm(), mlp=dense()), X),
    "heads": (jl.compose(heads, mlp=dense()), X),
    "squeeze and excite": (
        jl.compose(squeeze_and_excite, pool=jl.GlobalAvgPool(), gate=dense()),
        X,
    ),
    "strided": (jl.compose(strided, down=CONV, mlp=dense()), X),
    "nested": (jl.compose(nested, inner=jl.compose(heads, mlp=dense())), X),
    "a memory": (jl.compose(with_memory, cross=jl.CrossAttention(2)), (X, MEMORY)),
    "counted positions": (jl.compose(counted_positions, mlp=dense()), X),
    "tied weights": (
        jl.compose(tied, **EMBED, attend=jl.SelfAttention(2, causal=True)),
        IDS,
    ),
    "learned positions": (
        jl.serial(jl.PositionEmbedding(16), jl.SelfAttention(2, causal=True)),
        X,
    ),
    "sines": (jl.serial(jl.SinusoidalPositions(), dense()), X),
    "a class step": (
        jl.compose(
            lambda f, x: f.attend(jl.Sequence.prepend(x, f.param("cls", NORMAL, (1, F)))),
            attend=jl.SelfAttention(2),
        ),
        X,
    ),
}
NOT_STREAMED = {"squeeze and excite", "a class step"}


def row_of(tree, row):
    """The valid steps of a row, alone."""

    def cut(sequence):
        return sequence.values[row : row + 1, np.asarray(sequence.mask[row])]

    return jax.tree.map(cut, tree, is_leaf=lambda node: isinstance(node, jl.Sequence))


def values_of(tree):
    return jax.tree.map(
        lambda node: node.values, tree, is_leaf=lambda node: isinstance(node, jl.Sequence)
    )


@pytest.mark.parametrize("name", RIGHT)
def test_a_row_of_a_batch_is_what_it_is_alone(name):
    model, x = RIGHT[name]
    params, state = model.init(jax.random.key(3), values_of(x))
    apply = jax.jit(model.apply)
    y, _ = apply(params, state, x)
    # Windows with strides are placed from the first step of a row: padding in front moves them.
    for row in (0, 1) if name == "strided" else (0, 1, 2):
        alone, _ = apply(params, state, row_of(x, row))
        np.testing.assert_allclose(row_of(y, row), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in RIGHT if name not in NOT_STREAMED])
def test_blocks_are_the_whole(name):
    model, x = RIGHT[name]
    values = values_of(x)
    params, state = model.init(jax.random.key(3), values)
    start, step = map(jax.jit, jl.stream(model, capacity=6))
    carry = start(params, state, values)
    parts, blocks = [], values if isinstance(values, tuple) else (values,)
    for at in (0, 2, 4):
        block = (blocks[0][:, at : at + 2], *blocks[1:])
        y, carry = step(params, state, carry, block if isinstance(values, tuple) else block[0])
        parts.append(y)
    whole, _ = jax.jit(model.apply)(params, state, values)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-5, atol=1e-5)


def centred(f, x):
    return f.mlp(x - x.mean(1, keepdims=True))


def attention_by_hand(f, x):
    scores = jnp.einsum("btd,bsd->bts", f.mlp(x), x)
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -1e9)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, -1), x)


def cross_attention_by_hand(f, inputs):
    x, memory = inputs
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", f.mlp(x), memory), -1)
    return jnp.einsum("bts,bsd->btd", weights, memory)


def folded(f, x):
    return f.norm(x.reshape(-1, F)).reshape(x.shape)


def sliced_table(f, x):
    return f.mlp(jnp.tanh(x) + f.param("table", NORMAL, (20_000, F))[: x.shape[1]])


def table_of_this_length(f, x):
    return f.mlp(jnp.tanh(x) + f.param("table", NORMAL, x.shape[1:]))


def counted_by_arange(f, x):
    return f.mlp(x + f.place(jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])))


def shared_positions(f, x):
    return f.mlp(x + f.place(jnp.arange(x.shape[1]))[None])


def divided(f, x):
    return f.mlp(jnp.tanh(x) / x.shape[1])


def strided_mean(f, x):
    y = f.down(x)
    return f.mlp(y - y.mean(1, keepdims=True))


def long_ones(f, x):
    return f.mlp(x.cumsum(1) if x.shape[1] > 100 else jnp.tanh(x))


# model, input, what a mask is told, what a stream is told (None where it is taken)
MIXES = "mixes steps, and would read the padding of a Sequence"
PLACE = "depends on where a step is, which padding in front of it changes"
BODY, PLACED = f"the body {MIXES}", f"the body {PLACE}"
SHARED = "an array with steps and without rows says where a step is*"
FOLDED = "the body mixes the steps and the padding of a Sequence before a child"
WRONG = {
    "mean": (jl.lift(lambda x: x - x.mean(1, keepdims=True)), X, MIXES, "it mixes steps"),
    "softmax over time": (jl.lift(lambda x: jax.nn.softmax(x, 1)), X, MIXES, "it mixes steps"),
    "cumsum": (jl.lift(lambda x: x.cumsum(1)), X, MIXES, "it reads earlier steps"),
    "shift": (
        jl.lift(lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]),
        X,
        MIXES,
        "it reads earlier steps",
    ),
    "rows": (
        jl.lift(lambda x: x - x.max(0)),
        X,
        "mixes the rows of the batch, and would read the padding of a Sequence",
        None,
    ),
    "positions": (
        jl.lift(lambda x: x + jnp.arange(x.shape[1])[:, None]),
        X,
        PLACE,
        "it depends on where a step is",
    ),
    "a user's layer": (
        jl.stateless(lambda key, x: {}, lambda params, x: x / x.max(1, keepdims=True), name="own"),
        X,
        MIXES,
        "it mixes steps",
    ),
    "centred": (jl.compose(centred, mlp=dense()), X, BODY, "the body mixes steps"),
    "attention": (jl.compose(attention_by_hand, mlp=dense()), X, BODY, "the body mixes steps"),
    "cross attention": (jl.compose(cross_attention_by_hand, mlp=dense()), (X, MEMORY), BODY, None),
    "folded": (jl.compose(folded, norm=jl.BatchNorm()), X, FOLDED, FOLDED),
    "sliced table": (
        jl.compose(sliced_table, mlp=dense()),
        X,
        PLACED,
        "the body depends on where a step is",
    ),
    "table of this length": (
        jl.compose(table_of_this_length, mlp=dense()),
        X,
        PLACED,
        "the body depends on where a step is",
    ),
    "arange": (
        jl.compose(counted_by_arange, mlp=dense(), place=jl.Embedding(32, F)),
        X,
        PLACED,
        "the body depends on where a step is",
    ),
    "shared positions": (
        jl.compose(shared_positions, mlp=dense(), place=jl.Embedding(32, F)),
        X,
        SHARED,
        "the body depends on where a step is",
    ),
    "divided by the length": (
        jl.compose(divided, mlp=dense()),
        X,
        PLACED,
        "the body depends on where a step is",
    ),
    "strided mean": (
        jl.compose(strided_mean, down=CONV, mlp=dense()),
        X,
        BODY,
        "the body mixes steps",
    ),
    "nested mean": (
        jl.compose(nested, inner=jl.compose(centred, mlp=dense())),
        X,
        f"at 'inner': {BODY}",
        "the body mixes steps",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_wrong_is_refused(name):
    model, x, masked, streamed = WRONG[name]
    values = values_of(x)
    params, state = model.init(jax.random.key(3), values)
    model.apply(params, state, values)  # arrays without masks are untouched
    read((lambda: model.apply(params, state, x), f"*{masked}"))
    start = jl.stream(model, capacity=6).start
    if streamed is None:
        start(params, state, values)
    else:
        wanted = streamed if streamed == FOLDED else f"cannot be streamed: {streamed}"
        read((lambda: start(params, state, values), f"*{wanted}"))


def running_mean(f, x):
    mean = f.variable("mean", jax.nn.initializers.zeros, x.shape[-1:])
    y = f.mlp(jnp.tanh(x)) - mean.value
    if f.train:
        mean.value = 0.9 * mean.value + 0.1 * jnp.tanh(x).mean((0, 1))
    return y


def counted_steps(f, x):
    count = f.variable("count", jax.nn.initializers.zeros, ())
    if f.train:
        count.value = count.value + x.shape[1]
    return f.mlp(x)


def own_statistics(params, state, x, *, key, train):
    return jnp.tanh(x), {"mean": x.mean((0, 1))} if train else state


STATES = {
    "a running mean": jl.compose(running_mean, mlp=dense()),
    "counted steps": jl.compose(counted_steps, mlp=dense()),
    "a pair": jl.Layer(lambda key, x: ({}, {"mean": jnp.zeros(F)}), own_statistics, name="own"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_reads_padding_is_refused(name):
    model = STATES[name]
    params, state = model.init(jax.random.key(3), X.values)
    model.apply(params, state, X.values, train=True)
    model.apply(params, state, X)  # nothing is set
    text = "sets its state from the steps and the padding of a Sequence"
    with pytest.raises(jl.LayerError, match=text):
        model.apply(params, state, X, train=True)


def test_a_state_without_steps_is_taken():
    def body(f, x):
        calls = f.variable("calls", jax.nn.initializers.zeros, ())
        if f.train:
            calls.value = calls.value + 1
        return f.mlp(jnp.tanh(x))

    def apply(params, state, x, *, key, train):
        return jnp.tanh(x), {"calls": state["calls"] + 1} if train else state

    pair = jl.Layer(lambda key, x: ({}, {"calls": jnp.zeros(())}), apply, name="own")
    for model in (jl.compose(body, mlp=dense()), pair):
        params, state = model.init(jax.random.key(3), X.values)
        assert model.apply(params, state, X, train=True)[1]["calls"] == 1


@pytest.mark.parametrize(
    "name", ["keys", "masks", "calls", "given", "outputs", "wrapped", "inside"]
)
def test_a_child_may_have_any_name(name):
    model = jl.compose(
        lambda f, x: f[name](jnp.tanh(x)) + getattr(f, name)(x * 2), **{name: dense()}
    )
    params, state = model.init(jax.random.key(3), X.values)
    y, _ = model.apply(params, state, X)
    alone, _ = model.apply(params, state, row_of(X, 1))
    np.testing.assert_allclose(row_of(y, 1), alone, rtol=1e-5, atol=1e-5)


INSIDE = {
    "scan": lambda f, x: jnp.moveaxis(
        jax.lax.scan(
            lambda h, s: (h + f.mlp(jnp.concatenate([h, s], -1)),) * 2,
            jnp.zeros(x.shape[::2]),
            jnp.moveaxis(x, 1, 0),
        )[1],
        0,
        1,
    ),
    "vmap": lambda f, x: x + jax.vmap(lambda row: f.mlp(row - row.mean(0)))(x),
    "jit": lambda f, x: jax.jit(lambda x: f.mlp(x - x.mean(1, keepdims=True)))(x),
    "checkpoint": lambda f, x: jax.checkpoint(lambda x: f.mlp(x[:, ::-1]))(x),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_child_inside_a_transformation_is_refused_by_name(name):
    model = jl.compose(INSIDE[name], mlp=dense())
    params, state = model.init(jax.random.key(3), X.values)
    text = "compose: the body calls its child 'mlp' inside a transformation*"
    read((lambda: model.apply(params, state, X), text))
    read((lambda: jl.receptive_field(model, X.values), text))
    read((lambda: jl.stream(model).start(params, state, X.values), text))


def test_the_error_names_the_line_and_the_way_out():
    model = jl.compose(centred, mlp=dense())
    params, state = model.init(jax.random.key(3), X.values)
    line = centred.__code__.co_firstlineno + 1
    read(
        (
            lambda: model.apply(params, state, X),
            "compose: the body mixes steps, and would read the padding of a Sequence",
            "expected: a function of each step alone",
            f"got:      `reduce_sum` reduces over time ({__file__}:{line} in centred)",
            "hint:     jl.on_sequence(function) for one that uses the mask; or layers that mind it",
        )
    )


def test_python_that_looks_at_the_length_is_seen_at_the_length_of_the_call():
    model = jl.compose(long_ones, mlp=dense())
    params, state = model.init(jax.random.key(3), X.values)
    long = jl.Sequence(jnp.zeros((2, 90, F)))
    read((lambda: model.apply(params, state, long), f"*{BODY}"))


def test_a_child_named_positions_is_that_child():
    def body(f, ids):
        return jnp.tanh(f.embed(ids)) + f.positions(f.counted(ids))

    model = jl.compose(
        body,
        embed=jl.Embedding(11, F),
        positions=jl.Embedding(32, F),
        counted=jl.compose(lambda f, x: f.positions(x)),
    )
    params, state = model.init(jax.random.key(3), IDS.values)
    assert params["positions"]["embedding"].shape == (32, F)
    y, _ = model.apply(params, state, IDS)
    alone, _ = model.apply(params, state, row_of(IDS, 2))
    np.testing.assert_allclose(row_of(y, 2), alone, rtol=1e-5, atol=1e-5)


def test_numbers_drawn_by_hand():
    def dropped(f, x):
        x = jnp.tanh(x)
        if f.train:
            x = jnp.where(jax.random.bernoulli(f.key(), 0.5, x.shape), 2 * x, 0)
        return f.mlp(x)

    model = jl.compose(dropped, mlp=dense())
    params, state = model.init(jax.random.key(3), X.values)
    y, _ = model.apply(params, state, X, key=jax.random.key(0), train=True)
    assert y.mask is X.mask
    # The same numbers at the same positions are a table of positions.
    fixed = jl.lift(lambda x: x + jax.random.normal(jax.random.key(0), x.shape))
    read((lambda: fixed.apply({}, {}, X), f"*{PLACE}"))


def test_receptive_fields_are_the_measured_ones():
    def field(function):
        return jl.receptive_field(function, X.values)

    assert field(lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :-2]) == (1, 2, -2)
    assert field(lambda x: x - x.mean(1, keepdims=True)) == (1, jnp.inf, jnp.inf)
    assert field(jax.nn.relu) == (1, 0, 0)
    gated = jl.compose(squeeze_and_excite, pool=jl.GlobalAvgPool(), gate=dense())
    assert field(gated) == (1, jnp.inf, jnp.inf)


def test_map_and_arithmetic_of_a_sequence():
    read((lambda: X.map(lambda v: v - v.mean(1, keepdims=True)), MIXES))
    read((lambda: X + jnp.ones((1, 6, F)), SHARED))
    read((lambda: X * jnp.ones((6, F)), SHARED))
    gate = jnp.ones((3, 6, 1))
    assert X.map(lambda v, g: v * g, gate).mask is X.mask
    read(
        (
            lambda: X.map(lambda v: v * gate),
            "cannot be traced for other sizes: it may read the padding of a Sequence",
            "hint:     arrays of the batch as inputs, not from outside the function: a tuple of "
            "inputs, or x.map(function, array); jl.on_sequence(function) for one",
        )
    )


def test_comparisons_of_a_sequence():
    positive = X > 0
    assert positive.mask is X.mask
    np.testing.assert_array_equal(positive.fill(), (X.values > 0) & np.asarray(MASK)[..., None])
    assert (X == X).fill().sum() == MASK.sum() * F
    assert X in {X}
    assert X != "padding"
    read((lambda: bool(X == 0), "a Sequence is neither true nor false"))


def test_a_sequence_is_not_an_array():
    text = "expected an array here, got a Sequence, which would lose its mask"
    for function in (np.asarray, jnp.tanh, jnp.sum, lambda x: jnp.concatenate([x, x], 1)):
        with pytest.raises(jl.LayerError, match=text):
            function(X)
    with pytest.raises(AttributeError, match=r"x\.fill\(\)\.sum reads padding as zeros.*GlobalAvg"):
        X.sum()
    with pytest.raises(AttributeError, match=r"no attribute 'foo'$"):
        X.foo()


def test_sequences_joined_in_time():
    y = jl.Sequence.concatenate([X, MEMORY, jnp.zeros((3, 1, F))])
    assert y.mask.shape == (3, 12)
    assert y.mask[:, -1].all()
    assert not isinstance(jl.Sequence.concatenate([X.values, X.values]), jl.Sequence)
    read(
        (
            lambda: jl.Sequence.concatenate([X, IDS]),
            "concatenate: parts must have one batch, one dtype and the same features",
            "got:      float32[3, 6, 8], int32[3, 6]",
        )
    )


POSITIONS = [
    (
        lambda: jl.PositionEmbedding(4).init(jax.random.key(0), X.values),
        "PositionEmbedding: has 4 positions, got 6 steps",
        "hint:     PositionEmbedding(6), or SinusoidalPositions()",
    ),
    (
        lambda: jl.SinusoidalPositions().init(jax.random.key(0), jl.spec((2, 3, 5))),
        "SinusoidalPositions: takes an even number of features, got 5",
    ),
    (
        lambda: jl.compose(lambda f, x: f.positions(x)).init(jax.random.key(0), jl.spec((2,))),
        "compose: positions are those of the steps of a sequence",
        "expected: (batch, time, ...)",
    ),
    (
        lambda: jl.compose(
            lambda f, x: x @ f.embed.params["embedding"].T, embed=jl.Embedding(3, 4)
        ).init(jax.random.key(0), jl.spec((2, 4))),
        "compose: the child 'embed' has no parameters before its first call",
        "hint:     f.embed(x) before f.embed.params",
    ),
]


@each(POSITIONS)
def test_errors_of_positions(case):
    read(case)


def test_positions_beyond_the_table_are_nan():
    model = jl.PositionEmbedding(4)
    params, state = model.init(jax.random.key(0), jl.spec((1, 3, 2)))
    start, step = jl.stream(model)
    carry = start(params, state, jl.spec((1, 3, 2)))
    for finite in (True, False):
        y, carry = step(params, state, carry, jnp.zeros((1, 3, 2)))
        assert bool(jnp.isfinite(y).all()) == finite
