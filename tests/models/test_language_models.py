"""jlayers.models of text and speech: sizes as published, and what each of them can do, in small."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tables.tiers import named

import jlayers as jl
from jlayers import models

IDS = jl.spec((2, 6), jnp.int32)
PAIR = (IDS, jl.spec((2, 9), jnp.int32))
SPEECH = (IDS, jl.spec((2, 12, 80)))
# As published, and counted by transformers; Whisper's without the fixed sinusoids.
PUBLISHED = {
    "BERT()": (IDS, 109_482_240),
    "BERT('large')": (IDS, 335_141_888),
    "BERT(head='ids')": (IDS, 109_514_298),
    "BERT(head=None)": (IDS, 108_891_648),
    "GPT2()": (IDS, 124_439_808),
    "GPT2('medium')": (IDS, 354_823_168),
    "GPT2('large')": (IDS, 774_030_080),
    "GPT2('xl')": (IDS, 1_557_611_200),
    "LSTMLM()": (IDS, 19_775_200),
    "LSTMLM('large')": (IDS, 66_022_000),
    "Llama()": (IDS, 6_738_415_616),
    "Llama('llama-2-13b')": (IDS, 13_015_864_320),
    "Llama('llama-2-70b')": (IDS, 68_976_648_192),
    "Llama('llama-3-8b')": (IDS, 8_030_261_248),
    "Llama('llama-3-70b')": (IDS, 70_553_706_496),
    "Llama('mixtral-8x7b')": (IDS, 46_702_792_704),
    "MambaLM()": (IDS, 129_135_360),
    "MambaLM('370m')": (IDS, 371_516_416),
    "MambaLM('790m')": (IDS, 793_204_224),
    "MambaLM('1.4b')": (IDS, 1_372_178_432),
    "MambaLM('2.8b')": (IDS, 2_768_345_600),
    "T5()": (PAIR, 60_506_624),
    "T5('base')": (PAIR, 222_903_552),
    "T5('large')": (PAIR, 737_668_096),
    "T5('1.1-small')": (PAIR, 76_961_152),
    "T5('1.1-base')": (PAIR, 247_577_856),
    "T5('1.1-large')": (PAIR, 783_150_080),
    "Whisper()": (SPEECH, 37_760_640 - 1500 * 384),
    "Whisper('base')": (SPEECH, 72_593_920 - 1500 * 512),
    "Whisper('small')": (SPEECH, 241_734_912 - 1500 * 768),
    "Whisper('medium')": (SPEECH, 763_857_920 - 1500 * 1024),
    "Whisper('large')": (SPEECH, 1_543_304_960 - 1500 * 1280),
}
FAST = {text for text in PUBLISHED if "('" not in text} | {"Llama('mixtral-8x7b')"}


@pytest.mark.parametrize("text", named(PUBLISHED, *FAST))
def test_parameters_as_published(text):
    x, published = PUBLISHED[text]
    model = eval(text, vars(models))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == published


SMALL = {"num_embeddings": 11, "features": 8, "num_layers": 2}
HEADS = SMALL | {"num_heads": 2}
WIDE = HEADS | {"hidden_dim": 12}
MODELS = {
    "bert": (models.BERT(**HEADS, dropout_rate=0.1), IDS),
    "bert, ids": (models.BERT(**HEADS, head="ids"), IDS),
    "gpt": (models.GPT2(**HEADS, dropout_rate=0.1), IDS),
    "llama": (models.Llama(**WIDE, num_kv_heads=1, tied=True), IDS),
    "lstm": (models.LSTMLM(**SMALL, dropout_rate=0.1), IDS),
    "mamba": (models.MambaLM(**SMALL, state_size=3), IDS),
    "mixtral": (models.Llama(**WIDE, num_experts=3, window=4), IDS),
    "t5": (models.T5(**WIDE, head_dim=3, dropout_rate=0.1), PAIR),
    "t5, 1.1": (models.T5("1.1-small", **WIDE), PAIR),
    "whisper": (models.Whisper(**HEADS, num_decoder_layers=1, dropout_rate=0.1), SPEECH),
}
CAUSAL = [name for name in MODELS if not name.startswith("bert")]
# What is left out differs in a row of one mechanism.
MOST = set(MODELS) - {"bert, ids", "llama", "t5, 1.1"}


def drawn(x, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(spec):
        if jnp.issubdtype(spec.dtype, jnp.integer):
            return rng.integers(1, 11, spec.shape, spec.dtype)
        return rng.standard_normal(spec.shape).astype(spec.dtype)

    return jax.tree.map(leaf, x)


@pytest.fixture(scope="module")
def prepared():
    """A model, its parameters with larger values than at init, and its input."""
    known = {}

    def of(name):
        if name not in known:
            model, x = MODELS[name]
            params, state = model.init(jax.random.key(0), x)
            known[name] = jax.tree.map(lambda leaf: 3 * leaf, params), state
        return (MODELS[name][0], *known[name], drawn(MODELS[name][1]))

    return of


@pytest.mark.parametrize("name", MODELS)
def test_the_repr_builds_it(name):
    model, _ = MODELS[name]
    again = eval(repr(model), vars(models))
    assert repr(again) == repr(model)
    assert [path for path, _ in jl.walk(again)] == [path for path, _ in jl.walk(model)]


@pytest.mark.parametrize("name", named(MODELS, *MOST))
def test_it_trains(name, prepared):
    model, params, state, x = prepared(name)

    def loss(params, x, key):
        y, _ = model.apply(params, state, x, key=key, train=True)
        return jnp.sum(y**2)

    gradients = jax.jit(jax.grad(loss))(params, x, jax.random.key(1))
    for path, gradient in jl.flatten(gradients).items():
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient), path


@pytest.mark.parametrize("name", named(MODELS, *MOST))
def test_it_is_exported_for_any_batch_and_time(name, prepared):
    model, params, state, x = prepared(name)
    beside = ", steps" if isinstance(x, tuple) else ""
    sizes = export.symbolic_shape(f"batch, time{beside}")

    def free(spec, steps):
        # The encoder of speech halves its steps.
        rest = spec.shape[2:]
        steps = 2 * steps if rest else steps
        return jax.ShapeDtypeStruct((sizes[0], steps, *rest), spec.dtype)

    specs = [free(s, size) for s, size in zip(jax.tree.leaves(x), sizes[1:], strict=False)]
    many = jax.tree.unflatten(jax.tree.structure(x), specs)
    apply = jax.jit(lambda x: model.apply(params, state, x)[0])
    exported = export.export(apply)(many)
    # One program of both, which compiles sooner than two.
    got, want = jax.jit(lambda x: (exported.call(x), apply(x)))(x)
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("name", named(CAUSAL, *MOST & set(CAUSAL)))
def test_it_streams(name, prepared):
    model, params, state, x = prepared(name)
    start, step = jl.stream(model, capacity=6)

    def at(x, steps):
        return (x[0][:, steps], x[1]) if isinstance(x, tuple) else x[:, steps]

    @jax.jit
    def both(x):
        carry, parts = start(params, state, at(x, slice(1))), []
        for steps in (slice(2), slice(2, 3), slice(3, 6)):
            y, carry = step(params, state, carry, at(x, steps))
            parts.append(y)
        return jnp.concatenate(parts, 1), model.apply(params, state, x)[0]

    np.testing.assert_allclose(*both(x), 1e-4, 1e-5)


@pytest.mark.parametrize("name", named(["bert", "bert, ids", "t5", "whisper"], "bert", "t5"))
def test_padding_changes_nothing(name, prepared):
    """The context here is an array with as many steps as there are ids, and is not padded."""
    model, params, state, x = prepared(name)
    masks = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)

    def at(x, change):
        return (change(x[0]), x[1][:, :6]) if isinstance(x, tuple) else change(x)

    @jax.jit
    def both(x):
        alone = at(jax.tree.map(lambda leaf: leaf[:1], x), lambda ids: ids[:, 1:5])
        y, _ = model.apply(params, state, at(x, lambda ids: jl.Sequence(ids, masks)))
        return y, model.apply(params, state, alone)[0]

    y, want = both(x)
    got = y.values[:1, 1:5] if isinstance(y, jl.Sequence) else y[:1]
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in MODELS if name != "whisper"])
def test_the_laws_of_layers(name):
    model, x = MODELS[name]
    jl.testing.check_layer(model, x)
    if not isinstance(x, tuple):
        jl.testing.check_sequence(model, x)


def test_sound_in_half_precision(prepared):
    """Whatever the dtype of the parameters: that of the sound is the output's."""
    model, params, state, (ids, mel) = prepared("whisper")
    apply = jax.jit(model.apply)
    want, _ = apply(params, state, (ids, mel))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for weights, sound in ((params, jnp.bfloat16), (half, jnp.float32)):
        y, _ = apply(weights, state, (ids, mel.astype(sound)))
        assert y.dtype == sound
        y = np.asarray(y).astype(np.float32)
        np.testing.assert_allclose(y, want, 0, 0.1 * np.abs(want).max())


def test_segments_of_bert(prepared):
    model, params, state, ids = prepared("bert")
    apply = jax.jit(model.apply)
    y, _ = apply(params, state, ids)
    zero, _ = apply(params, state, (ids, np.zeros_like(ids)))
    other, _ = apply(params, state, (ids, np.ones_like(ids)))
    np.testing.assert_array_equal(y, zero)
    assert np.abs(y - other).max() > 1e-2


@pytest.mark.parametrize("model", [models.GPT2(**HEADS, head=False), models.BERT(**HEADS)])
def test_features_have_the_paths_of_the_whole(model):
    whole = models.GPT2(**HEADS) if model.maker == "GPT2" else models.BERT(**HEADS, head="ids")
    ours, theirs = (set(jl.parameters(each, IDS)) for each in (model, whole))
    body = {path for path in ours if path.startswith(("embedding", "layer"))}
    assert body == {path for path in theirs if path.startswith(("embedding", "layer"))}


WRONG = {
    "GPT2: unknown size 'giant'": (
        lambda: models.GPT2("giant"),
        "'small', 'medium', 'large', 'xl'",
    ),
    "Llama: unknown size 7": (lambda: models.Llama(7), "'llama-2-7b', 'llama-2-13b'"),
    "BERT: unknown head 'cls'": (lambda: models.BERT(head="cls"), "'pool', 'ids', None"),
    "BERT: ids and types are of different shapes": (
        lambda: jl.out_spec(models.BERT(**HEADS), (IDS, jl.spec((1, 6), jnp.int32))),
        "(int32[2, 6], int32[1, 6])",
    ),
    "takes no empty axis": (
        lambda: jl.out_spec(models.BERT(**HEADS), jl.spec((2, 0), jnp.int32)),
        "(batch, time, features), of one step or more",
    ),
    # An array of two rows is not a pair.
    "T5: takes a pair": (lambda: jl.out_spec(models.T5(**WIDE), IDS), "(ids, source)"),
    "Whisper: takes a pair": (lambda: jl.out_spec(models.Whisper(**HEADS), IDS), "(ids, mel)"),
}


@pytest.mark.parametrize("problem", WRONG)
def test_errors(problem):
    build, expected = WRONG[problem]
    with pytest.raises(jl.LayerError) as caught:
        build()
    assert problem in str(caught.value)
    assert expected in str(caught.value)
