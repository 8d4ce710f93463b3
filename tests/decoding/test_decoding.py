"""Decoding against the whole model at each step, and against the distributions to draw from."""

import functools
import gc
import itertools
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from tables.tiers import named

import jlayers as jl
from jlayers import decoding

V = 11
KEY = jax.random.key(3)


def lstm_model():
    return jl.serial(jl.Embedding(V, 6), jl.LSTM(9), jl.Dense(V))


def conv_model():
    conv = jl.Conv(8, 3, padding="CAUSAL", dilation=2)
    return jl.serial(
        jl.Embedding(V, 8), conv, jax.nn.gelu, jl.repeat(jl.residual(jl.GRU(8)), 2), jl.Dense(V)
    )


def transformer(**attention):
    block = jl.serial(
        jl.residual(jl.serial(jl.LayerNorm(), jl.SelfAttention(2, causal=True, **attention))),
        jl.residual(jl.serial(jl.RMSNorm(), jl.Dense(12), jax.nn.gelu, jl.Dense(8))),
    )
    return jl.serial(jl.Embedding(V, 8), jl.repeat(block, 2), jl.LayerNorm(), jl.Dense(V))


MODELS = {
    "lstm": lstm_model(),
    "conv and repeated gru": conv_model(),
    "transformer": transformer(rope=True),
    "transformer with a window": transformer(window=3, num_kv_heads=1, alibi=True),
    "tied": jl.tied(jl.Embedding(V, 8), jl.residual(jl.GRU(8)), bias=True, soft_cap=5.0),
}
MODEL = MODELS["lstm"]


def made(model):
    params, state = model.init(KEY, jl.spec((1, 4), jnp.int32))
    # Larger than at the start of training, so that the likeliest ids change from step to step.
    return jax.tree.map(lambda leaf: 3 * leaf, params), state


PARAMS, STATE = made(MODEL)
ROWS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 1], [4, 4]]


LONGEST = 24


@functools.lru_cache
def program(model):
    return jax.jit(lambda params, state, ids: model.apply(params, state, ids)[0])


def logits_of(model, params, state, ids):
    """After the ids, by the whole model, padded to one length: it is causal."""
    whole = np.zeros((1, LONGEST), np.int32)
    whole[0, : len(ids)] = ids
    return np.asarray(program(model)(params, state, whole)[0, len(ids) - 1], np.float64)


def by_recomputing(model, params, state, row, steps, stop=()):
    """Greedy decoding as one would write it without a carry."""
    ids = list(row)
    for _ in range(steps):
        ids.append(int(np.argmax(logits_of(model, params, state, ids))))
        if ids[-1] in stop:
            break
    return ids[len(row) :]


def rows_of(generated):
    return [
        np.asarray(ids)[np.asarray(mask)].tolist()
        for ids, mask in zip(generated.values, generated.mask, strict=True)
    ]


@pytest.mark.parametrize(
    "name", named(MODELS, "lstm", "conv and repeated gru", "transformer with a window", "tied")
)
def test_greedy_is_the_argmax_of_the_whole_model_row_by_row(name):
    model = MODELS[name]
    params, state = made(model)
    wanted = [by_recomputing(model, params, state, row, 6) for row in ROWS]
    assert len(set(map(tuple, wanted))) > 1
    prompt = jl.Sequence.from_rows(ROWS)
    generated = decoding.generate(model, params, state, prompt, 6)
    assert generated.values.dtype == jnp.int32
    assert rows_of(generated) == wanted


def test_a_plain_batch_and_prompts_of_one_id():
    ids = jnp.asarray([[1, 2, 3], [5, 4, 9]])
    for prompt, buckets in [
        (ids, None),
        (np.asarray(ids), ()),
        (ids.astype(jnp.uint8).tolist(), (4, 8)),
        (ids[:, :1], None),
    ]:
        wanted = [by_recomputing(MODEL, PARAMS, STATE, row, 4) for row in np.asarray(prompt)]
        generated = decoding.generate(MODEL, PARAMS, STATE, prompt, 4, buckets=buckets)
        assert rows_of(generated) == wanted


def test_a_model_with_functions_of_arrays_inside():
    def body(f, ids):
        return f.out(jnp.tanh(f.recur(f.embed(ids))))

    model = jl.compose(body, embed=jl.Embedding(V, 6), recur=jl.LSTM(9), out=jl.Dense(V))
    params, state = made(model)
    generated = decoding.generate(model, params, state, jl.Sequence.from_rows(ROWS), 4)
    wanted = [by_recomputing(model, params, state, row, 4) for row in ROWS]
    assert rows_of(generated) == wanted


def test_padded_ids_are_not_read():
    rows, steps = len(ROWS), 8
    mask = np.arange(steps)[None] < np.asarray([len(row) for row in ROWS])[:, None]
    ids = np.full((rows, steps), 10_000, np.int32)
    for i, row in enumerate(ROWS):
        ids[i, : len(row)] = row
    generated = decoding.generate(MODEL, PARAMS, STATE, jl.Sequence(ids, mask), 5)
    plain = decoding.generate(MODEL, PARAMS, STATE, jl.Sequence.from_rows(ROWS), 5)
    np.testing.assert_array_equal(generated.values, plain.values)
    # The valid ids of a row may start and end anywhere.
    behind = np.roll(ids, 1, 1), np.roll(mask, 1, 1)
    generated = decoding.generate(MODEL, PARAMS, STATE, jl.Sequence(*behind), 5)
    np.testing.assert_array_equal(generated.values, plain.values)


def test_a_row_ends_with_its_stop_id():
    free = [by_recomputing(MODEL, PARAMS, STATE, row, 6) for row in ROWS]
    stop = (free[0][2], free[2][4])
    wanted = [by_recomputing(MODEL, PARAMS, STATE, row, 6, stop) for row in ROWS]
    assert len({len(row) for row in wanted}) > 1
    prompt = jl.Sequence.from_rows(ROWS)
    generated = decoding.generate(MODEL, PARAMS, STATE, prompt, 6, stop=stop, pad=-7)
    assert rows_of(generated) == wanted
    assert generated.lengths.tolist() == [len(row) for row in wanted]
    assert set(np.asarray(generated.values)[~np.asarray(generated.mask)].tolist()) == {-7}


def test_the_loop_ends_when_all_rows_have_ended():
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    model = jl.serial(jl.Embedding(V, 6), counted, jl.LSTM(9), jl.Dense(V))
    first = by_recomputing(MODEL, PARAMS, STATE, [1], 1)[0]
    params = {name: PARAMS[name] for name in ("embedding", "lstm", "dense")}
    generated = decoding.generate(model, params, {}, jnp.asarray([[1]]), 50, stop=first)
    jax.effects_barrier()
    assert generated.lengths.tolist() == [1]
    assert len(calls) == 1


class Counter:
    """Programs compiled by JAX inside the block."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def _hear(self, event, duration, **_):
        if self.count is not None and "backend_compile" in event:
            self.count += 1

    def __exit__(self, *_):
        self.seen, self.count = self.count, None


@pytest.mark.cold
def test_one_program_for_a_bucket_whatever_the_lengths():
    model = lstm_model()

    def write(*lengths, **settings):
        rows = [np.arange(1, n + 1) % V for n in lengths]
        ids = np.zeros((2, max(lengths)), np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        with Counter() as counter:
            generated = decoding.generate(
                model, PARAMS, STATE, jl.Sequence(ids, mask), 3, **settings
            )
        return counter.seen, rows_of(generated)

    assert write(6, 9)[0] > 0
    for lengths in [(6, 6), (9, 1), (7, 8)]:
        compiled, rows = write(*lengths)
        assert compiled == 0
        prompts = [[i % V for i in range(1, n + 1)] for n in lengths]
        wanted = [by_recomputing(model, PARAMS, STATE, prompt, 3) for prompt in prompts]
        assert rows == wanted
    assert write(10, 3)[0] > 0
    assert write(17, 17)[0] == 0
    key = jax.random.key(0)
    assert write(6, 9, key=key, temperature=0.5, top_p=0.5)[0] > 0
    assert write(5, 9, key=jax.random.key(1), temperature=1.5, top_p=0.9)[0] == 0
    assert write(5, 9, key=key)[0] == 0


def test_the_default_buckets_leave_a_power_of_two_beside_the_last_id():
    from jlayers.decoding.prompts import bucket_length

    assert [bucket_length(n, None) for n in (1, 2, 3, 4, 5, 6, 9, 10, 17, 18)] == [
        *(1, 2, 3, 5, 5, 9, 9, 17, 17, 33)
    ]
    assert [bucket_length(n, (64, 16)) for n in (1, 16, 17)] == [16, 16, 64]
    assert bucket_length(7, ()) == 7


def test_a_program_is_freed_with_its_model():
    model = lstm_model()
    decoding.generate(model, PARAMS, STATE, jnp.asarray([[1]]), 2)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_decode_is_pure_and_takes_a_custom_choice():
    prompt = jl.Sequence.from_rows(ROWS)

    def second(logits, key):
        return jnp.argsort(-logits)[1]

    @jax.jit
    def write(params, prompt):
        return decoding.decode(MODEL, params, STATE, prompt, 3, second)

    generated = rows_of(write(PARAMS, prompt))
    for row, got in zip(ROWS, generated, strict=True):
        ids = list(row)
        for one in got:
            assert np.argsort(-logits_of(MODEL, PARAMS, STATE, ids))[1] == one
            ids.append(one)
    # Inside another program, generate is decode.
    inside = jax.jit(lambda params, x: decoding.generate(MODEL, params, STATE, x, 3))
    outside = decoding.generate(MODEL, PARAMS, STATE, prompt, 3)
    np.testing.assert_array_equal(inside(PARAMS, prompt).values, outside.values)


def test_half_precision_logits_are_widened():
    seen = []

    def choose(logits, key):
        seen.append(logits.dtype)
        return decoding.greedy(logits)

    model = jl.serial(MODEL, lambda x: x.astype(jnp.bfloat16))
    params, state = model.init(KEY, jl.spec((1, 4), jnp.int32))
    decoding.decode(model, params, state, jnp.asarray([[1, 2]]), 2, choose)
    assert set(seen) == {jnp.dtype(jnp.float32)}


LOGITS = np.log(np.asarray([0.05, 0.3, 0.02, 0.3, 0.08, 0.25]))


def softmax(logits):
    p = np.exp(logits - np.max(logits))
    return p / p.sum()


def nucleus(p, most):
    """By definition: the likeliest ids, until their probability reaches ``most``."""
    kept, total = [], 0.0
    for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if total >= most:
            break
        kept.append(i)
        total += p[i]
    return kept


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_filters_keep_what_their_definitions_say(seed, dtype):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(3, 9)) * 2, dtype)
    wide = np.asarray(logits, np.float64)
    for k in (1, 2, 8, 9, 20):
        got = decoding.top_k(logits, k)
        assert got.dtype == jnp.float32
        for row, filtered in zip(wide, np.asarray(got, np.float64), strict=True):
            kept = sorted(range(9), key=lambda i: (-row[i], i))[:k]
            wanted = np.full(9, -np.inf)
            wanted[kept] = row[kept]
            np.testing.assert_array_equal(filtered, wanted)
    for p in (1e-6, 0.3, 0.7, 0.95, 1.0):
        got = decoding.top_p(logits, p)
        for row, filtered in zip(wide, np.asarray(got, np.float64), strict=True):
            wanted = np.full(9, -np.inf)
            kept = nucleus(softmax(row), p)
            wanted[kept] = row[kept]
            np.testing.assert_array_equal(filtered, wanted)
    got = decoding.temperature(logits, 0.25)
    np.testing.assert_allclose(got, 4 * wide, rtol=1e-5, atol=1e-6)


def test_top_p_of_one_keeps_all_ids_although_sums_are_rounded():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=5000) * 4, jnp.float32)
    assert bool(jnp.isfinite(decoding.top_p(logits, 1.0)).all())


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 2.0, "top_k": 4}],
    ids=str,
)
def test_draws_have_the_wanted_distribution(settings):
    """Chi-square against the probabilities computed by hand; the key is fixed."""
    count, logits = 20_000, LOGITS / settings.get("temperature", 1.0)
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = order[: settings.get("top_k", len(logits))]
    if "top_p" in settings:
        kept = [i for i in kept if i in nucleus(softmax(logits), settings["top_p"])]
    wanted = np.zeros(len(logits))
    wanted[kept] = softmax(logits[kept])
    choose = decoding.sampler(**settings)
    drawn = jax.vmap(choose, (None, 0))(
        jnp.asarray(LOGITS, jnp.float32), jax.random.split(jax.random.key(1), count)
    )
    seen = np.bincount(np.asarray(drawn), minlength=len(logits))
    assert seen[wanted == 0].sum() == 0
    expected = count * wanted[wanted > 0]
    chi = ((seen[wanted > 0] - expected) ** 2 / expected).sum()
    # 1 in 10 000 of right samplers is above: mean + 4.5 deviations is more than that.
    freedom = len(expected) - 1
    assert chi < freedom + 4.5 * math.sqrt(2 * freedom) + 4


def test_the_first_id_drawn_has_the_models_probabilities():
    rows = 4000
    prompt = jnp.broadcast_to(jnp.asarray([[1, 2, 3]]), (rows, 3))
    generated = decoding.generate(MODEL, PARAMS, STATE, prompt, 1, key=KEY, temperature=1.0)
    wanted = softmax(logits_of(MODEL, PARAMS, STATE, [1, 2, 3]))
    seen = np.bincount(np.asarray(generated.values[:, 0]), minlength=V)
    likely = rows * wanted > 5
    chi = ((seen - rows * wanted) ** 2 / (rows * wanted))[likely].sum()
    freedom = likely.sum()
    assert chi < freedom + 4.5 * math.sqrt(2 * freedom) + 4


def test_a_rows_draws_do_not_depend_on_the_other_rows():
    settings = {"key": KEY, "temperature": 1.5}
    one = decoding.generate(
        MODEL, PARAMS, STATE, jl.Sequence.from_rows([ROWS[0], ROWS[1]]), 6, **settings
    )
    other = decoding.generate(
        MODEL, PARAMS, STATE, jl.Sequence.from_rows([ROWS[0], [3, 3, 3, 3], [2]]), 6, **settings
    )
    np.testing.assert_array_equal(one.values[0], other.values[0])
    # But each step and each row draws again.
    same = decoding.generate(
        MODEL, jax.tree.map(jnp.zeros_like, PARAMS), STATE, jnp.ones((3, 2), int), 12, **settings
    )
    assert len({tuple(row) for row in rows_of(same)}) == 3
    assert all(len(set(row)) > 3 for row in rows_of(same))


def test_greedy_is_the_limit_of_the_samplers():
    prompt = jl.Sequence.from_rows(ROWS)
    greedy = decoding.generate(MODEL, PARAMS, STATE, prompt, 5)
    for settings in (
        {"temperature": 0.7, "top_k": 1},
        {"temperature": 0.7, "top_p": 1e-6},
        {"temperature": 1e-4},
        {"temperature": 0.0, "top_k": 3, "top_p": 0.5},
    ):
        drawn = decoding.generate(MODEL, PARAMS, STATE, prompt, 5, key=KEY, **settings)
        np.testing.assert_array_equal(drawn.values, greedy.values)


def exhaustive(model, params, state, row, num_embeddings, steps, stop, alpha):
    """Every continuation with its score, the best first."""
    found = {}
    for ids in itertools.product(range(num_embeddings), repeat=steps):
        total, taken = 0.0, []
        for one in ids:
            logits = logits_of(model, params, state, [*row, *taken])
            total += float(np.log(softmax(logits))[one])
            taken.append(one)
            if one in stop:
                break
        found[tuple(taken)] = total / ((5 + len(taken)) / 6) ** alpha
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize(("stop", "alpha"), [((), 0.0), ((1,), 0.0), ((1,), 3.0)])
def test_a_wide_beam_finds_every_continuation(stop, alpha):
    model = jl.serial(
        jl.Embedding(3, 4), jl.repeat(jl.residual(jl.GRU(4)), 2), jl.LSTM(5), jl.Dense(3)
    )
    params, state = made(model)
    rows, steps = [[0, 2], [1]], 3
    search = jax.jit(
        lambda prompt: decoding.beam_search(
            model, params, state, prompt, steps, beams=30, stop=stop, length_penalty=alpha, pad=9
        )
    )
    found = search(jl.Sequence.from_rows(rows))
    for i, row in enumerate(rows):
        wanted = exhaustive(model, params, state, row, 3, steps, stop, alpha)
        count = len(wanted)
        got = [
            tuple(np.asarray(ids)[np.asarray(mask)].tolist())
            for ids, mask in zip(found.ids[i], found.mask[i], strict=True)
        ]
        assert got[:count] == [ids for ids, _ in wanted]
        scores = [score for _, score in wanted]
        np.testing.assert_allclose(found.scores[i, :count], scores, rtol=1e-5)
        assert np.isneginf(np.asarray(found.scores[i, count:])).all()
        assert not np.asarray(found.mask[i, count:]).any()
    assert set(np.asarray(found.ids)[~np.asarray(found.mask)].tolist()) <= {9}


@pytest.mark.parametrize("name", named(MODELS, "lstm", "transformer with a window"))
def test_one_beam_is_greedy_and_more_are_no_worse(name):
    model = MODELS[name]
    params, state = made(model)
    prompt, settings = jl.Sequence.from_rows(ROWS), {"stop": 4}
    greedy = decoding.generate(model, params, state, prompt, 5, **settings)
    one = decoding.beam_search(model, params, state, prompt, 5, beams=1, **settings)
    np.testing.assert_array_equal(one.ids[:, 0], greedy.values)
    np.testing.assert_array_equal(one.mask[:, 0], greedy.mask)
    many = decoding.beam_search(model, params, state, prompt, 5, beams=4, **settings)
    assert bool((jnp.diff(many.scores, axis=1) <= 0).all())
    alone = decoding.beam_search(model, params, state, jnp.asarray(ROWS[2:3]), 5, beams=4, stop=4)
    np.testing.assert_array_equal(many.ids[2], alone.ids[0])
    for i, row in enumerate(ROWS):
        for b in range(4):
            ids = np.asarray(many.ids[i, b])[np.asarray(many.mask[i, b])].tolist()
            total, before = 0.0, list(row)
            for one_id in ids:
                total += np.log(softmax(logits_of(model, params, state, before))[one_id])
                before.append(one_id)
            np.testing.assert_allclose(many.scores[i, b], total, rtol=1e-4)


IDS = jnp.asarray([[1, 2, 3]])


def write(prompt=IDS, steps=2, model=MODEL, params=PARAMS, **settings):
    return decoding.generate(model, params, STATE, prompt, steps, **settings)


def of(model):
    return write(model=model, params=model.init(KEY, jl.spec((1, 3), jnp.int32))[0])


WRONG = [
    (lambda: write(temperature=-1), "generate: temperature must be a number of at least 0, got -1"),
    (
        lambda: write(temperature=0.7),
        "generate: temperature 0.7 needs a key",
        "hint:     key=jax.random.key(0)",
    ),
    (
        lambda: write(temperature=1, key=7),
        "generate: the key must be a single typed key",
    ),
    (lambda: write(top_k=0), "generate: top_k must be a positive int, got 0"),
    (lambda: write(top_p=0.0), "generate: top_p must be more than 0 and at most 1, got 0.0"),
    (lambda: write(top_p=1.5), "generate: top_p must be more than 0 and at most 1, got 1.5"),
    (lambda: write(top_p="all"), "generate: top_p must be a number of at least 0, got 'all'"),
    (
        lambda: write(stop=99),
        "generate: stop 99 is not an id of the model, and would never be generated",
    ),
    (
        lambda: write(temperature=jnp.float32(-1.0)),
        "generate: temperature must be a number of at least 0, got -1.0",
    ),
    (lambda: jax.jit(lambda t: write(temperature=t))(0.5), "generate: temperature is traced"),
    (lambda: write(stop="."), "generate: stop must be an int, got '.'"),
    (lambda: write(stop=(1, 2.5)), "generate: stop must be an int, got 2.5"),
    (lambda: write(pad=None), "generate: pad must be an int, got None"),
    (lambda: write(steps=0), "generate: steps must be a positive int, got 0"),
    (
        lambda: write(IDS.astype(jnp.float32)),
        "generate: prompt must be a batch of integer ids",
        "expected: int[batch, steps], or a Sequence of them",
        "got:      float32[1, 3]",
        "hint:     prompt.astype(jnp.int32)",
    ),
    (
        lambda: write(IDS[0]),
        "generate: prompt must be a batch of integer ids",
        "got:      int32[3]",
        "hint:     prompt[None] for a batch of one",
    ),
    (
        lambda: write([[1, 2], [3]]),
        "generate: prompt must be a batch of integer ids",
        "hint:     jl.Sequence.from_rows(rows) for rows of different lengths",
    ),
    (
        lambda: write(IDS[:, :0]),
        "generate: the prompt is empty",
        "got:      int32[1, 0]",
        "hint:     a first id for every row: one that begins a text",
    ),
    (
        lambda: write(jl.Sequence.from_lengths(jnp.ones((3, 2), jnp.int32), [1, 0, 2])),
        "generate: row 1 of the prompt is empty",
        "hint:     a first id for every row: one that begins a text",
    ),
    (
        lambda: write(jnp.asarray([[3, -1]])),
        "generate: the prompt holds negative ids",
        "hint:     jl.Sequence(ids, mask) says what is padding",
    ),
    (
        lambda: write(buckets=(1, 2)),
        "generate: a prompt of 3 steps does not fit into the buckets",
        "got:      [1, 2]",
    ),
    (lambda: write(buckets=(0,)), "generate: a bucket must be a positive int, got 0"),
    (
        lambda: write(model=jnp.sin),
        "generate: model must be a Layer",
        "hint:     jl.lift(model)",
    ),
    (
        lambda: of(jl.serial(jl.Embedding(V, 4), jl.LSTM(3, reverse=True), jl.Dense(V))),
        "LSTM at 'lstm': cannot be streamed: it reads the sequence from its end",
        "layer:    LSTM(3, reverse=True)",
    ),
    (
        lambda: of(jl.serial(jl.Embedding(V, 4), jl.GlobalAvgPool())),
        "*the model must return logits",
        "expected: floating[1, 3, num_embeddings] for ids int32[1, 3]",
        "got:      float32[1, 4]",
    ),
    (
        lambda: of(jl.lift(lambda ids: ids)),
        "*the model must return logits",
        "got:      int32[1, 3]",
    ),
    (
        lambda: decoding.decode(MODEL, PARAMS, STATE, IDS, 2, decoding.sampler()),
        "*sampling needs a key",
        "hint:     key=jax.random.key(0)",
    ),
    (lambda: decoding.sampler(temperature=-0.1), "sampler: temperature must be a number*got -0.1"),
    (
        lambda: decoding.decode(MODEL, PARAMS, STATE, IDS, 2, lambda logits, key: logits),
        "decode: choose must return an id for each row",
        "expected: int[1] of 1 rows",
        "got:      float32[1, 11]",
    ),
    (
        lambda: decoding.decode(MODEL, PARAMS, STATE, IDS, 2, lambda logits: 0),
        "decode: choose raised TypeError*",
    ),
    (
        lambda: decoding.beam_search(MODEL, PARAMS, STATE, IDS, 2, beams=0),
        "beam_search: beams must be a positive int, got 0",
    ),
    (
        lambda: decoding.beam_search(MODEL, PARAMS, STATE, IDS, 2, beams=2, length_penalty=-1),
        "beam_search: length_penalty must be a number of at least 0, got -1",
    ),
]


@each(WRONG)
def test_errors(case):
    read(case)
