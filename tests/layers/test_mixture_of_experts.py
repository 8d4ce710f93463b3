"""MixtureOfExperts against loops written from the papers: which step goes to which expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.tiers import sample

import jlayers as jl

E, D = 4, 3
EXPERT = jl.serial(jl.Dense(5), jnp.tanh, jl.Dense(2))
RNG = np.random.default_rng(0)


def made(layer, x):
    params, state = layer.init(jax.random.key(0), x)
    # Larger than at the start, so that the router is decided.
    return jax.tree.map(lambda leaf: 3 * leaf, params), state


def numpy_experts(params, row):
    """What each expert gives for one row."""
    one, two = (params["experts"][name] for name in ("dense", "dense_1"))
    return [
        np.tanh(row @ one["kernel"][e] + one["bias"][e]) @ two["kernel"][e] + two["bias"][e]
        for e in range(E)
    ]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_loop(params, x, top_k, renormalize, capacity_factor, valid):
    """Shazeer et al. (2017) without noise; a capacity as in Fedus et al. (2021)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    y = np.zeros((*x.shape[:2], 2))
    dropped = 0
    for b in range(len(x)):
        probabilities = softmax(x[b] @ params["router"]["kernel"])
        order = np.argsort(-probabilities, -1, kind="stable")[:, :top_k]
        places = np.ceil((capacity_factor or 0) * top_k * valid[b].sum() / E)
        used = np.zeros(E)
        # First choices of all steps before second choices, as in GShard.
        for choice in range(top_k):
            for t in np.flatnonzero(valid[b]):
                e, chosen = order[t, choice], probabilities[t, order[t]]
                if capacity_factor is not None and used[e] >= places:
                    dropped += 1
                    continue
                used[e] += 1
                gate = probabilities[t, e] / (chosen.sum() if renormalize else 1)
                y[b, t] += gate * numpy_experts(params, x[b, t])[e]
    return y, dropped


MASK = np.array([[True] * 9, [True, False, True, True, False, True, True, True, False]])


CASES = [
    (top_k, renormalize, capacity_factor, masked)
    for top_k, renormalize in ((2, True), (1, False), (2, False), (4, True))
    for capacity_factor in (0.6, None, 1.25, 9.0)
    for masked in (True, False)
]


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("case", sample(CASES, 0, 3, 8, 20), ids=str)
def test_top_k(case):
    top_k, renormalize, capacity_factor, masked = case
    layer = jl.MixtureOfExperts(
        EXPERT, E, top_k=top_k, renormalize=renormalize, capacity_factor=capacity_factor
    )
    x = RNG.normal(size=(2, 9, D)).astype("float32")
    valid = MASK if masked else np.ones_like(MASK)
    params, state = made(layer, x)
    y, _ = layer.apply(params, state, jl.Sequence(x, valid) if masked else jnp.asarray(x))
    expected, dropped = by_loop(params, x, top_k, renormalize, capacity_factor, valid)
    y = np.where(valid[..., None], y.values, 0) if masked else y
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    if capacity_factor != 1.25:
        assert (dropped > 0) == (capacity_factor == 0.6)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("capacity_factor", [None, 0.5])
def test_expert_choice(capacity_factor):
    """Algorithm of Zhou et al. (2022): each expert takes its likeliest steps."""
    layer = jl.MixtureOfExperts(
        EXPERT, E, top_k=2, routing="expert_choice", capacity_factor=capacity_factor
    )
    x = RNG.normal(size=(2, 9, D)).astype("float32")
    params, state = made(layer, x)
    y, _ = layer.apply(params, state, jl.Sequence(x, MASK))
    expected = np.zeros((2, 9, 2))
    values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for b in range(2):
        scores = softmax(x[b] @ values["router"]["kernel"])
        scores[~MASK[b]] = -1
        places = int(np.ceil((capacity_factor or 1) * 2 * MASK[b].sum() / E))
        for e in range(E):
            for t in np.argsort(-scores[:, e], kind="stable")[:places]:
                expected[b, t] += scores[t, e] * numpy_experts(values, x[b, t])[e]
    got = np.where(MASK[..., None], y.values, 0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("masked", [False, True])
def test_the_losses(masked):
    layer = jl.MixtureOfExperts(EXPERT, E, top_k=2, balance_loss=0.5, z_loss=0.25)
    x = RNG.normal(size=(2, 9, D)).astype("float32")
    valid = MASK if masked else np.ones_like(MASK)
    params, state = made(layer, x)
    given = jl.Sequence(np.where(valid[..., None], x, np.nan), valid) if masked else jnp.asarray(x)
    (_, loss), _ = jl.with_losses(layer).apply(params, state, given)
    logits = x[valid].astype("float64") @ np.asarray(params["router"]["kernel"], "float64")
    probabilities = softmax(logits)
    chosen = np.argsort(-probabilities, -1)[:, :2]
    share = np.bincount(chosen.reshape(-1), minlength=E) / chosen.size
    balance = E * np.sum(share * probabilities.mean(0))
    z = np.mean(np.log(np.exp(logits).sum(-1)) ** 2)
    np.testing.assert_allclose(loss, 0.5 * balance + 0.25 * z, rtol=1e-5)


def test_a_balanced_router_has_a_loss_of_one():
    layer = jl.MixtureOfExperts(EXPERT, E, top_k=1, balance_loss=1.0)
    params, state = layer.init(jax.random.key(0), jl.spec((1, 8, E)))
    params["router"]["kernel"] = 50 * jnp.eye(E)
    x = jnp.tile(jnp.eye(E), (2, 1))[None]
    (_, loss), _ = jl.with_losses(layer).apply(params, state, x)
    np.testing.assert_allclose(loss, 1.0, rtol=1e-5, atol=1e-6)


def test_each_step_makes_one_row_of_the_whole_batch():
    layer = jl.MixtureOfExperts(EXPERT, E, top_k=1, capacity_factor=1.0)
    x = RNG.normal(size=(3, 4, D)).astype("float32")
    params, state = made(layer, x)
    y, _ = jl.each_step(layer).apply(params, state, x)
    flat, _ = layer.apply(params, state, x.reshape(1, 12, D))
    rows, _ = layer.apply(params, state, x.reshape(12, D))
    np.testing.assert_allclose(y.reshape(12, -1), flat[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows, flat[0], rtol=1e-5, atol=1e-6)


def test_an_expert_that_fails_does_no_harm_where_it_is_not_chosen():
    def root(f, x):
        return jnp.sqrt(x + f.param("shift", jax.nn.initializers.zeros, ()))

    layer = jl.MixtureOfExperts(jl.compose(root), 2, top_k=1)
    params = {
        "router": {"kernel": jnp.asarray([[1.0, -1.0]])},
        "experts": {"shift": jnp.asarray([0.0, -9.0])},
    }
    y, _ = layer.apply(params, {}, jnp.asarray([[[4.0], [9.0]]]))
    np.testing.assert_allclose(y[..., 0], [[2.0, 3.0]], rtol=1e-3)


def test_noise_in_training():
    layer = jl.MixtureOfExperts(EXPERT, E, jitter=0.5)
    x = RNG.normal(size=(2, 9, D)).astype("float32")
    params, state = made(layer, x)
    key = jax.random.key(1)
    quiet, _ = layer.apply(params, state, x, key=key)
    noisy, _ = layer.apply(params, state, x, key=key, train=True)
    assert not np.allclose(quiet, noisy)
    with pytest.raises(jl.LayerError, match="needs a key"):
        layer.apply(params, state, x, train=True)


def test_a_router_of_ones_own_with_learned_noise():
    """Noisy top-k gating, equation 4 of Shazeer et al. (2017)."""

    def noisy(f, x):
        deviation = jax.nn.softplus(f.noise(x))
        if not f.train:
            return f.gate(x)
        return f.gate(x) + deviation * jax.random.normal(f.key(), deviation.shape, x.dtype)

    router = jl.compose(noisy, gate=jl.Dense(E, bias=False), noise=jl.Dense(E, bias=False))
    layer = jl.MixtureOfExperts(EXPERT, E, router=router)
    x = RNG.normal(size=(2, 9, D)).astype("float32")
    params, state = layer.init(jax.random.key(0), x)
    assert sorted(params["router"]) == ["gate", "noise"]
    plain = {**params, "router": params["router"]["gate"]}
    expected, _ = jl.MixtureOfExperts(EXPERT, E).apply(plain, state, x)
    np.testing.assert_allclose(layer.apply(params, state, x)[0], expected, rtol=1e-5, atol=1e-6)
    y, _ = layer.apply(params, state, x, key=jax.random.key(1), train=True)
    assert not np.allclose(y, expected)


def test_a_shared_expert_is_a_sum():
    layer = jl.add(moe=jl.MixtureOfExperts(EXPERT, E), shared=EXPERT)
    x = jl.Sequence(RNG.normal(size=(2, 9, D)).astype("float32"), MASK)
    params, state = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(params, state, x)
    parts = [
        jl.MixtureOfExperts(EXPERT, E).apply(params["moe"], {}, x)[0],
        EXPERT.apply(params["shared"], {}, x)[0],
    ]
    np.testing.assert_allclose(y.fill(), (parts[0] + parts[1]).fill(), rtol=1e-5, atol=1e-6)


def test_it_is_rebuilt_around_other_experts():
    layer = jl.MixtureOfExperts(EXPERT, E, capacity_factor=1.25)
    other = jl.rewrite(layer, "experts/tanh", lambda _: jl.lift(jnp.sin))
    assert "sin" in repr(other)
    assert "capacity_factor=1.25" in repr(other)
    x = jl.spec((2, 9, D))
    assert jax.tree.map(jnp.shape, other.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, layer.init(jax.random.key(0), x)
    )


X = jl.spec((2, 5, D))
WRONG = {
    "unknown routing 'hash'": lambda: jl.MixtureOfExperts(EXPERT, E, routing="hash"),
    "top_k 5 is more than the 4 experts": lambda: jl.MixtureOfExperts(EXPERT, E, top_k=5),
    "balance_loss is for routing='top_k'": lambda: jl.MixtureOfExperts(
        EXPERT, E, routing="expert_choice", balance_loss=0.1
    ),
    "an expert has state": lambda: jl.MixtureOfExperts(jl.serial(jl.Dense(2), jl.BatchNorm()), E),
    "the router does not give a logit for each expert": lambda: jl.MixtureOfExperts(
        EXPERT, E, router=jl.Dense(3)
    ),
    "an expert must give a row of features for each row": lambda: jl.MixtureOfExperts(jnp.sum, E),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_makes_no_sense_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]().init(jax.random.key(0), X)
    assert text in str(caught.value)


def test_a_capacity_is_not_streamed():
    layer = jl.MixtureOfExperts(EXPERT, E, capacity_factor=1.0)
    params, state = layer.init(jax.random.key(0), X)
    with pytest.raises(jl.LayerError, match="the steps of a row share the places of an expert"):
        jl.stream(layer).start(params, state, X)
    # The same parameters without a capacity: what has no place to lose is what a capacity drops.
    start, step = jl.stream(jl.MixtureOfExperts(EXPERT, E))
    x = jnp.asarray(RNG.normal(size=X.shape), "float32")
    carry = start(params, state, x[:, :1])
    blocks = []
    for t in range(X.shape[1]):
        y, carry = step(params, state, carry, x[:, t : t + 1])
        blocks.append(y)
    ample = jl.MixtureOfExperts(EXPERT, E, capacity_factor=float(E))
    wanted, _ = ample.apply(params, state, x)
    np.testing.assert_allclose(jnp.concatenate(blocks, 1), wanted, rtol=1e-5, atol=1e-6)


def test_an_ensemble_of_inputs():
    layer = jl.ensemble(jl.Dense(3), 2, shared=False)
    x = RNG.normal(size=(2, 5, 4)).astype("float32")
    params, state = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(params, state, x)
    np.testing.assert_allclose(
        y, np.einsum("nbi,nij->nbj", x, params["kernel"]), rtol=1e-5, atol=1e-6
    )
    for wrong in (jl.spec((3, 5, 4)), jl.Sequence(x)):
        with pytest.raises(jl.LayerError, match="the input does not hold an entry for each copy"):
            layer.init(jax.random.key(0), wrong)
