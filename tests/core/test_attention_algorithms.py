"""Every way to compute attention gives the softmax's numbers in float64, and so do derivatives."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles import attention_reference
from oracles.derivatives import compare, compare_transforms
from tables.tiers import full, sample

from jlayers import core
from jlayers.core.attention import blockwise
from jlayers.core.attention.attention import choose_attention
from jlayers.core.dispatch import recording

pytestmark = pytest.mark.optimised(full=True)

METHODS = sample(["direct", "blocks", None], 0, 1)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


float64 = pytest.mark.usefixtures("_float64")


def _softmax(q, k, v, *, causal=False, mask=None, scale=None):
    """Attention by its formula; rows with no visible key are zeros."""
    heads, keys = q.shape[2], k.shape[1]
    k, v = (jnp.repeat(a, heads // k.shape[2], 2) for a in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * (scale or q.shape[-1] ** -0.5)
    visible = jnp.ones(scores.shape, bool)
    if causal:
        triangle = jnp.tril(jnp.ones(scores.shape[2:], bool), keys - q.shape[1])
        visible &= jnp.broadcast_to(triangle, scores.shape)
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        visible &= jnp.broadcast_to(mask, scores.shape)
    scores = jnp.where(visible, scores, -1e30)
    weights = jnp.where(visible, jnp.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", weights / jnp.where(total == 0, 1.0, total), v)


def _random_case(seed):
    """Random shapes: ragged blocks, grouped heads, masks, more or fewer keys than queries."""
    draw = random.Random(seed)
    batch, num_kv_heads, groups = draw.choice([1, 2]), draw.choice([1, 2]), draw.choice([1, 2, 3])
    steps = draw.choice([1, 5, 70, 129, 300])
    keys = draw.choice([1, 7, steps, steps, 140, 290])
    arrays = attention_reference.arrays(
        seed, batch, steps, keys, num_kv_heads * groups, num_kv_heads, draw.choice([1, 4])
    )
    how = {"causal": draw.random() < 0.6, "scale": draw.choice([None, 0.3])}
    if draw.random() < 0.6:
        whole = (batch, num_kv_heads * groups, steps, keys)
        shape = [draw.choice([1, size]) for size in whole][draw.choice([0, 0, 2]) :]
        how["mask"] = jnp.asarray(np.random.default_rng(seed).random(shape) < 0.5)
    return arrays, how


def _compare(ours, theirs, arrays):
    compare(ours, theirs, arrays, value=1e-9)


@float64
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", sample(range(8), 0, 1))
def test_every_method_is_the_softmax(seed, method):
    arrays, how = _random_case(seed)
    _compare(
        lambda q, k, v: core.attention(q, k, v, **how, method=method),
        lambda q, k, v: _softmax(q, k, v, **how),
        arrays,
    )


@float64
@pytest.mark.parametrize("causal", [False, True])
def test_many_blocks_run_in_loops(causal, monkeypatch):
    """More blocks than the program has segments, ragged at the end."""
    monkeypatch.setattr(blockwise, "_MAX_SEGMENTS", 2)
    how = {"causal": causal, "scale": 0.31}
    _compare(
        lambda q, k, v: core.attention(q, k, v, **how, method="blocks"),
        lambda q, k, v: _softmax(q, k, v, **how),
        attention_reference.arrays(0, 1, 1300, 1300, 1, 1, 2),
    )


@float64
@pytest.mark.parametrize("masked", [*full(False), True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_every_transformation(method, masked):
    q, k, v = attention_reference.arrays(1, 2, 70, 75, 4, 2, 3)
    mask = jnp.asarray(np.random.default_rng(0).random((2, 1, 70, 75)) < 0.6) if masked else None
    mask = mask if mask is None else mask.at[:, :, 3].set(False)

    def ours(q, k, v, mask=mask):
        return core.attention(q, k, v, causal=True, mask=mask, method=method)

    def theirs(q, k, v, mask=mask):
        return _softmax(q, k, v, causal=True, mask=mask)

    def along(f):
        return lambda t: jnp.sum(jnp.sin(f(q * t, k + t, v * t)))

    def curvature(f):
        return lambda t, q: jax.hessian(along(f))(t)

    def reverse_twice(f):
        return lambda t, q: jax.grad(jax.grad(along(f)))(t)

    def each(f):
        def loss(q, mask):
            return jnp.sum(jnp.sin(f(q, k, v, mask)))

        masks = None if mask is None else jnp.stack([mask, ~mask, mask])
        axes = (0, None if mask is None else 0)
        return lambda t, q: jax.vmap(jax.grad(loss), axes)(jnp.stack([q, 2 * q, q - 1]), masks)

    def scanned(f):
        def step(total, q):
            return total + jax.checkpoint(lambda q: jnp.sum(jnp.sin(f(q, k, v))))(q), None

        start = jnp.zeros((), q.dtype)
        total = jax.grad(lambda q: lax.scan(step, start, jnp.stack([q, q + 1]))[0])
        return lambda t, q: total(q)

    transforms = (curvature, reverse_twice, each, scanned)
    compare_transforms(ours, theirs, transforms, (jnp.asarray(0.7), q))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_floats_keep_their_dtype_and_a_wide_softmax(dtype, method):
    arrays = [a.astype(dtype) for a in attention_reference.arrays(2, 2, 150, 150, 4, 2, 8)]

    def loss(*arrays):
        return jnp.sum(core.attention(*arrays, causal=True, method=method).astype("float32"))

    wide = [a.astype("float32") for a in arrays]
    out = core.attention(*arrays, causal=True, method=method)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    grads, expected = gradient(*arrays), gradient(*wide)
    assert {a.dtype for a in (out, *grads)} == {jnp.dtype(dtype)}
    step = float(jnp.finfo(dtype).eps)
    reference = _softmax(*wide, causal=True)
    np.testing.assert_allclose(out.astype("float32"), reference, atol=8 * step)
    for a, b in zip(grads, expected, strict=True):
        assert jnp.max(jnp.abs(a.astype("float32") - b)) <= 8 * step * jnp.max(jnp.abs(b))


@pytest.mark.parametrize("method", METHODS)
def test_a_query_that_sees_no_key_gives_zeros(method):
    q, k, v = (a.astype("float32") for a in attention_reference.arrays(3, 1, 80, 80, 2, 2, 4))
    mask = jnp.ones((80, 80), bool).at[7].set(False)

    def run(q, k, v):
        return core.attention(q, k, v, mask=mask, method=method)

    out, pull = jax.vjp(run, q, k, v)
    grads = pull(jnp.ones_like(out))
    assert not out[:, 7].any()
    assert not grads[0][:, 7].any()
    assert all(jnp.isfinite(a).all() for a in (out, *grads))


@pytest.mark.parametrize("method", METHODS)
def test_causal_queries_are_the_last_steps(method):
    """A block of queries at the end of a sequence gives the end of the whole sequence's output."""
    q, k, v = (a.astype("float32") for a in attention_reference.arrays(4, 1, 90, 90, 2, 2, 4))
    whole = core.attention(q, k, v, causal=True, method=method)
    end = core.attention(q[:, -70:], k, v, causal=True, method=method)
    np.testing.assert_allclose(end, whole[:, -70:], rtol=1e-5, atol=1e-6)
    early = core.attention(q, k[:, :70], v[:, :70], causal=True, method=method)
    assert not early[:, :20].any()
    assert early[:, 20].all()


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 2, 0)], ids=str)
def test_nothing_gives_nothing(shape):
    q = jnp.zeros(shape)
    assert core.attention(q, q, q, causal=True).shape == shape


def test_no_keys_give_zeros():
    q, k = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 0, 4, 5))
    assert not core.attention(q, k, k).any()


@pytest.mark.optimised
@pytest.mark.parametrize("causal", full(False, True))
def test_memory_is_linear_in_the_sequence(causal):
    def temporaries(steps):
        x = jax.ShapeDtypeStruct((1, steps, 2, 16), jnp.float32)

        def gradient(q, k, v, ct):
            run = lambda q, k, v: core.attention(q, k, v, causal=causal)  # noqa: E731
            return jax.vjp(run, q, k, v)[1](ct)

        program = jax.jit(gradient).lower(x, x, x, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.6 * temporaries(2048)


def test_gradients_keep_no_scores_for_the_backward_pass():
    q, k, v = (a.astype("float32") for a in attention_reference.arrays(5, 1, 256, 256, 2, 2, 4))
    _, pull = jax.vjp(lambda *a: core.attention(*a, method="blocks"), q, k, v)
    stored = sum(leaf.size for leaf in jax.tree.leaves(pull))
    assert stored <= 4 * q.size + 2 * 256


def test_the_choice_and_its_reason():
    assert choose_attention((2, 8, 4, 16), (2, 8, 4, 16), "cpu").reason == (
        "8 x 8 scores of a head: too few for blocks"
    )
    assert choose_attention((2, 512, 4, 16), (2, 512, 4, 16), "cpu").method == "blocks"
    assert choose_attention((2, 512, 4, 16), (2, 512, 4, 16), "gpu").method == "direct"
    q = jax.ShapeDtypeStruct((2, 512, 4, 16), jnp.float32)
    for platform, method in (("cpu", "blocks"), ("gpu", "direct")):
        with recording(platform) as records:
            jax.eval_shape(lambda q: core.attention(q, q, q), q)
        assert [(r.operation, r.choice.method) for r in records] == [("attention", method)]


def test_a_method_that_cannot_compute_it_is_refused():
    q = jnp.ones((1, 4, 2, 8))
    with pytest.raises(ValueError, match="attention has no method 'cudnn' for these arguments"):
        core.attention(q, q, q, method="cudnn")


def test_a_program_for_an_accelerator_is_lowered_from_a_cpu():
    q = jnp.ones((1, 128, 2, 8))
    gradient = jax.grad(lambda q: jnp.sum(core.attention(q, q, q, causal=True)))
    lowered = jax.jit(gradient).trace(q).lower(lowering_platforms=("tpu",))
    assert "while" not in lowered.as_text()
