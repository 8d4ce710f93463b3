"""Decoding beside a context: an encoder runs once, its memory and its states begin a decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.tiers import full

import jlayers as jl
from jlayers import decoding

SOURCE, TARGET, BEGIN = 9, 7, 1


def _states(f, inputs):
    target, source = inputs
    _, carry = f.encoder(source)
    return f.head(f.decoder((f.embed(target), {"lstm": carry["lstm"]}))[0])


def _attention(f, inputs):
    target, source = inputs
    memory = f.encoder(source)
    y = f.decoder(f.embed(target))
    return f.head(y + f.attend((y, memory)))


def _both(f, inputs):
    target, source = inputs
    memory, carry = f.encoder(source)
    sides = carry["bidirectional"]
    h = jnp.tanh(f.bridge(jnp.concatenate([sides["forward"]["h"], sides["backward"]["h"]], -1)))
    y, _ = f.decoder((f.embed(target), {"lstm": {"h": h}}))
    return f.head(y + f.attend((y, memory)))


def _caption(f, inputs):
    target, image = inputs
    seen = f.encoder(image)
    y, _ = f.decoder((f.embed(target), {"lstm": {"h": jnp.tanh(f.bridge(seen))}}))
    return f.head(y)


def _transformer(f, inputs):
    target, source = inputs
    memory, x = f.encoder(source), f.embed(target)
    x = x + f.decoder(x)
    return f.head(x + f.attend((x, memory)))


EMBED, HEAD = jl.Embedding(TARGET, 8), jl.Dense(TARGET)
IDS = jl.Embedding(SOURCE, 8)
MODELS = {
    "states": jl.compose(
        _states,
        encoder=jl.once(jl.carried(jl.serial(IDS, jl.LSTM(8)))),
        decoder=jl.carried(jl.serial(jl.LSTM(8))),
        embed=EMBED,
        head=HEAD,
    ),
    "attention": jl.compose(
        _attention,
        encoder=jl.once(jl.serial(IDS, jl.bidirectional(jl.GRU(4)))),
        decoder=jl.GRU(8),
        attend=jl.CrossAttention(2),
        embed=EMBED,
        head=HEAD,
    ),
    "states and attention": jl.compose(
        _both,
        encoder=jl.once(jl.carried(jl.serial(IDS, jl.bidirectional(jl.LSTM(4))))),
        decoder=jl.carried(jl.serial(jl.LSTM(8), jl.residual(jl.GRU(8)))),
        bridge=jl.Dense(8),
        attend=jl.CrossAttention(2),
        embed=EMBED,
        head=HEAD,
    ),
    "a transformer": jl.compose(
        _transformer,
        encoder=jl.once(jl.serial(IDS, jl.residual(jl.SelfAttention(2)))),
        decoder=jl.SelfAttention(2, causal=True, rope=True),
        attend=jl.CrossAttention(2),
        embed=EMBED,
        head=HEAD,
    ),
    "captions": jl.compose(
        _caption,
        encoder=jl.once(jl.serial(jl.Conv(8, 3), jax.nn.relu, jl.GlobalAvgPool())),
        decoder=jl.carried(jl.serial(jl.LSTM(8))),
        bridge=jl.Dense(8),
        embed=EMBED,
        head=HEAD,
    ),
}


def _context(name, rows=3):
    if name == "captions":
        return jax.random.normal(jax.random.key(3), (rows, 6, 6, 2))
    ids = jax.random.randint(jax.random.key(3), (rows, 4), 0, SOURCE)
    return jl.Sequence.from_lengths(ids, jnp.asarray([4, 2, 3])[:rows])


def _prepared(name):
    model, context = MODELS[name], _context(name)
    params, state = model.init(jax.random.key(0), (jnp.ones((3, 5), jnp.int32), context))
    # Larger values than at init, so that the context matters.
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    if "bridge" in params:
        params["bridge"] = jax.tree.map(lambda leaf: 10 * leaf, params["bridge"])
    return model, params, state, context


def _by_hand(model, params, state, row, context, steps):
    """Greedy decoding by the whole model, from the beginning at each step."""
    ids = list(row)
    for _ in range(steps):
        # Always 8 steps: one program.
        block = jnp.asarray([ids + [0] * (8 - len(ids))])
        logits, _ = APPLY[id(model)](params, state, (block, context))
        ids.append(int(jnp.argmax(logits[0, len(ids) - 1])))
    return ids[len(row) :]


APPLY = {id(model): jax.jit(model.apply) for model in MODELS.values()}


@pytest.mark.parametrize(
    "name", ["attention", "captions", *full("states", "states and attention", "a transformer")]
)
def test_it_continues_as_the_whole_model_does(name):
    model, params, state, context = _prepared(name)
    prompts = [[BEGIN, 2, 3], [BEGIN], [BEGIN, 4]]
    prompt = jl.Sequence.from_rows(prompts)
    found = decoding.generate(model, params, state, prompt, 5, context=context)
    for row, prompt_row in enumerate(prompts):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], context)
        expected = _by_hand(model, params, state, prompt_row, alone, 5)
        assert found.values[row].tolist() == expected
    # One id at a time, without a block before.
    begin = jnp.full((3, 1), BEGIN, jnp.int32)
    short = decoding.decode(model, params, state, begin, 5, context=context)
    best = decoding.beam_search(model, params, state, begin, 5, beams=1, context=context)
    assert short.values.tolist() == best.ids[:, 0].tolist()
    others = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), context)
    moved = decoding.beam_search(model, params, state, begin, 5, beams=1, context=others)
    # The rows differ by their context alone.
    np.testing.assert_allclose(moved.scores, np.roll(best.scores, 1, 0), rtol=1e-3, atol=1e-6)
    assert np.ptp(best.scores) > 1e-2


def test_a_context_of_as_many_steps_as_the_prompt_is_not_masked_with_it():
    """The block before the last ids has four steps here, as the context has."""

    def body(f, inputs):  # of arrays: whether their steps are those of the ids is seen by sizes
        target, source = inputs
        x = jnp.tanh(f.embed(target))
        return f.head(f.decoder(x) + f.attend((x, f.encoder(source))))

    model = jl.compose(body, **MODELS["a transformer"].children)
    context = jax.random.randint(jax.random.key(3), (2, 4), 0, SOURCE)
    params, state = model.init(jax.random.key(0), (jnp.ones((2, 4), jnp.int32), context))
    prompt = jl.Sequence.from_rows([[BEGIN, 2, 3, 4, 5], [BEGIN, 4]])
    found = decoding.generate(model, params, state, prompt, 3, context=context)
    alone = decoding.generate(model, params, state, [[BEGIN, 4]], 3, context=context[1:])
    assert found.values[1].tolist() == alone.values[0].tolist()


def test_beams_have_the_context_of_their_row():
    model, params, state, context = _prepared("states and attention")
    prompt = jl.Sequence.from_rows([[BEGIN, 2, 3], [BEGIN], [BEGIN, 4, 2]])
    found = decoding.beam_search(model, params, state, prompt, 4, beams=3, context=context)
    for row in (0, 2):  # of one length: one program
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], (prompt, context))
        length = int(prompt.lengths[row])
        one = decoding.beam_search(
            model, params, state, alone[0][:, :length], 4, beams=3, context=alone[1]
        )
        np.testing.assert_array_equal(found.ids[row], one.ids[0])
        np.testing.assert_allclose(found.scores[row], one.scores[0], rtol=1e-5)
        # The score is the probability that the whole model gives.
        ids = jnp.concatenate([alone[0].values[:, :length], one.ids[0, :1]], 1)
        logits, _ = APPLY[id(model)](params, state, (ids, alone[1]))
        log_p = jax.nn.log_softmax(logits[0, length - 1 : -1])
        total = sum(float(log_p[i, id_]) for i, id_ in enumerate(one.ids[0, 0]))
        assert total == pytest.approx(float(found.scores[row, 0]), rel=1e-4)


def test_a_stream_beside_a_context_is_the_whole():
    for name in ("states and attention", "captions"):
        model, params, state, context = _prepared(name)
        ids = jax.random.randint(jax.random.key(4), (3, 6), 0, TARGET)
        whole, _ = jax.jit(model.apply)(params, state, (ids, context))
        start, step = map(jax.jit, jl.stream(model))
        carry = start(params, state, (ids[:, :1], context))
        blocks = []
        for block in (ids[:, :1], ids[:, 1:4], ids[:, 4:]):
            y, carry = step(params, state, carry, (block, context))
            blocks.append(y)
        np.testing.assert_allclose(jnp.concatenate(blocks, 1), whole, atol=1e-5)


def test_the_encoder_runs_once():
    seen = []

    def count(x):
        jax.debug.callback(lambda: seen.append(1))
        return x

    encoder = jl.once(
        jl.serial(
            IDS,
            jl.Layer(
                lambda key, x: ({}, {}),
                lambda params, state, x, *, key, train: (count(x), state),
                sequence_mode=jl.SequenceMode.PER_STEP,
            ),
            jl.bidirectional(jl.GRU(4)),
        )
    )
    model = MODELS["attention"].rebuild({**MODELS["attention"].children, "encoder": encoder})
    context = _context("attention")
    params, state = model.init(jax.random.key(0), (jnp.ones((3, 5), jnp.int32), context))
    prompt = jnp.full((3, 3), BEGIN, jnp.int32)
    for _ in range(2):
        # The first call looks at the model too.
        seen.clear()
        decoding.generate(model, params, state, prompt, 6, context=context)
        jax.effects_barrier()
    assert len(seen) == 1


def test_sampling_and_a_carry_for_a_context():
    decoder = jl.carried(jl.serial(EMBED, jl.LSTM(8), HEAD))
    begin = jnp.full((3, 1), BEGIN, jnp.int32)
    params, state = decoder.init(jax.random.key(0), begin)
    h = 3 * jax.random.normal(jax.random.key(1), (3, 8))
    options = {"temperature": 0.8, "top_k": 4, "key": jax.random.key(2), "stop": 0}
    found = decoding.generate(
        decoder, params, state, begin, 6, context={"lstm": {"h": h}}, **options
    )
    free = decoding.generate(decoder, params, state, begin, 6, **options)
    assert found.shape == free.shape == (3, 6)
    assert found.values.tolist() != free.values.tolist()
    (logits, carry), _ = decoder.apply(params, state, (begin, {"lstm": {"h": h}}))
    greedy = decoding.generate(decoder, params, state, begin, 2, context={"lstm": {"h": h}})
    assert greedy.values[:, 0].tolist() == jnp.argmax(logits[:, 0], -1).tolist()
    next_logits = decoder.apply(params, state, (greedy.values[:, :1], carry))[0][0]
    assert greedy.values[:, 1].tolist() == jnp.argmax(next_logits[:, 0], -1).tolist()
