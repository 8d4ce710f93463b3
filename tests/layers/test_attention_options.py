"""Windows, caps, biases and positions of attention: a NumPy loop in float64, and derivatives."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from oracles import attention_reference
from tables.tiers import named

import jlayers as jl
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
    "both sides": ({"window": (3, 1)}, 23, 23, 2),
    "both sides, more keys": ({"window": (2, 4), "alibi": (0.1, 0.0, 1.0, 0.3)}, 13, 31, 4),
    "both sides, fewer keys": ({"window": (2, 0)}, 17, 12, 1),
    "pattern": ({"pattern": lambda q, k: q // 5 == k // 5, "causal": True}, 17, 17, 2),
    "pattern beside some": (
        {"pattern": lambda q, k: (q - k) % 3 == 1, "window": (9, 2)},
        13,
        14,
        1,
    ),
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
    names = ("causal", "window", "alibi", "pattern")
    causal, window, alibi, pattern = (how.pop(name, None) for name in names)
    reach = window if isinstance(window, tuple) else ((window or 99) - 1, 99)
    slopes = [attention_reference.slope(n, HEADS) for n in range(HEADS)]
    slopes = slopes if alibi is True else alibi
    whole = (len(q), HEADS, q.shape[1], k.shape[1])
    bias = None if bias is None else np.broadcast_to(bias, whole)
    mask = None if mask is None else np.broadcast_to(mask, whole)
    places = [np.arange(n) + first for n, first in ((whole[2], whole[3] - whole[2]), (whole[3], 0))]
    out = []
    for b in range(len(q)):
        of_q, of_k = places if positions is None else (np.asarray(p)[b] for p in positions)

        def visible(t, s, b=b, of_q=of_q, of_k=of_k):
            later = causal and s > t + whole[3] - whole[2]
            near = -reach[1] <= of_q[t] - of_k[s] <= reach[0]
            fits = pattern is None or pattern(of_q[t], of_k[s])
            return not later and near and fits and (mask is None or mask[b, 0, t, s])

        def add(n, t, s, b=b, of_q=of_q, of_k=of_k):
            fallen = slopes[n] * abs(int(of_q[t]) - int(of_k[s])) if alibi else 0.0
            return (bias[b, n, t, s] if bias is not None else 0.0) - fallen

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


def test_a_pattern_of_positions_with_holes():
    mask = np.random.default_rng(1).random((3, 19)) < 0.6
    at = core.positions_from_mask(jnp.asarray(mask))
    how = {"pattern": lambda q, k: abs(q - k) % 3 != 1, "window": (4, 2), "positions": (at, at)}
    arrays = attention_reference.arrays(1, 3, 19, 19, HEADS, 2, 4)
    for method in METHODS:
        _agree(arrays, method, mask=jnp.asarray(mask)[:, None, None], **how)


def test_weights_are_dropped_and_the_others_grow():
    """Values are unit vectors, and so the output is the weights."""
    q, k, _ = attention_reference.arrays(7, 2, 40, 40, HEADS, 2, 4)
    v = jnp.broadcast_to(jnp.eye(40)[None, :, None], (2, 40, 2, 40))
    key, how = jax.random.key(0), {"causal": True, "soft_cap": 2.0}
    whole, weights = core.attention_with_weights(q, k, v, **how)
    np.testing.assert_allclose(jnp.moveaxis(whole, 2, 1), weights, rtol=1e-12)
    dropped, same = core.attention_with_weights(q, k, v, dropout_rate=0.25, key=key, **how)
    np.testing.assert_array_equal(weights, same)
    again = core.attention(q, k, v, dropout_rate=0.25, key=key, **how)
    np.testing.assert_allclose(dropped, again, rtol=1e-12)
    kept = np.asarray(jnp.moveaxis(dropped, 2, 1))[np.asarray(weights) > 0]
    was = np.asarray(weights)[np.asarray(weights) > 0]
    assert abs(np.mean(kept == 0) - 0.25) < 0.02
    np.testing.assert_allclose(kept[kept > 0], was[kept > 0] / 0.75, rtol=1e-12)
    no_key = core.attention(q, k, v, dropout_rate=0.25, **how)
    np.testing.assert_allclose(no_key, whole, rtol=1e-12)


def test_queries_of_a_cache_drop_weights_too():
    q, k, _ = attention_reference.arrays(7, 2, 12, 12, HEADS, 2, 4)
    v = jnp.broadcast_to(jnp.eye(12)[None, :, None], (2, 12, 2, 12))
    cache = core.Cache(jnp.zeros((2, 2, 12, 4)), jnp.zeros((2, 2, 12, 12)), jnp.zeros(2, jnp.int32))
    whole = core.attention(q, k, v, causal=True)
    out, _ = core.cached_attention(q, k, v, cache, dropout_rate=0.5, key=jax.random.key(3))
    np.testing.assert_allclose(out[out > 0], 2 * whole[out > 0], rtol=1e-12)
    assert 0.3 < float(jnp.mean((out > 0) == (whole > 0))) < 0.9


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
    rope = jax.jit(core.apply_rope, static_argnums=2)
    np.testing.assert_allclose(rope(x, at, 100.0), wanted, rtol=1e-12)
    later = jnp.stack([at, at + 5])
    turned = np.asarray(rope(x, later))
    np.testing.assert_allclose(turned[0], attention_reference.rotated(x[0]), rtol=1e-12)
    # Products depend on distances alone.
    here, there = (rope(x, a) for a in (at, at + 1000))
    np.testing.assert_allclose(
        np.einsum("btnh,bsnh->bnts", here, here), np.einsum("btnh,bsnh->bnts", there, there)
    )
    half = rope(jnp.asarray(x, jnp.bfloat16), at)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half).astype("float64"), here, atol=0.05)


FREQUENCIES = {
    "linear": jl.LinearScaling(4.0),
    "ntk": jl.NTKScaling(5.0),
    "yarn": jl.YarnScaling(4.0, 64),
    "yarn, not rounded": jl.YarnScaling(8.0, 512, fast=16.0, slow=2.0, truncate=False),
    "llama 3": jl.Llama3Scaling(8.0, 256, 1.0, 4.0),
}


@pytest.mark.parametrize("case", FREQUENCIES)
def test_frequencies_of_longer_sequences(case):
    """Pair by pair, as the papers' code has them; the same numbers as in transformers 5.24."""
    base, pairs, scaling = 1000.0, 12, FREQUENCIES[case]
    wanted = []
    for i in range(pairs):
        plain = base ** (-i / pairs)
        slow = plain / scaling.factor
        turns = getattr(scaling, "original_steps", 0) * plain / (2 * np.pi)
        if case == "ntk":
            slow = (base * scaling.factor ** (pairs / (pairs - 1))) ** (-i / pairs)
        share = 0.0
        if case == "llama 3":
            share = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
        elif "yarn" in case:
            ends = [
                pairs * np.log(scaling.original_steps / (2 * np.pi * n)) / np.log(base)
                for n in (scaling.fast, scaling.slow)
            ]
            ends = [np.floor(ends[0]), np.ceil(ends[1])] if scaling.truncate else ends
            first, last = max(ends[0], 0), min(ends[1], 2 * pairs - 1)
            share = 1 - np.clip((i - first) / (last - first), 0, 1)
        wanted.append(plain * share + slow * (1 - share))
    rope = jl.Rope(base, scaling=scaling)
    np.testing.assert_allclose(rope.frequencies(2 * pairs), wanted, rtol=1e-12)
    x = np.random.default_rng(5).normal(size=(1, 7, 3, 2 * pairs))
    turned = core.apply_rope(jnp.asarray(x), jnp.arange(7, dtype=jnp.int32), rope)
    expected = attention_reference.rotated(x[0], frequencies=wanted)
    grown = 0.1 * np.log(scaling.factor) + 1 if "yarn" in case else 1
    np.testing.assert_allclose(turned[0], grown * expected, rtol=1e-9)


def test_neighbours_and_a_part_of_a_head():
    x = np.random.default_rng(5).normal(size=(1, 7, 3, 10))
    rope = jl.Rope(100.0, interleaved=True, fraction=0.6)
    turned = core.apply_rope(jnp.asarray(x), jnp.arange(7, dtype=jnp.int32), rope)
    wanted = attention_reference.rotated(x[0], 100.0, interleaved=True, size=6)
    np.testing.assert_allclose(turned[0], wanted, rtol=1e-12)


def test_rows_of_distances_are_those_of_t5():
    distances = np.arange(-300, 301)
    for buckets, farthest, causal in itertools.product((32, 10, 8), (128, 50), (False, True)):
        wanted = [attention_reference.t5_bucket(d, buckets, farthest, causal) for d in distances]
        got = core.DistanceBuckets(buckets, farthest, causal).rows(
            jnp.asarray(distances, jnp.int32)
        )
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: jl.Rope(0), "base must be a number above 0, got 0"),
        (lambda: jl.Rope(fraction=1.5), "fraction must be a number above 0 up to 1, got 1.5"),
        (lambda: jl.Rope(interleaved=1), "interleaved must be True or False, got 1"),
        (lambda: jl.Rope(scaling=2.0), "scaling must be a LinearScaling or the like, got 2.0"),
        (lambda: jl.LinearScaling(0.5), "factor must be a number of at least 1, got 0.5"),
        (lambda: jl.YarnScaling(2.0, 0), "original_steps must be a number of at least 1, got 0"),
        (lambda: jl.Llama3Scaling(8.0, 64, 4.0, 1.0), "low must be above 0 and below high, got 4"),
    ],
)
def test_what_a_rope_refuses(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_what_cannot_be_computed_is_refused():
    q, bias = jnp.ones((1, 4, 2, 8)), jnp.zeros((4, 4))
    with pytest.raises(ValueError, match="attention with a window has to be causal"):
        core.attention(q, q, q, window=2)
    with pytest.raises(ValueError, match="causal attention has a window of one number"):
        core.attention(q, q, q, window=(2, 0), causal=True)
    for pattern in (lambda q, k: q - k, lambda q, k: True):
        with pytest.raises(ValueError, match="the pattern must give bools of the shape"):
            core.attention(q, q, q, pattern=pattern)
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


@pytest.mark.parametrize("weights", [False, True])
def test_a_bias_of_minus_infinity_hides_as_a_mask_does(weights):
    """Where nothing else is seen too: the softmax is not over what the layer itself hides."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 4))
    shown = ~np.eye(4, dtype=bool)[None]
    bias = jnp.where(shown, 0.0, -jnp.inf)
    for layer, name in (
        (jl.SelfAttention(2, causal=True, weights=weights), "x"),
        (jl.AdditiveAttention(3, weights=weights), "memory"),
    ):
        params, _ = layer.init(jax.random.key(1), x if name == "x" else (x, x))

        def output(x, layer=layer, params=params, name=name, **given):
            steps = jl.Sequence(x, jnp.array([[True, True, True, False]]))
            inputs = {"x": steps, name: steps} | given
            y, *_ = jax.tree.leaves(layer.apply(params, {}, inputs)[0])
            return y

        def loss(x, output=output):
            y = output(x, bias=bias)
            return jnp.sum(jnp.sin(y)), y

        gradient, got = jax.jit(jax.grad(loss, has_aux=True))(x)
        expected = jax.jit(lambda x, f=output: f(x, mask=shown))(x)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert np.all(np.isfinite(gradient))
    causal = jl.SelfAttention(2, causal=True)
    later = x.at[:, 1:].set(7.0)
    params, _ = causal.init(jax.random.key(1), x)
    run = jax.jit(causal.apply)
    first, other = (run(params, {}, {"x": a, "bias": bias})[0][:, 0] for a in (x, later))
    np.testing.assert_array_equal(first, other)
