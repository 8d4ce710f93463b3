"""Every way to compute a recurrence gives a plain scan's numbers, and so do its derivatives."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.derivatives import compare, compare_transforms, loss_of
from tables.tiers import named, sample

from jlayers import core
from jlayers.core.recurrent import chunking

pytestmark = pytest.mark.optimised(full=True)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def small_chunks(monkeypatch):
    """A chunk of few steps, so that short sequences have several."""
    monkeypatch.setattr(chunking, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(chunking, "_SMALLEST_CHUNK", 3)


def _bias(w, name="bias"):
    return w[name][None] if name in w else 0.0


def _simple_step(carry, x, w):
    (h,) = carry
    h = jnp.tanh(x @ w["kernel"] + h @ w["recurrent_kernel"] + _bias(w))
    return (h,)


def _lstm_step(carry, x, w):
    h, c = carry
    gates = x @ w["kernel"] + h @ w["recurrent_kernel"] + _bias(w)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_step(carry, x, w):
    (h,) = carry
    xr, xz, xn = jnp.split(x @ w["kernel"] + _bias(w), 3, axis=-1)
    hr, hz, hn = jnp.split(h @ w["recurrent_kernel"], 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * (hn + _bias(w, "recurrent_bias")))
    return ((1 - z) * n + z * h,)


# name: (step, gates, arrays in the carry)
CELLS = {
    "simple_rnn": (_simple_step, 1, 1),
    "lstm": (_lstm_step, 4, 2),
    "gru": (_gru_step, 3, 1),
}


def _plain(name, reverse):
    def run(x, carry, w):
        def step(carry, x):
            carry = CELLS[name][0](carry, x, w)
            return carry, carry[0]

        last, out = lax.scan(step, carry, jnp.swapaxes(x, 0, 1), reverse=reverse)
        return jnp.swapaxes(out, 0, 1), last

    return run


def _ours(name, reverse, method):
    def run(x, carry, w):
        return getattr(core, name)(x, carry, **w, reverse=reverse, method=method)

    return run


def _some_case(name, seed):
    """Random sizes, with steps that chunks divide and do not, and biases that may be absent."""
    pick, numbers = random.Random(seed), np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(numbers.normal(size=shape))

    _, gates, carries = CELLS[name]
    batch, steps, inputs, width = pick.choice([1, 3]), pick.randrange(1, 9), 2, pick.choice([1, 3])
    w = {"kernel": draw(inputs, gates * width), "recurrent_kernel": draw(width, gates * width)}
    if pick.random() < 0.7:
        w["bias"] = draw(gates * width)
        if name == "gru":
            w["recurrent_bias"] = draw(width)
    carry = tuple(draw(batch, width) for _ in range(carries))
    return draw(batch, steps, inputs), carry, w


def _close(ours, theirs, tolerance=1e-9):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", sample(range(4), 0, 1))
@pytest.mark.parametrize("method", chunking.METHODS)
@pytest.mark.parametrize("name", CELLS)
def test_values_and_first_derivatives(name, method, seed):
    args = _some_case(name, seed)
    ours, theirs = _ours(name, seed % 2 == 1, method), _plain(name, seed % 2 == 1)
    compare(ours, theirs, args, value=1e-11)


PAIRS = {f"{name}, {method}": (name, method) for name in CELLS for method in chunking.METHODS}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("pair", named(PAIRS, "lstm, store", "gru, recompute"))
def test_transformations(pair):
    name, method = PAIRS[pair]
    x, carry, w = _some_case(name, 3)
    x = jnp.concatenate([x] * 7, axis=1)[:, :7]
    ours, theirs = _ours(name, False, method), _plain(name, False)

    def hessian(f):
        return lambda x, w: jax.hessian(lambda w: loss_of(f)(x, carry, w))(w)

    def mapped(f):
        losses = jax.vmap(loss_of(f), (0, None, None))
        gradient = jax.grad(lambda w, xs: jnp.sum(losses(xs, carry, w)))
        return lambda x, w: gradient(w, jnp.stack([x, jnp.cos(x)]))

    def rematerialised(f):
        return lambda x, w: jax.grad(jax.checkpoint(loss_of(f)), 2)(x, carry, w)

    def scanned(f):
        def loss(w, x):
            def body(carry, x):
                return f(x, carry, w)[1], None

            last, _ = lax.scan(body, carry, jnp.stack([x, jnp.cos(x)]))
            return sum(jnp.sum(c) for c in last)

        return lambda x, w: jax.grad(loss)(w, x)

    compare_transforms(ours, theirs, (hessian, mapped, rematerialised, scanned), (x, w))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", named(CELLS, "lstm"))
def test_bfloat16_stays_near_float64(name):
    x, carry, w = jax.tree.map(lambda a: a.astype(jnp.bfloat16), _some_case(name, 5))
    exact = jax.tree.map(lambda a: a.astype(jnp.float64), (x, carry, w))
    got = jax.jit(jax.grad(loss_of(_ours(name, False, "recompute")), 2))(x, carry, w)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(got))
    expected = jax.jit(jax.grad(loss_of(_plain(name, False)), 2))(*exact)
    _close(jax.tree.map(lambda a: a.astype(jnp.float64), got), expected, 0.15)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", CELLS)
def test_the_gradient_keeps_the_carries_alone(name):
    """What is kept for the backward pass grows with the carries, not with the gates."""
    _, gates, carries = CELLS[name]
    draw = np.random.default_rng(0).normal
    x = jnp.asarray(draw(size=(2, 24, 5)))
    w = {
        "kernel": jnp.asarray(draw(size=(5, gates * 4))),
        "recurrent_kernel": jnp.asarray(draw(size=(4, gates * 4))),
    }
    carry = tuple(jnp.zeros((2, 4)) for _ in range(carries))
    _, pull = jax.vjp(lambda w: loss_of(_ours(name, False, "recompute"))(x, carry, w), w)
    shapes = [leaf.shape for leaf in jax.tree.leaves(pull) if hasattr(leaf, "shape")]
    assert not [s for s in shapes if 24 in s and s[-1] == gates * 4 and gates > 1], shapes


@pytest.mark.parametrize("method", chunking.METHODS)
def test_on_an_accelerator_all_steps_make_one_chunk(method, monkeypatch):
    """The program for other platforms, lowered and not run."""
    monkeypatch.setattr(chunking, "_CHUNK_BYTES", 1)
    x, carry, w = _some_case("lstm", 4)
    x = jnp.concatenate([x] * 16, axis=1)[:, :16]
    loss = loss_of(_ours("lstm", False, method))
    loops = {
        platform: jax.jit(jax.grad(loss))
        .trace(x, carry, w)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.while")
        for platform in ("cpu", "cuda")
    }
    # On a processor two loops over chunks, and one within each.
    assert loops == {"cpu": 4, "cuda": 2}


@pytest.mark.parametrize(
    ("shape", "hidden", "summed", "method"),
    [
        ((1, 256, 64), 128, True, "store"),
        ((128, 100, 64), 128, True, "recompute"),
        ((64, 64, 256), 512, True, "store"),
        ((32, 128, 128), 256, True, "store"),
        ((32, 128, 128), 256, False, "recompute"),
    ],
)
def test_the_rule(shape, hidden, summed, method):
    choice = chunking.choose_recurrence(shape, hidden, 4 * hidden, summed, jnp.float32)
    assert choice.method == method
    assert choice.reason


def test_an_unknown_method():
    x, carry, w = _some_case("lstm", 0)
    with pytest.raises(ValueError, match=r"lstm has no method 'fast'.*, but 'store', 'recompute'"):
        core.lstm(x, carry, **w, method="fast")
