"""Windows, caps, biases and positions of attention: a NumPy loop in float64, and derivatives."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from oracles import attention_reference
from tables.tiers import named

from jlayers import core
from jlayers.core.attention.blockwise import BlockSizes

METHODS = ["direct", "blocks"]
HEADS = 4
# The package names the function so, not the module.
RULE = importlib.import_module("jlayers.core.attention.attention")


@pytest.fixture(autouse=True)
def _float64_and_small_blocks(monkeypatch):
    monkeypatch.setattr(RULE, "_block_sizes", lambda q, k, causal: BlockSizes(5, 6))
    RULE._blockwise.cache_clear()
    with jax.enable_x64(True):
        yield
    RULE._blockwise.cache_clear()


# (options, T, S, num_kv_heads)
CASES = {
    "window": ({"causal": True, "window": 4}, 23, 23, 2),
    "window over more keys": ({"causal": True, "window": 9}, 13, 31, 4),
    "window over fewer keys": ({"causal": True, "window": 3}, 17, 12, 1),
    "window of one step": ({"causal": True, "window": 1}, 12, 12, 2),
    "window wider than all": ({"causal": True, "window": 50}, 13, 13, 2),
    "cap": ({"soft_cap": 0.7, "scale": 1.3}, 13, 8, 2),
    "cap, causal": ({"soft_cap": 0.7, "causal": True}, 23, 23, 1),
    "alibi": ({"alibi": True}, 13, 8, 2),
    "alibi, window, cap": (
        {"alibi": True, "causal": True, "window": 5, "soft_cap": 2.0},
        23,
        25,
        2,
    ),
}


def _loop(arrays, mask=None, bias=None, positions=None, **how):
    """What the arguments mean, for each row of the batch."""
    q, k, v = map(np.asarray, arrays)
    causal, window, alibi = (how.pop(name, None) for name in ("causal", "window", "alibi"))
    whole = (len(q), HEADS, q.shape[1], k.shape[1])
    bias = None if bias is None else np.broadcast_to(bias, whole)
    mask = None if mask is None else np.broadcast_to(mask, whole)
    places = [np.arange(n) + first for n, first in ((whole[2], whole[3] - whole[2]), (whole[3], 0))]
    out = []
    for b in range(len(q)):
        of_q, of_k = places if positions is None else (np.asarray(p)[b] for p in positions)

        def visible(t, s, b=b, of_q=of_q, of_k=of_k):
            later = causal and s > t + whole[3] - whole[2]
            far = window and of_q[t] - of_k[s] >= window
            return not later and not far and (mask is None or mask[b, 0, t, s])

        def add(n, t, s, b=b, of_q=of_q, of_k=of_k):
            fallen = attention_reference.slope(n, HEADS) * abs(int(of_q[t]) - int(of_k[s]))
            return (bias[b, n, t, s] if bias is not None else 0.0) - (fallen if alibi else 0.0)

        out.append(attention_reference.attention(q[b], k[b], v[b], visible, bias=add, **how))
    return np.stack(out)


def _agree(arrays, method, **how):
    """Values with the loop's, derivatives with finite differences."""

    def run(*arrays):
        return core.attention(*arrays, **how, method=method)

    np.testing.assert_allclose(jax.jit(run)(*arrays), _loop(arrays, **how), rtol=1e-9, atol=1e-12)
    test_util.check_grads(jax.jit(run), arrays, order=1, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", named(CASES, "cap, causal", "alibi, window, cap"))
def test_the_loop_s_numbers(case, method):
    how, steps, keys, num_kv_heads = CASES[case]
    _agree(attention_reference.arrays(0, 2, steps, keys, HEADS, num_kv_heads, 4), method, **how)


@pytest.mark.parametrize("method", METHODS)
def test_positions_of_rows_with_holes(method):
    """The window and the distance count valid steps; a row may have none."""
    mask = np.random.default_rng(1).random((3, 19)) < 0.6
    mask[1] = False
    at = core.positions_from_mask(jnp.asarray(mask))
    np.testing.assert_array_equal(at, np.cumsum(mask, 1) - mask)
    how = {"causal": True, "window": 3, "alibi": True, "positions": (at, at)}
    _agree(
        attention_reference.arrays(1, 3, 19, 19, HEADS, 2, 4),
        method,
        mask=jnp.asarray(mask)[:, None, None],
        **how,
    )


@pytest.mark.parametrize("shape", [(13, 8), (HEADS, 1, 8), (2, 1, 13, 1), (2, HEADS, 13, 8)])
def test_a_bias_of_any_shape(shape):
    arrays = attention_reference.arrays(2, 2, 13, 8, HEADS, 2, 4)
    bias = jnp.asarray(np.random.default_rng(3).normal(size=shape))
    _agree(arrays, None, bias=bias, soft_cap=1.5)
    run = jax.jit(lambda bias: core.attention(*arrays, bias=bias))
    test_util.check_grads(run, (bias,), order=1, atol=1e-5, rtol=1e-5)


def test_a_window_in_blocks_passes_every_transformation():
    q, k, v = attention_reference.arrays(4, 2, 23, 23, 2, 1, 4)

    def loss(method, t):
        how = {"causal": True, "window": 6, "alibi": True, "soft_cap": 1.0, "method": method}
        return jnp.sum(jnp.sin(core.attention(q * t, k + t, v * t, **how)))

    def all_of(method):
        def of(t):
            return loss(method, t)

        batch = jax.vmap(jax.grad(of))(jnp.asarray([0.3, 0.7]))
        return jax.hessian(of)(0.7), jax.grad(jax.grad(of))(0.7), batch

    for ours, theirs in zip(*map(jax.jit(all_of, static_argnums=0), METHODS), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.optimised
def test_a_window_costs_neither_memory_nor_work_beyond_it(monkeypatch):
    monkeypatch.undo()

    def program(steps):
        x = jax.ShapeDtypeStruct((1, steps, 1, 8), jnp.float32)

        def gradient(q, k, v, ct):
            run = lambda *a: core.attention(*a, causal=True, window=64, method="blocks")  # noqa: E731
            return jax.vjp(run, q, k, v)[1](ct)

        return jax.jit(gradient).lower(x, x, x, x).compile().memory_analysis(), gradient, x

    (short, *_), (long, gradient, x) = program(2048), program(4096)
    assert long.temp_size_in_bytes < 2.3 * short.temp_size_in_bytes
    # No product of the program has more than a block's rows and a block and a window of keys.
    text = str(jax.make_jaxpr(gradient)(x, x, x, x))
    assert "4096,4096" not in text
    assert "f32[128,191]" in text
    assert "f32[256,319]" in text


@pytest.mark.full
@pytest.mark.optimised
def test_steps_masked_and_windowed_need_linear_memory(monkeypatch):
    monkeypatch.undo()

    def temporaries(steps):
        x = jax.ShapeDtypeStruct((1, steps, 1, 8), jnp.float32)
        mask = jax.ShapeDtypeStruct((1, steps), bool)

        def gradient(q, k, v, ct, mask):
            at = core.positions_from_mask(mask)
            how = {"causal": True, "window": 64, "positions": (at, at), "alibi": True}
            run = lambda *a: core.attention(*a, mask=mask[:, None, None], **how)  # noqa: E731
            return jax.vjp(run, q, k, v)[1](ct)

        program = jax.jit(gradient).lower(x, x, x, x, mask).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.6 * temporaries(2048)


def test_slopes_of_alibi_are_the_paper_s():
    np.testing.assert_allclose(core.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    # From the paper's code, for a number of heads that is not a power of two.
    np.testing.assert_allclose(core.alibi_slopes(3), [2**-4, 2**-8, 2**-2])
    assert core.alibi_slopes(12)[8:] == pytest.approx(2.0 ** -np.array([0.5, 1.5, 2.5, 3.5]))


def test_rope_rotates_pairs_of_halves():
    x = np.random.default_rng(5).normal(size=(2, 7, 3, 6))
    at = jnp.arange(7, dtype=jnp.int32)
    wanted = np.stack([attention_reference.rotated(row, 100.0) for row in x])
    np.testing.assert_allclose(core.apply_rope(jnp.asarray(x), at, 100.0), wanted, rtol=1e-12)
    later = jnp.stack([at, at + 5])
    turned = core.apply_rope(jnp.asarray(x), later)
    np.testing.assert_allclose(turned[0], attention_reference.rotated(x[0]), rtol=1e-12)
    # Products depend on distances alone.
    here, there = (core.apply_rope(jnp.asarray(x), a) for a in (at, at + 1000))
    np.testing.assert_allclose(
        jnp.einsum("btnh,bsnh->bnts", here, here), jnp.einsum("btnh,bsnh->bnts", there, there)
    )
    half = core.apply_rope(jnp.asarray(x, jnp.bfloat16), at)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype("float64"), core.apply_rope(jnp.asarray(x), at), atol=0.05
    )


def test_what_cannot_be_computed_is_refused():
    q, bias = jnp.ones((1, 4, 2, 8)), jnp.zeros((4, 4))
    with pytest.raises(ValueError, match="attention with a window has to be causal"):
        core.attention(q, q, q, window=2)
    with pytest.raises(ValueError, match="attention has no method 'blocks' for these arguments, b"):
        core.attention(q, q, q, bias=bias, method="blocks")


def test_the_rule_knows_of_biases_and_of_few_rows():
    shape = (2, 512, 4, 16)
    biased = RULE.choose_attention(shape, shape, "cpu", all_scores=True)
    assert biased == ("direct", "a bias, tables, sinks or dropout take all scores")
    one = RULE.choose_attention((2, 1, 4, 16), (2, 99999, 2, 16), "cpu")
    assert one == ("direct", "2 rows of scores of a head: each is soon done")


CUDNN = {
    "causal": {"causal": True},
    "window": {"causal": True, "window": 4},
    "padding": {"mask": (3, 1, 1, 19)},
    "padding, causal, window": {"causal": True, "window": 4, "mask": (3, 1, 1, 19)},
    "bias": {"bias": (HEADS, 1, 19), "mask": (19, 19)},
}


@pytest.mark.parametrize("case", CUDNN)
def test_what_the_kernel_of_nvidia_is_asked_for(case, monkeypatch):
    """There is none here: jax.nn computes what it is asked for by XLA."""
    numbers, how = np.random.default_rng(6), dict(CUDNN[case])
    if "mask" in how:
        mask = numbers.random(how["mask"]) < 0.6
        mask[0] = False
        how["mask"] = jnp.asarray(mask)
    if "bias" in how:
        how["bias"] = jnp.asarray(numbers.normal(size=how["bias"]))
    by_xla = jax.nn.dot_product_attention

    def kernel(*arrays, implementation, **asked):
        assert implementation == "cudnn"
        for name in ("bias", "mask"):
            assert asked[name] is None or asked[name].shape[2:] == (19, 19)
        with jax.numpy_dtype_promotion("standard"):
            return by_xla(*arrays, **asked)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    arrays = [a.astype(jnp.bfloat16) for a in attention_reference.arrays(6, 3, 19, 19, HEADS, 2, 8)]
    out = core.attention(*arrays, **how, method="cudnn")
    wide = [a.astype("float64") for a in arrays]
    np.testing.assert_allclose(out.astype("float64"), _loop(wide, **how), atol=0.05)


def test_the_kernel_of_nvidia_takes_no_cap_and_no_positions():
    q = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    at = jnp.zeros((1, 4), jnp.int32)
    for how in ({"soft_cap": 1.0}, {"alibi": True}, {"positions": (at, at)}):
        with pytest.raises(ValueError, match="attention has no method 'cudnn' for these argum"):
            core.attention(q, q, q, **how, method="cudnn")
