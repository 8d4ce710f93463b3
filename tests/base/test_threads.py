"""One layer used from many threads at once, each with shapes that are new to it."""

import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import decoding
from jlayers.base import memo

KEY = jax.random.key(0)
THREADS = 8


@pytest.fixture
def often():
    """Threads take turns as often as Python allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(run):
    """What ``run(i)`` gives in each of the threads, all of which begin at once."""
    barrier = threading.Barrier(THREADS)
    results, errors = [None] * THREADS, []

    def thread(i):
        barrier.wait()
        try:
            results[i] = run(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not errors, errors
    return results


def scaled(f, x):
    return f.dense(x) * f.param("scale", jax.nn.initializers.ones, (1, 1, 3))


def model():
    return jl.serial(
        jl.Dense(4), jl.repeat(jl.residual(jl.Dense(4)), 2), jl.compose(scaled, dense=jl.Dense(3))
    )


def same(results, wanted):
    for got, one in zip(results, wanted, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, one)


def test_abstract_passes_of_more_shapes_than_are_remembered(often, monkeypatch):
    monkeypatch.setattr(memo, "REMEMBERED", 2)
    layer = model()

    def run(i):
        # Each shape in several threads, and dropped by others before it is read again.
        return [
            jl.out_spec(layer, x).shape
            for n in range(6)
            for x in (jl.spec((1 + n, 2, 5)), jl.spec((1, 2 + n + i // 2, 5)))
        ]

    assert together(run) == [run(i) for i in range(THREADS)]


def test_init_and_apply(often):
    layer, reference = model(), model()

    def run(layer, i):
        x = jnp.full((1 + i % 2, 2 + i // 2, 5), 0.5)
        params, state = layer.init(KEY, x)
        y, _ = layer.apply(params, state, x)
        masked, _ = layer.apply(params, state, jl.Sequence.from_lengths(x, [1] * len(x)))
        return params, y, masked.values[:, :1]

    same(together(lambda i: run(layer, i)), [run(reference, i) for i in range(THREADS)])


def test_streams_and_decoding(often):
    layer = jl.serial(jl.Embedding(7, 4), jl.GRU(4), jl.Dense(7))
    params, state = layer.init(KEY, jl.spec((1, 2), jnp.int32))
    start, step = jl.stream(layer)

    def run(i):
        ids = jnp.full((1 + i % 2, 2), i % 7, jnp.int32)
        y, _ = step(params, state, start(params, state, ids), ids)
        return y, decoding.generate(layer, params, state, ids, 2).values

    same(together(run), [run(i) for i in range(THREADS)])


def test_choices_are_recorded_by_the_thread_that_asks(often):
    """``explain`` shows the layers of its own thread alone."""
    layers = [jl.serial(*[jl.Dense(3)] * (i + 1)) for i in range(THREADS)]
    counts = together(lambda i: len(jl.explain(layers[i], jl.spec((2, 3, 4))).decisions))
    assert counts == [len(jl.explain(layer, jl.spec((2, 3, 4))).decisions) for layer in layers]


def test_a_memo_keeps_the_first_value_and_the_newest_keys():
    known = {}
    assert memo.remember(known, "a", 1) == 1
    assert memo.remember(known, "a", 2) == 1
    for i in range(memo.REMEMBERED):
        memo.remember(known, i, i)
    assert "a" not in known
    assert len(known) == memo.REMEMBERED
