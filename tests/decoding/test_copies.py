"""Decoding keeps its cache in one place: each program's loop writes it there."""

import re

import jax
import jax.numpy as jnp
import pytest

import jlayers as jl
from jlayers import decoding

WIDTH, SLOTS = 32, 400


@pytest.mark.optimised
@pytest.mark.parametrize("batch", [1, 3])
def test_the_loop_of_generate_copies_no_cache(batch):
    attend = jl.SelfAttention(4, causal=True, rope=True)
    blocks = [jl.residual(attend) for _ in range(4)]
    model = jl.serial(jl.Embedding(11, WIDTH), *blocks, jl.Dense(11))
    ids = jl.spec((batch, 5), jnp.int32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), ids)

    def run(params, ids):
        return decoding.decode(model, params, {}, ids, SLOTS - 4)

    program = jax.jit(run).lower(params, ids).compile()
    bodies, _ = program.as_text().split("\nENTRY")
    heads, size = batch * 4, WIDTH // 4
    copies = rf"f32\[({batch},4|{heads}),{SLOTS},{size}\]\S* copy\("
    assert f"{heads},{SLOTS},{size}]" in bodies
    assert not re.search(copies, bodies)
    # The cache is a temporary of the program. Beside it there are the new keys of one layer.
    cache = 2 * 4 * batch * SLOTS * WIDTH * 4
    assert program.memory_analysis().temp_size_in_bytes < 1.5 * cache


def test_programs_work_inside_a_jit_around_constants():
    """XLA's options are for outermost programs alone."""
    model, prompt = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7)), jnp.array([[1, 2]])
    params, state = model.init(jax.random.key(0), prompt)
    for run in (
        lambda: decoding.generate(model, params, state, prompt, 3).values,
        lambda: decoding.beam_search(model, params, state, prompt, 3, beams=2).ids,
    ):
        assert jax.jit(run)().tolist() == run().tolist()
