"""Latent attention: a NumPy loop from the paper for each row, and its small cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import attention_reference, convert

import jlayers as jl

BATCH, STEPS, WIDTH, HEADS, LATENT, TURNED = 3, 8, 12, 3, 5, 4
CASES = {
    "plain": {"rope": 100.0},
    "queries from latents": {"query_latent_dim": 6, "value_dim": 2, "rope": 100.0},
    "interleaved": {
        "head_dim": 7,
        "features": 5,
        "rope": jl.Rope(100.0, interleaved=True),
        "scale": 0.3,
    },
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _layer(case, **more):
    layer = jl.LatentAttention(HEADS, LATENT, rope_dim=TURNED, **CASES[case], **more)
    x = jl.spec((BATCH, STEPS, WIDTH), jnp.float64)
    return layer, convert.draw(jax.eval_shape(layer.init, jax.random.key(0), x)[0])


def _values():
    return jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, STEPS, WIDTH)))


def _normed(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def _row(case, params, x, causal):
    """Equations 9 to 19 of the paper for one row (T, D)."""
    p = {name: np.asarray(value) for name, value in params.items()}
    options = CASES[case]
    turn = {"base": 100.0, "interleaved": case == "interleaved"}
    both = x @ p["latent_kernel"]
    latents, keys = _normed(both[:, :LATENT], p["latent_scale"]), both[:, None, LATENT:]
    keys = attention_reference.rotated(keys, **turn)
    hidden = x
    if "query_latent_kernel" in p:
        hidden = _normed(x @ p["query_latent_kernel"], p["query_latent_scale"])

    def heads(y):
        return y.reshape(len(x), HEADS, y.shape[-1] // HEADS)

    q = heads(hidden @ p["query_kernel"])
    q = np.concatenate(
        [q[..., :-TURNED], attention_reference.rotated(q[..., -TURNED:].copy(), **turn)], -1
    )
    k = np.concatenate([heads(latents @ p["key_kernel"]), np.repeat(keys, HEADS, 1)], -1)
    v = heads(latents @ p["value_kernel"])
    out = attention_reference.attention(
        q, k, v, lambda t, s: not causal or s <= t, scale=options.get("scale")
    )
    return out.reshape(len(x), out.shape[1] * out.shape[2]) @ p["out_kernel"]


def _padded():
    mask = np.random.default_rng(2).random((BATCH, STEPS)) < 0.6
    mask[0], mask[2] = True, False
    return jnp.asarray(mask)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_each_row_is_the_paper_s(case, causal):
    layer, params = _layer(case, causal=causal)
    mask = _padded()
    x = jl.Sequence(jnp.where(mask[..., None], _values(), jnp.nan), mask)
    y, _ = jax.jit(layer.apply)(params, {}, x)
    for row, here, got in zip(_values(), mask, y.values, strict=True):
        wanted = _row(case, params, np.asarray(row[here]), causal)
        np.testing.assert_allclose(got[here], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cuts", [(1,) * 8, (5, 1, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_stream_of_latents_is_the_whole_sequence(case, cuts):
    layer, params = _layer(case, causal=True)
    mask = _padded()
    start, step = jl.stream(layer, capacity=STEPS)

    def whole(params, values):
        y, _ = layer.apply(params, {}, jl.Sequence(values, mask))
        return y.fill()

    def streamed(params, values):
        x = jl.Sequence(values, mask)
        carry, parts, first = start(params, {}, x), [], 0
        for size in cuts:
            y, carry = step(params, {}, carry, x[:, first : first + size])
            parts.append(y.fill())
            first += size
        assert carry["latents"].shape == (BATCH, 1, STEPS, LATENT + TURNED)
        assert set(carry) == {"latents", "count"}
        return jnp.concatenate(parts, 1)

    def of(run):
        weight = convert.projection((BATCH, STEPS, params["out_kernel"].shape[1]), "float64")

        def loss(*args):
            y = run(*args)
            return jnp.sum(jnp.sin(y) * weight), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, _values())

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        of(streamed),
        of(whole),
    )


@pytest.mark.optimised
def test_the_cache_is_one_buffer():
    layer = jl.LatentAttention(4, 64, rope_dim=16, causal=True)
    x = jl.spec((2, 1, 128))
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    start, step = jl.stream(layer, capacity=512)
    carry = jax.eval_shape(lambda p, x: start(p, {}, x), params, x)
    run = jax.jit(lambda p, c, x: step(p, {}, c, x), donate_argnums=1)
    memory = run.lower(params, carry, x).compile().memory_analysis()
    size = carry["latents"].size * 4
    assert memory.alias_size_in_bytes >= size
    # Neither is it copied, nor is there a second one of the values in it.
    assert memory.temp_size_in_bytes < size / 2
