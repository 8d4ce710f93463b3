"""Text generated on a mesh: the ids of one device, with caches where their rows and heads are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from jax.sharding import AbstractMesh, AxisType
from tables.tiers import full

import jlayers as jl
from jlayers import decoding, sharding
from jlayers.sharding.collectives import traffic

P = jax.P
MESHES = {
    kind: jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
    for kind in (AxisType.Auto, AxisType.Explicit)
}
AUTO = MESHES[AxisType.Auto]
FEATURES = sharding.tensor_parallel("model")
ROWS = FEATURES + sharding.data_parallel("data")
PARTS = FEATURES + sharding.fsdp("data", least=0)
SIZES = {"num_embeddings": 64, "features": 32, "num_layers": 2}
MODELS = {
    "GPT-2": jl.models.GPT2(**SIZES, num_heads=4, num_positions=64),
    "Llama": jl.models.Llama(**SIZES, hidden_dim=64, num_heads=4, num_kv_heads=2),
    "LSTM": jl.models.LSTMLM(**SIZES),
    "window": jl.serial(
        jl.Embedding(16, 8), jl.SelfAttention(2, causal=True, window=3), jl.Dense(16)
    ),
}
IDS = np.random.default_rng(0).integers(0, 16, (4, 5)).astype(np.int32)


@pytest.mark.parametrize("kind", [AxisType.Auto, *full(AxisType.Explicit)])
@pytest.mark.parametrize("name", ["Llama", *full("GPT-2", "LSTM", "window")])
@pytest.mark.parametrize("rules", [ROWS, *full(PARTS)], ids=str)
def test_the_ids_of_one_device(name, rules, kind):
    """Greedily, and drawn from a key, from weights that lie on the host."""
    model, where = MODELS[name], {"mesh": MESHES[kind], "rules": rules}
    params, state = model.init(jax.random.key(0), IDS)
    for how in ({}, {"temperature": 2.0, "top_k": 20, "key": jax.random.key(1)}):
        expected = decoding.generate(model, params, state, IDS, 6, **how)
        got = decoding.generate(model, params, state, IDS, 6, **how, **where)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert got.values.sharding.is_fully_replicated


def test_prompts_of_several_lengths_and_rows_that_nothing_divides():
    model = MODELS["Llama"]
    prompt = jl.Sequence.from_rows([[1, 2, 3], [4], [5, 6]])
    params, state = model.init(jax.random.key(0), prompt)
    expected = decoding.generate(model, params, state, prompt, 4, stop=3)
    got = decoding.generate(model, params, state, prompt, 4, stop=3, mesh=AUTO, rules=ROWS)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def compiled(name, rules=ROWS):
    model = MODELS[name]
    params, state = model.init(jax.random.key(0), IDS)
    params = rules.layout(model, IDS, AUTO).shard(params)

    def run(params, ids):
        return decoding.decode(model, params, state, ids, 8, mesh=AUTO, rules=rules).values

    return jax.jit(run).lower(params, jnp.asarray(IDS)).compile().as_text()


def test_no_device_has_a_whole_cache():
    """Arrays (copies, rows, heads, steps, size): a half of the rows, and of the shared heads."""
    text = compiled("Llama")
    assert "f32[2,2,1,12,8]" in text
    assert "f32[2,4,2,12,8]" not in text
    assert "f32[2,2,2,12,8]" not in text


def test_a_step_sends_activations_and_no_cache():
    """Two sums of activations a block, and what the choice of an id needs."""
    found = traffic(compiled("Llama"))
    assert set(found.collectives) <= {"all-reduce", "all-gather"}
    # Of two halves of the logits the largest and where it is, and in the end the ids themselves.
    assert found.bytes.get("all-gather", 0) <= 32 + IDS.shape[0] * 8 * 4


def test_carries_lie_where_the_kernels_of_their_layers_do():
    mesh = AbstractMesh((2, 4), ("data", "model"))
    model = jl.serial(
        lstm=jl.LSTM(8), shared=jl.SelfAttention(4, num_kv_heads=2, causal=True),
        own=jl.SelfAttention(4, causal=True), conv=jl.Conv(8, 3, padding="CAUSAL"),
    )  # fmt: skip
    x = jl.spec((4, 5, 8))
    layout = ROWS.layout(model, x, mesh)
    start, _ = jl.stream(model, capacity=10)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    carry = jax.eval_shape(lambda p, s: start(p, s, x), params, state)
    found = layout.of_carry(carry, jax.tree.map(lambda leaf: 0, carry))
    specs = {path: place.spec for path, place in jl.flatten(found).items()}
    assert specs["lstm/c"] == specs["lstm/h"] == P("data", "model")
    assert specs["own/keys"] == specs["own/values"] == P("data", "model")
    # Four devices do not divide two heads.
    assert specs["shared/keys"] == P("data", None)
    assert specs["own/count"] == P("data")
    assert specs["conv/context"] == P("data", None)


@each(
    [
        (
            lambda: decoding.generate(MODELS["LSTM"], {}, {}, IDS, 2, mesh=AUTO),
            "generate: a mesh comes with rules",
            'expected: mesh=jax.make_mesh((4,), ("data",)), rules=jl.sharding.fsdp("data")',
            "rules=None",
        ),
        (
            lambda: decoding.generate(
                MODELS["LSTM"],
                *MODELS["LSTM"].init(jax.random.key(0), IDS),
                IDS,
                2,
                mesh=AbstractMesh((2,), ("data",)),
                rules=sharding.data_parallel("data"),
            ),
            "generate: shard needs devices, and this mesh is abstract",
        ),
    ]
)
def test_what_is_refused(case):
    read(case)
