"""The blocks of a transformer are compositions: by hand, by name, and in a stream."""

import jax
import jax.numpy as jnp
import numpy as np
from error_text import each, init, read

import jlayers as jl

STEPS = jl.spec((2, 5, 4))
ATTEND = jl.SelfAttention(2)
MEMORY = jl.spec((2, 3, 6))


def _mlp():
    return jl.serial(jl.Dense(6), jax.nn.gelu, jl.Dense(4))


def test_a_parallel_block_by_hand():
    block = jl.TransformerBlock(jl.SelfAttention(2), _mlp(), norm=jl.RMSNorm(), parallel=True)
    params, state = block.init(jax.random.key(0), STEPS)
    assert set(params) == {"norm_attend", "attend", "mlp"}
    x = jax.random.normal(jax.random.key(1), STEPS.shape)

    def child(name, x):
        return block.children[name].apply(params[name], {}, x)[0]

    hidden = child("norm_attend", x)
    wanted = x + child("attend", hidden) + child("mlp", hidden)
    np.testing.assert_allclose(block.apply(params, state, x)[0], wanted, rtol=1e-5, atol=1e-6)


def test_where_values_are_dropped():
    """What is added is dropped, and what comes in is not."""
    zero = jl.Dense(4, kernel_init=jax.nn.initializers.zeros, bias_init=jax.nn.initializers.ones)
    block = jl.TransformerBlock(zero, zero, dropout_rate=0.5)
    x = jnp.zeros((20, 30, 4))
    params, state = block.init(jax.random.key(0), x)
    y, _ = block.apply(params, state, x, key=jax.random.key(1), train=True)
    values, counts = np.unique(np.asarray(y), return_counts=True)
    assert values.tolist() == [0.0, 2.0, 4.0]
    np.testing.assert_allclose(counts / y.size, [0.25, 0.5, 0.25], atol=0.03)


def test_a_stack_with_a_memory_streams():
    block = jl.TransformerDecoderBlock(
        jl.SelfAttention(2, causal=True, rope=True), jl.CrossAttention(2), _mlp()
    )
    model = jl.serial(jl.repeat(jl.branch(block, lambda x: x[1]), 2), lambda x: x[0])
    x, memory = (
        jax.random.normal(jax.random.key(i), s.shape) for i, s in enumerate((STEPS, MEMORY))
    )
    params, state = model.init(jax.random.key(0), (x, memory))
    y, _ = model.apply(params, state, (x, memory))
    start, step = jl.stream(model, capacity=5)
    carry = start(params, state, (x, memory))
    for first, last in ((0, 3), (3, 4), (4, 5)):
        block, carry = step(params, state, carry, (x[:, first:last], memory))
        np.testing.assert_allclose(block, y[:, first:last], rtol=1e-4, atol=1e-5)


def test_a_block_is_rebuilt_around_other_children():
    block = jl.TransformerBlock(jl.SelfAttention(2), _mlp(), norm_first=False)
    assert list(block.children) == ["norm_attend", "attend", "norm_mlp", "mlp"]
    before, state = block.init(jax.random.key(0), STEPS)
    x = jax.random.normal(jax.random.key(1), STEPS.shape)
    remade = jl.remat(block)
    after, _ = remade.init(jax.random.key(0), STEPS)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    y, _ = remade.apply(after, state, x)
    np.testing.assert_allclose(y, block.apply(before, state, x)[0], rtol=1e-5, atol=1e-6)


def test_a_table_of_distances_is_given_to_the_attention():
    def block(shared):
        attend = jl.SelfAttention(2, causal=True, relative=jl.T5Bias(4, 8, shared=shared))
        return jl.TransformerDecoderBlock(attend, jl.CrossAttention(2), _mlp())

    x = {"x": jnp.ones(STEPS.shape).at[:, 2].set(3.0), "memory": jnp.ones(MEMORY.shape)}
    params, state = block(False).init(jax.random.key(0), x)
    own, _ = block(False).apply(params, state, x)
    table = params["attend"].pop("relative_bias")
    y, _ = block(True).apply(params, state, x | {"relative_bias": table})
    np.testing.assert_allclose(y, own, rtol=1e-5, atol=1e-6)


CALLS = [
    (
        lambda: jl.TransformerBlock(
            jl.SelfAttention(2), jl.Dense(4), parallel=True, norm_first=False
        ),
        "TransformerBlock: the norm of a parallel block is before it",
        "hint:     norm_first=True",
    ),
    (
        lambda: jl.TransformerBlock(jl.SelfAttention, jl.Dense(4)),
        "TransformerBlock at 'attend': expected a layer, got the factory SelfAttention",
        "hint:     call it: SelfAttention(...)",
    ),
    (
        lambda: init(jl.TransformerBlock(jl.SelfAttention(2), jl.Dense(3)), STEPS),
        "TransformerBlock: merges arrays of one shape and dtype",
    ),
    (
        lambda: init(
            jl.TransformerDecoderBlock(jl.SelfAttention(2), jl.CrossAttention(2), jl.Dense(4)),
            STEPS,
        ),
        "TransformerDecoderBlock: takes a pair",
        "expected: (x, memory), or a dict of these with 'mask', 'bias', 'relative_bias', "
        "'memory_mask' or 'memory_bias'",
        "got:      float32[2, 5, 4]",
    ),
]


@each(CALLS)
def test_the_text(case):
    read(case)
