"""Parameters cast to bfloat16 or float16: apply, a stream, repeat and generate alike.

The reference is the same layer with the same values in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES
from tables.tiers import named, rows, sample

import jlayers as jl
from jlayers import decoding

KEY = jax.random.key(5)
half_dtypes = pytest.mark.parametrize("dtype", sample([jnp.bfloat16, jnp.float16]))


def cast(tree, dtype):
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


@half_dtypes
@pytest.mark.parametrize("name", rows(INSTANCES))
def test_outputs_and_states_have_the_dtypes_they_had(name, dtype):
    layer, spec = INSTANCES[name][:2]
    # What reads ids alone has the dtype of its table, weights or not.
    floating = any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(spec))
    ids = not floating or layer.maker == "EmbeddingBag"

    def run(params_dtype, x_dtype):
        def program(x):
            params, state = layer.init(KEY, x)
            params, x = cast(params, params_dtype), cast(x, x_dtype)
            y, after = layer.apply(params, state, x, key=KEY, train=True)
            return cast(y, dtype) if ids else y, after

        return dtypes(jax.eval_shape(program, spec))

    for x_dtype in (jnp.float32, dtype):
        assert run(dtype, x_dtype) == run(jnp.float32, x_dtype)


V = 7
IDS = jnp.asarray([[1, 5, 2, 0, 3], [6, 1, 1, 4, 2]], jnp.int32)


def of_param(f, x):
    """A body with a parameter of its own dtype, which the cast changes."""
    return f.lstm(x) * f.param("scale", jax.nn.initializers.ones, (1, 1, 8), x.dtype)


# Between an Embedding, whose output has the dtype of its table, and a Dense.
MIDDLES = {
    "lstm": jl.LSTM(8),
    "repeated lstm": jl.repeat(jl.LSTM(8), 2),
    "repeated conv": jl.repeat(jl.Conv(8, 2, padding="CAUSAL"), 2),
    "attention": jl.SelfAttention(2, causal=True),
    "attention with a window": jl.SelfAttention(2, causal=True, window=3, rope=True),
    "nested": jl.repeat(jl.residual(jl.serial(jl.LayerNorm(), jl.remat(jl.GRU(8)))), 2),
    "in float32": jl.LinearRecurrence(8),
    "peephole": jl.LSTM(8, peephole=True, trainable_carry=True, zoneout=0.1),
    "merged": jl.concat(jl.MinGRU(4), jl.SimpleRNN(4)),
    "body": jl.compose(of_param, lstm=jl.LSTM(8)),
}


@half_dtypes
@pytest.mark.parametrize("name", named(MIDDLES, "lstm", "attention", "nested", "in float32"))
def test_a_stream_is_apply(name, dtype):
    model = jl.serial(jl.Embedding(V, 8), MIDDLES[name], jl.Dense(V))
    params, state = model.init(KEY, IDS)
    half = cast(params, dtype)
    start, step = jl.stream(model, capacity=8)

    @jax.jit
    def blocks(params):
        carry = start(params, state, IDS)
        first, after = step(params, state, carry, IDS[:, :2])
        rest, last = step(params, state, after, IDS[:, 2:])
        return jnp.concatenate([first, rest], 1), (carry, after, last)

    whole = jax.jit(lambda params: model.apply(params, state, IDS)[0])
    got, carries = blocks(half)
    assert got.dtype == whole(half).dtype == dtype
    # A LinearRecurrence sums in float32 at least, whatever the input; others have its dtype.
    wide = jnp.dtype(jnp.float32)
    inner = {d for d in dtypes(carries) if jnp.issubdtype(d, jnp.floating)}
    wanted = {"in float32": {wide}, "merged": {wide, jnp.dtype(dtype)}}
    assert inner == wanted.get(name, {jnp.dtype(dtype)})
    assert dtypes(carries[0]) == dtypes(carries[1]) == dtypes(carries[2])
    tolerance = 16 * float(jnp.finfo(dtype).eps)
    exact = np.asarray(whole(cast(half, jnp.float32)))
    for y in (got, whole(half)):
        np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=tolerance)
    # In one part of the model alone.
    mixed = params | {"embedding": half["embedding"]}
    assert blocks(mixed)[0].dtype == whole(mixed).dtype == dtype


@pytest.mark.parametrize("name", named(MIDDLES, "repeated lstm"))
def test_generate_takes_them(name):
    model = jl.serial(jl.Embedding(V, 8), MIDDLES[name], jl.Dense(V))
    params, state = model.init(KEY, IDS)
    half = cast(params, jnp.bfloat16)
    ids = decoding.generate(model, half, state, IDS, 3).values
    whole = jnp.concatenate([IDS, ids], 1)
    logits = model.apply(half, state, whole)[0][:, IDS.shape[1] - 1 : -1].astype(jnp.float32)
    # The likeliest one, or as likely to rounding.
    chosen = jnp.take_along_axis(logits, ids[..., None], -1)[..., 0]
    assert bool((chosen >= logits.max(-1) - 0.05).all())


@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16])
def test_the_values_are_those_of_float32_parameters(x_dtype):
    """What is stored in half precision is used in the dtype of the input."""
    model = jl.serial(jl.Conv(4, 2, padding="CAUSAL"), jl.LayerNorm(), jl.GRU(3), jl.Dense(2))
    x = jax.random.normal(KEY, (2, 5, 3), x_dtype)
    params, state = model.init(KEY, x)
    half = cast(params, jnp.bfloat16)
    apply = jax.jit(lambda params: model.apply(params, state, x)[0])
    np.testing.assert_array_equal(apply(half), apply(cast(half, jnp.float32)))
