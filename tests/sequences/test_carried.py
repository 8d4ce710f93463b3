"""carried: two blocks and the carry between them are the whole, for every layer that streams."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import EPISODES, IDS, INSTANCES, STEPS, Instance
from tables.tiers import full, named, rows, soak

import jlayers as jl
from jlayers.base.specs import specs_of

CAUSAL = {"padding": "CAUSAL"}


def _transform(f, x):
    x = x + f.attend(f.norm(x))
    return x + f.down(jax.nn.gelu(f.up(x)))


def block(**options):
    return jl.compose(
        _transform,
        norm=jl.RMSNorm(),
        attend=jl.SelfAttention(2, causal=True, **options),
        up=jl.Dense(8),
        down=jl.Dense(4),
    )


def _noted(f, x):
    x, resets = x
    steps = f.norm(f.encode(x))
    return f.core((steps, resets)), f.value(steps + f.places(f.positions(steps)))


STACKS = {
    "a recurrent stack": Instance(
        jl.serial(
            jl.Embedding(7, 4),
            jl.LSTM(4, trainable_carry=True),
            jl.Dropout(0.3),
            jl.repeat(jl.residual(jl.GRU(4, zoneout=0.1)), 2),
            jl.LSTM(3, projection=2),
        ),
        IDS,
    ),
    "a convolutional stack": Instance(
        jl.serial(
            jl.Conv(4, 3, dilation=2, **CAUSAL),
            jl.BatchNorm(),
            jl.remat(jl.residual(jl.Conv(4, 70, **CAUSAL))),
            jl.MaxPool(2, strides=1, **CAUSAL),
            jl.concat(jl.MinGRU(3), jl.inference(jl.LinearRecurrence(2))),
        ),
        STEPS,
    ),
    "a transformer": Instance(
        jl.serial(jl.PositionEmbedding(9), jl.repeat(block(rope=True), 2), block(window=3)), STEPS
    ),
    "a body with resets, positions and a child twice": Instance(
        jl.compose(
            _noted,
            encode=jl.serial(jl.Conv(4, 2, **CAUSAL), jax.nn.relu),
            norm=jl.LayerNorm(),
            core=jl.GRU(3),
            value=jl.Dense(1),
            places=jl.Embedding(9, 4),
        ),
        EPISODES,
    ),
    "side by side": Instance(
        jl.parallel(a=jl.LSTM(3), b=jl.serial(jl.Conv(3, 2, **CAUSAL), jl.GRU(2))),
        {"a": STEPS, "b": jl.spec((2, 5, 3))},
    ),
}


def _over_time(instance):
    # What is carried has states beside its steps, which are not joined over time.
    return instance.layer.maker != "carried" and all(
        leaf.shape[:2] == (2, 5) for leaf in jax.tree.leaves(instance.x)
    )


# By name: to ask each of them takes seconds whenever tests are collected.
WHOLE_ALONE = set(
    re.split(
        r";\s+",
        """embedding bag; conv, reverse causal; conv, full; conv, replicated; conv, circular;
        conv of steps, dilated input; transposed conv, circular; transposed conv in groups;
        local conv of steps; deformable conv, modulated, of steps; average pool, padded; sum pool;
        attention pool; frame; overlap add; inverse stft; resample; lookahead; group norm, plain;
        group norm by size; filter response norm, learned epsilon; self-attention;
        self-attention, distances in a table; self-attention, a pattern;
        transformer block, the norm after it; latent attention, queries from latents;
        lstm, last step, reversed; gru, last step, reversed; mgu, no reset gate, reversed;
        simple rnn, last step, reversed; sru without peepholes; qrnn, input gate, resets;
        qrnn, forget gate alone, reversed; selective ssm, reversed, resets; s5, no skip, resets;
        linear attention, reversed, resets; mlstm, last step, resets;
        gated delta net, no convolution, resets; linear recurrence, the unit alone;
        a function of a sequence; mixture of experts with a capacity;
        mixture of experts that choose; bidirectional; bidirectional, last step""",
    )
)


def _streams(instance):
    params, state = jax.eval_shape(instance.layer.init, jax.random.key(0), instance.x)
    try:
        jax.eval_shape(
            lambda p, s: jl.stream(instance.layer, capacity=5).start(p, s, instance.x),
            params,
            state,
        )
    except jl.LayerError:
        return False
    return True


OVER_TIME = {name: row for name, row in (INSTANCES | STACKS).items() if _over_time(row)}
TABLE = {name: row for name, row in OVER_TIME.items() if name not in WHOLE_ALONE}


@pytest.mark.full
def test_the_table_has_all_that_streams():
    assert {name for name, row in OVER_TIME.items() if not _streams(row)} == WHOLE_ALONE


def _values(x, key=1):
    """Random values; False and the lowest ids in what is not floating."""

    def draw(i, leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.random.normal(jax.random.key(key + i), leaf.shape, leaf.dtype)
        return (jnp.arange(np.prod(leaf.shape)).reshape(leaf.shape) % 5).astype(leaf.dtype)

    leaves, structure = jax.tree.flatten(x)
    return jax.tree.unflatten(structure, [draw(i, leaf) for i, leaf in enumerate(leaves)])


def _near(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", rows(TABLE))
def test_two_blocks_and_the_carry_are_the_whole(name):
    layer, x = TABLE[name].layer, _values(TABLE[name].x)
    # Two steps more than there are: a third block follows.
    both = jl.carried(layer, capacity=7)
    params, state = both.init(jax.random.key(0), x)
    _near((params, state), layer.init(jax.random.key(0), x))

    @jax.jit
    def run(params, state, x):
        first = jax.tree.map(lambda leaf: leaf[:, :2], x)
        rest = jax.tree.map(lambda leaf: leaf[:, 2:], x)
        plain, _ = layer.apply(params, state, x)
        (whole, after), _ = both.apply(params, state, x)
        (y, carry), _ = both.apply(params, state, (first, {}))
        (z, carry), _ = both.apply(params, state, (rest, carry))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), y, z)
        more = [both.apply(params, state, (first, carry))[0][0] for carry in (after, carry)]
        start = jl.stream(layer, capacity=7).start(params, state, x)
        return (plain, whole, joined), more, (start, after, carry)

    (plain, whole, joined), (after_whole, after_blocks), carries = run(params, state, x)
    _near(whole, plain)
    _near(joined, whole)
    _near(after_blocks, after_whole)
    start, after, carry = (specs_of(carry) for carry in carries)
    assert start == after == carry
    assert jl.out_spec(both, x) == specs_of((whole, carries[1]))
    assert jl.out_spec(both, (x, after)) == specs_of((whole, carries[1]))


WHOLE = {
    "lstm": jl.LSTM(3),
    "lstm, reversed, trainable": jl.LSTM(3, reverse=True, trainable_carry=True),
    "gru, last step, zoneout": jl.GRU(3, return_sequences=False, zoneout=0.3),
    "simple rnn, last step, reversed": jl.SimpleRNN(3, return_sequences=False, reverse=True),
    "linear recurrence, reversed": jl.LinearRecurrence(3, reverse=True),
    "lstm, peephole": jl.LSTM(3, peephole=True, projection=2, reverse=True),
    "both directions, twice, a head": jl.serial(
        jl.bidirectional(jl.LSTM(3)),
        jl.bidirectional(jl.GRU(2, return_sequences=False)),
        jl.Dense(5),
        jax.nn.softmax,
    ),
}


@pytest.mark.parametrize("name", named(WHOLE, "lstm", "both directions, twice, a head"))
def test_the_states_of_a_row_are_those_of_the_row_alone(name):
    layer = jl.carried(WHOLE[name])
    x = _values(jl.spec((3, 5, 4)))
    params, state = layer.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the first carry is trained
    given = jax.tree.map(lambda leaf: 0.3 * leaf, _values(jl.out_spec(layer, x)[1], key=5))
    mask = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]], bool)
    garbage = jnp.where(mask[..., None], x, jnp.nan)
    apply = jax.jit(layer.apply)
    for carry in ({}, given):
        (_, after), _ = apply(params, state, (jl.Sequence(garbage, mask), carry))
        for row in range(3):
            alone = x[row : row + 1, np.flatnonzero(mask[row])]
            mine = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], (after, carry))
            (_, expected), _ = apply(params, state, (alone, mine[1]))
            _near(mine[0], expected)


def test_it_trains_as_the_layer_does():
    layer = jl.serial(
        jl.repeat(
            jl.compose(
                lambda f, x: (f.add_loss(0.1 * jnp.mean(x**2)), f.gru(f.norm(x)))[1],
                norm=jl.BatchNorm(),
                gru=jl.GRU(4, recurrent_dropout=0.3),
            ),
            2,
            remat=True,
        ),
        jl.Dropout(0.5),
        jl.remat(jl.serial(jl.ActivityPenalty(l2=0.1), jl.BatchNorm())),
        jl.bidirectional(jl.LSTM(3)),
    )
    x, key = _values(STEPS), jax.random.key(2)
    params, state = layer.init(jax.random.key(0), x)

    def program(layer, take):
        def loss(params, x):
            (y, added), new = layer.apply(params, state, x, key=key, train=True)
            return jnp.sum(take(y) ** 2) + added, (take(y), added, new)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    expected = program(jl.with_losses(layer), lambda y: y)
    _near(program(jl.with_losses(jl.carried(layer)), lambda y: y[0]), expected)


def test_gradients_cross_the_carry_of_a_scan_over_blocks():
    layer = jl.carried(STACKS["a recurrent stack"].layer)
    ids = _values(jl.spec((2, 6), jnp.int32))
    params, state = layer.init(jax.random.key(0), ids)

    def whole(params):
        return jnp.sum(layer.apply(params, state, ids)[0][0] ** 2)

    def blocks(params, remat=False):
        def step(carry, block):
            (y, carry), _ = layer.apply(params, state, (block, carry))
            return carry, jnp.sum(y**2)

        carry = jl.stream(layer).start(params, state, ids)
        parts = jnp.moveaxis(ids.reshape(2, 3, 2), 1, 0)
        return jnp.sum(jax.lax.scan(jax.checkpoint(step) if remat else step, carry, parts)[1])

    slopes = jax.jit(jax.value_and_grad(whole))(params)
    _near(jax.jit(jax.value_and_grad(blocks))(params), slopes)
    _near(jax.jit(jax.value_and_grad(lambda p: blocks(p, True)))(params), slopes)


def test_a_carry_for_each_of_many_under_vmap():
    layer = jl.carried(jl.LSTM(3))
    x, carry = _values((jl.spec((4, 2, 5, 4)), {"c": jl.spec((4, 2, 3))}))
    params, state = layer.init(jax.random.key(0), (x[0], {"c": carry["c"][0]}))
    mapped = jax.vmap(lambda x, carry: layer.apply(params, state, (x, carry))[0])(x, carry)
    for i in range(4):
        one, _ = layer.apply(params, state, (x[i], {"c": carry["c"][i]}))
        _near(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), one)


def test_a_carry_that_is_not_read_is_no_look_ahead():
    def body(f, x):
        y, carry = f.rnn(jnp.tanh(x))
        return 2 * y, carry

    def of_the_end(f, x):
        y, carry = f.rnn(jnp.tanh(x))
        return y + jnp.broadcast_to(carry["h"][:, None], y.shape)

    x = _values(STEPS)
    layer = jl.compose(body, rnn=jl.carried(jl.GRU(3)))
    params, state = layer.init(jax.random.key(0), x)
    start, step = jl.stream(layer)
    carry = start(params, state, x)
    (first, _), carry = step(params, state, carry, x[:, :3])
    (rest, end), carry = step(params, state, carry, x[:, 3:])
    (whole, last), _ = layer.apply(params, state, x)
    _near((jnp.concatenate([first, rest], 1), end), (whole, last))
    ahead = jl.compose(of_the_end, rnn=jl.carried(jl.GRU(3)))
    with pytest.raises(jl.LayerError, match="depends on later steps"):
        jl.stream(ahead).start(*ahead.init(jax.random.key(0), x), x)


def test_once_in_blocks_of_a_training_step_is_the_whole():
    def body(f, inputs):
        target, source = inputs
        y = f.rnn(target)
        return y + f.attend((y, f.encoder(source)))

    encoder = jl.serial(jl.bidirectional(jl.GRU(2)), jl.ActivityPenalty(l2=0.1))
    model = jl.compose(body, rnn=jl.GRU(4), encoder=jl.once(encoder), attend=jl.CrossAttention(2))
    both = jl.with_losses(jl.carried(model))
    x, source = _values(STEPS), _values(jl.spec((2, 3, 4)), key=5)
    params, state = model.init(jax.random.key(0), (x, source))

    def whole(params):
        y, loss = jl.with_losses(model).apply(params, state, (x, source), train=True)[0]
        return jnp.sum(y**2) + loss

    def blocks(params):
        ((y, carry), loss), _ = both.apply(params, state, ((x[:, :2], source), {}), train=True)
        ((z, _), none), _ = both.apply(params, state, ((x[:, 2:], source), carry), train=True)
        return jnp.sum(y**2) + jnp.sum(z**2) + loss + none

    _near(jax.jit(jax.value_and_grad(blocks))(params), jax.jit(jax.value_and_grad(whole))(params))


def _random_layer(random):
    """One that streams, from four features to four."""
    window, seed = int(random.integers(1, 4)), int(random.integers(3))
    leaves = [
        jl.LSTM(4, peephole=bool(seed), trainable_carry=True),
        jl.GRU(4),
        jl.MinGRU(4),
        jl.LinearRecurrence(4),
        jl.Conv(4, window, dilation=1 + seed, **CAUSAL),
        jl.AvgPool(1 + window, strides=1, **CAUSAL),
        jl.SelfAttention(2, causal=True, window=window, rope=True),
        block(),
        jl.BatchNorm(),
    ]
    wrappers = [
        lambda layer: layer,
        jl.residual,
        jl.remat,
        lambda layer: jl.repeat(jl.residual(layer), 2),
        lambda layer: jl.concat(jl.serial(layer, jl.Dense(1)), jl.Conv(3, 2, **CAUSAL)),
        lambda layer: jl.compose(lambda f, x: f.inner(jnp.tanh(f.inner(x))), inner=layer),
    ]
    layer = leaves[random.integers(len(leaves))]
    return wrappers[random.integers(len(wrappers))](layer)


@pytest.mark.parametrize("seed", [*full(3, 0, 1, 2), *soak(*range(4, 12))])
def test_random_stacks_in_random_blocks(seed):
    random = np.random.default_rng(seed)
    layer = jl.carried(jl.serial(*[_random_layer(random) for _ in range(4)]), capacity=7)
    x = _values(jl.spec((2, 7, 4)), key=seed)
    mask = jnp.asarray(random.random((2, 7)) < 0.8)
    params, state = layer.init(jax.random.key(seed), x)
    cuts = [0, *sorted(random.choice(np.arange(1, 7), 2, replace=False).tolist()), 7]

    def run(params, x):
        (whole, _), _ = layer.apply(params, state, x)
        carry, parts = {}, []
        for low, high in itertools.pairwise(cuts):
            (y, carry), _ = layer.apply(params, state, (x[:, low:high], carry))
            parts.append(y)
        return whole, jl.Sequence.concatenate(parts)

    def loss(params, x, which):
        return jnp.sum(jnp.sin(run(params, x)[which].fill()))

    x = jl.Sequence(x, mask)

    @jax.jit
    def program(params, x):
        slopes = [jax.grad(lambda p, which=which: loss(p, x, which))(params) for which in (0, 1)]
        return run(params, x), slopes

    (whole, parts), slopes = program(params, x)
    _near(parts.fill(), whole.fill())
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
