"""A long causal convolution keeps its context in a ring."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("options", [{}, {"groups": 2}], ids=str)
def test_steps_give_the_outputs_of_the_whole_sequence(options):
    """Also after the ring is full, before and after longer blocks, and with padding."""
    layer = jl.Conv(4, 33, dilation=2, padding="CAUSAL", **options)
    x = jax.random.normal(jax.random.key(0), (2, 150, 2), jnp.float64)
    mask = jnp.asarray(np.random.default_rng(0).random((2, 150)) < 0.9)
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = layer.apply(params, {}, jl.Sequence(x, mask))
    start, step = jl.stream(layer)
    jitted = jax.jit(lambda carry, x: step(params, {}, carry, x))

    def one(carry, x):
        values, valid = x
        y, carry = jitted(carry, jl.Sequence(values[:, None], valid[:, None]))
        return carry, y.fill()[:, 0]

    def singly(carry, block):
        steps = jnp.moveaxis(x[:, block], 1, 0), jnp.moveaxis(mask[:, block], 1, 0)
        carry, ys = jax.lax.scan(one, carry, steps)
        return carry, jnp.moveaxis(ys, 0, 1)

    carry, first = singly(start(params, {}, x), slice(0, 80))
    block, carry = jitted(carry, jl.Sequence(x[:, 80:90], mask[:, 80:90]))
    _, last = singly(carry, slice(90, 150))
    found = jnp.concatenate([first, block.fill(), last], 1)
    np.testing.assert_allclose(found, y.fill(), rtol=1e-9, atol=1e-12)


@pytest.mark.optimised
@pytest.mark.parametrize("batch", [1, 3])
def test_a_loop_of_steps_copies_no_ring(batch):
    conv = jl.Conv(32, 65, padding="CAUSAL")
    model, x = jl.serial(conv, conv, conv), jl.spec((batch, 1, 32), jnp.float32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    start, step = jl.stream(model)
    carry = jax.eval_shape(lambda p, x: start(p, {}, x), params, x)

    def loop(params, carry, x):
        return jax.lax.fori_loop(0, 7, lambda _, now: step(params, {}, now[1], now[0]), (x, carry))

    program = jax.jit(loop, donate_argnums=1).lower(params, carry, x).compile()
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size
    assert not re.search(rf"f32\[{batch},65,32\]\S* copy\(", program.as_text())
