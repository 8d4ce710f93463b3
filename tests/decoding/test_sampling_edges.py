"""Logits and settings at the edges: what has no right answer is named, all else is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import decoding

V = 5
KEY = jax.random.key(1)
INF, NAN = jnp.inf, jnp.nan
TINY = float(np.finfo(np.float32).tiny)


def model_of(*rows):
    """A causal model whose logits after id i are ``rows[i]``."""
    table = jnp.asarray(rows, jnp.float32)
    return jl.lift(lambda ids: table[ids])


def draws(logits, count=400, **settings):
    """The ids that are drawn, sorted."""
    choose = decoding.sampler(**settings)
    keys = jax.random.split(KEY, count)
    return sorted(set(np.asarray(jax.vmap(choose, (None, 0))(logits, keys)).tolist()))


PLAIN = jnp.log(jnp.asarray([0.1, 0.4, 0.05, 0.15, 0.3]))
BIG = jnp.asarray([3e38, -3e38, 2.9e38, 0.0, -INF])
# (logits, settings, the ids that may be drawn)
SETTINGS = {
    "top_p of 1": (PLAIN, {"top_p": 1.0}, [0, 1, 2, 3, 4]),
    "top_p just above 0": (PLAIN, {"top_p": TINY}, [1]),
    "top_p that float32 rounds to 0": (PLAIN, {"top_p": 1e-300}, [1]),
    "top_p that is traced and 0": (PLAIN, {"top_p": jnp.float32(1e-45)}, [1]),
    "top_k of 1": (PLAIN, {"top_k": 1}, [1]),
    "top_k of more than there are": (PLAIN, {"top_k": 99}, [0, 1, 2, 3, 4]),
    "temperature 0": (PLAIN, {"temperature": 0.0}, [1]),
    "temperature 0 as int": (PLAIN, {"temperature": 0}, [1]),
    "temperature -0": (PLAIN, {"temperature": -0.0}, [1]),
    "temperature tiny": (PLAIN, {"temperature": TINY}, [1]),
    "temperature that float32 rounds to 0": (PLAIN, {"temperature": 1e-300}, [1]),
    "temperature huge": (PLAIN, {"temperature": 1e38}, [0, 1, 2, 3, 4]),
    "temperature that float32 has not": (PLAIN, {"temperature": 1e300}, [0, 1, 2, 3, 4]),
    "temperature huge, an id left out": (BIG / 1e3, {"temperature": 1e300}, [0, 1, 2, 3]),
    "temperature tiny, an id left out": (BIG, {"temperature": 1e-30}, [0]),
    "large logits": (BIG, {"temperature": 0.1}, [0]),
    "large logits, top_p": (BIG, {"top_p": 0.9}, [0]),
    "one id left": (jnp.where(jnp.arange(V) == 3, 0.0, -INF), {"top_p": 0.5}, [3]),
    "one id left, top_k": (jnp.where(jnp.arange(V) == 3, 0.0, -INF), {"top_k": 3}, [3]),
    "equal logits, top_k": (jnp.zeros(V), {"top_k": 2}, [0, 1]),
    "one id": (jnp.zeros(1), {"top_p": 0.5, "top_k": 1}, [0]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_are_of_the_ids_that_the_settings_leave(name):
    logits, settings, wanted = SETTINGS[name]
    assert draws(logits, **settings) == wanted


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_logits_are_drawn_from_as_float32(dtype):
    logits = (10 * PLAIN).astype(dtype)
    wide = logits.astype(jnp.float32)
    for settings in ({"temperature": 1e-3}, {"temperature": 5.0}, {"top_p": 0.6}, {"top_k": 2}):
        assert draws(logits, **settings) == draws(wide, **settings)
    assert decoding.greedy(logits) == 1


ONLY_2 = [-INF, -INF, 0.0, -INF, -INF]
# Logits for which there is no id, and what the error says of them.
UNUSABLE = {
    "NaN": ([0.0, NAN, 1.0, 2.0, 3.0], "are NaN"),
    "all NaN": ([NAN] * V, "are NaN"),
    "inf": ([0.0, INF, 1.0, 2.0, 3.0], "hold inf"),
    "inf and -inf": ([INF, -INF, INF, 0.0, 0.0], "hold inf"),
    "all -inf": ([-INF] * V, "are all -inf"),
}
CHOICES = {
    "greedy": {},
    "drawn": {"temperature": 0.7, "key": KEY},
    "filtered": {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "key": KEY},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_logits_give_no_id(kind):
    logits = jnp.asarray(UNUSABLE[kind][0])
    assert decoding.greedy(logits) == -1
    for settings in ({}, {"top_k": 2}, {"top_p": 0.5}):
        assert decoding.sampler(**settings)(logits, KEY) == -1


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_row_without_an_id_to_choose_is_named(kind):
    logits, why = UNUSABLE[kind]
    # After 0 comes 1, after 1 there is nothing.
    model = model_of([0, 9, 0, 0, 0], logits, ONLY_2)
    prompt = jnp.asarray([[2], [0]])
    for settings in CHOICES.values():
        with pytest.raises(jl.LayerError) as caught:
            decoding.generate(model, {}, {}, prompt, 4, **settings)
        text = f"generate: row 1 has no id to choose: its logits after 1 id {why}"
        assert str(caught.value).startswith(text), caught.value
    with pytest.raises(jl.LayerError, match="beam_search: row 1 has no id to choose"):
        decoding.beam_search(model, {}, {}, prompt, 4, beams=2)


def test_under_jit_such_a_row_ends():
    model = model_of([0, 9, 0, 0, 0], [NAN] * V, ONLY_2)
    prompt = jnp.asarray([[2], [0]])
    run = jax.jit(lambda prompt: decoding.decode(model, {}, {}, prompt, 4, pad=7))
    found = run(prompt)
    assert found.lengths.tolist() == [4, 1]
    assert found.values.tolist() == [[2, 2, 2, 2], [1, 7, 7, 7]]
    beams = jax.jit(lambda x: decoding.beam_search(model, {}, {}, x, 4, beams=2))(prompt)
    assert beams.ids[0, 0].tolist() == [2, 2, 2, 2]
    assert bool(jnp.isnan(beams.scores[1]).all())
    assert not bool(beams.mask[1].any())


def test_a_row_that_has_ended_is_not_asked():
    # The id 4 ends a row; what the model makes of it is of no interest.
    model = model_of([0, 0, 0, 0, 9], [0, 9, 0, 0, 0], *[[NAN] * V] * 3)
    found = decoding.generate(model, {}, {}, jnp.asarray([[0], [1]]), 3, stop=4)
    assert found.lengths.tolist() == [1, 3]


@pytest.mark.parametrize("kind", ["plain", "sequence"])
def test_prompts_of_no_rows(kind):
    prompt = jnp.zeros((0, 3), jnp.int32)
    if kind == "sequence":
        prompt = jl.Sequence.from_lengths(prompt, jnp.zeros(0, jnp.int32))
    model = jl.serial(jl.Embedding(V, 4), jl.repeat(jl.LSTM(4), 2), jl.Dense(V))
    trees = model.init(KEY, jl.spec((1, 3), jnp.int32))
    assert decoding.generate(model, *trees, prompt, 2).shape == (0, 2)
    assert decoding.decode(model, *trees, prompt, 2).shape == (0, 2)
    beams = decoding.beam_search(model, *trees, prompt, 2, beams=3)
    assert beams.ids.shape == beams.mask.shape == (0, 3, 2)
    assert beams.scores.shape == (0, 3)


def test_fewer_continuations_than_beams():
    model = model_of(*[[0.0, -INF, -INF, -INF, -INF]] * V)
    beams = decoding.beam_search(model, {}, {}, jnp.asarray([[0]]), 3, beams=4)
    assert beams.mask.sum(-1).tolist() == [[3, 0, 0, 0]]
    np.testing.assert_array_equal(beams.scores, [[0, -INF, -INF, -INF]])


IDS = jnp.asarray([[1, 2]])
MODEL = model_of(*[[0.0] * V] * V)
WRONG = [
    (
        lambda: decoding.generate(MODEL, {}, {}, IDS, 2, temperature=NAN, key=KEY),
        "generate: temperature must be a number of at least 0, got nan",
    ),
    (
        lambda: decoding.generate(MODEL, {}, {}, IDS, 2, temperature=INF, key=KEY),
        "generate: temperature must be finite, got inf",
        "hint:     1e6 for ids that are all equally likely",
    ),
    (
        lambda: decoding.sampler(top_p=NAN),
        "sampler: top_p must be a number of at least 0, got nan",
    ),
    (lambda: decoding.sampler(top_k=2.0), "sampler: top_k must be a positive int, got 2.0"),
    (lambda: decoding.top_k(PLAIN, 0), "top_k: k must be a positive int, got 0"),
    (
        lambda: decoding.generate(MODEL, {}, {}, IDS, 2, stop=-1),
        "generate: stop -1 is not an id of the model, and would never be generated",
    ),
    (
        lambda: decoding.beam_search(MODEL, {}, {}, IDS, 2, beams=2, stop=(1, V)),
        "beam_search: stop 5 is not an id of the model, and would never be generated",
        "expected: 0 to 4",
    ),
    (
        lambda: decoding.generate(MODEL, {}, {}, IDS, 2, pad=2**31),
        "generate: pad must be an int32, got 2147483648",
    ),
    (
        lambda: decoding.decode(MODEL, {}, {}, IDS, 2, lambda logits, key: jnp.int32(V)),
        "decode: row 0 has no id to choose: its logits after the prompt are fine, and choose "
        "gave an id outside them",
        "got:      1 such row",
    ),
    (
        lambda: decoding.beam_search(MODEL, {}, {}, IDS, 0, beams=2),
        "beam_search: steps must be a positive int, got 0",
    ),
]


@each(WRONG)
def test_errors(case):
    read(case)
