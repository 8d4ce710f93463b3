"""Layers as ONNX operators, beside what the same layers are operation by operation."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import export
from oracles.onnx_runs import agree, kinds, run
from tables.tiers import full, named

import jlayers as jl

STEPS = jl.spec((2, 5, 4))
IMAGE = jl.spec((2, 6, 5, 4))
LAYERS = {
    "lstm": (jl.LSTM(3, trainable_carry=True, peephole=True, clip=0.7), STEPS, "LSTM"),
    "lstm, softplus": (jl.LSTM(3, reverse=True, activation=jax.nn.softplus), STEPS, "LSTM"),
    "gru": (jl.GRU(3, trainable_carry=True), STEPS, "GRU"),
    "gru, reset before": (jl.GRU(3, reset_after=False, reverse=True), STEPS, "GRU"),
    "rnn": (jl.SimpleRNN(3, activation=jax.nn.relu, return_sequences=False), STEPS, "RNN"),
    "attention": (jl.SelfAttention(4, causal=True, num_kv_heads=2), STEPS, "Attention"),
    "cross-attention": (jl.CrossAttention(2), (STEPS, jl.spec((2, 3, 6))), "Attention"),
    "layer norm": (jl.LayerNorm(bias=False), STEPS, "LayerNormalization"),
    "rms norm": (jl.RMSNorm(), IMAGE, "RMSNormalization"),
    "batch norm": (jl.BatchNorm(), IMAGE, "BatchNormalization"),
    "group norm": (jl.GroupNorm(2), IMAGE, "GroupNormalization"),
    "instance norm": (jl.InstanceNorm(), IMAGE, "InstanceNormalization"),
    "conv": (jl.Conv(8, 3, groups=4, padding="SAME"), IMAGE, "Conv"),
    "transposed conv": (
        jl.ConvTranspose(6, 3, strides=(2, 3), groups=2, padding="SAME"),
        IMAGE,
        "ConvTranspose",
    ),
    "max pool": (jl.MaxPool(3, strides=2, padding="SAME"), IMAGE, "MaxPool"),
    "average pool": (jl.AvgPool(3, strides=2, padding="SAME"), IMAGE, "AveragePool"),
    "global average pool": (jl.GlobalAvgPool(), IMAGE, "ReduceMean"),
    "resize": (jl.Resize(factor=(2, 3), method="linear"), IMAGE, "Resize"),
    "resize, nearest": (jl.Resize(factor=2), IMAGE, "Resize"),
    "embedding": (jl.Embedding(7, 3), jl.spec((2, 5), jnp.int32), "Gather"),
    "softmax": (jl.lift(lambda x: jax.nn.softmax(x, axis=1)), STEPS, "Softmax"),
    "log softmax": (jl.lift(jax.nn.log_softmax), STEPS, "LogSoftmax"),
    "gelu": (jl.lift(jax.nn.gelu), STEPS, "Gelu"),
    "gelu, exact": (jl.lift(lambda x: jax.nn.gelu(x, approximate=False)), STEPS, "Gelu"),
    "relu": (jl.lift(jax.nn.relu), STEPS, "Relu"),
}


def values(spec, seed=0):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if leaf.dtype == jnp.int32:
            return rng.integers(0, 7, leaf.shape).astype("int32")
        return rng.normal(size=leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, spec)


# Further options of operators that others are already.
FURTHER = ("lstm, softplus", "gru, reset before", "rnn", "rms norm", "instance norm", "relu")
FURTHER += ("cross-attention", "resize, nearest", "gelu, exact", "average pool")


@pytest.mark.parametrize("name", named(LAYERS, *set(LAYERS) - set(FURTHER)))
def test_a_layer_is_an_operator(name, key):
    layer, spec, kind = LAYERS[name]
    params, state = layer.init(key, spec)
    # So that no part of any weight is zero or one.
    params, state = (jax.tree.map(lambda a: a + abs(values(a)) / 3, t) for t in (params, state))
    model = agree(layer, params, state, spec, values(spec))
    assert kinds(model).count(kind) == 1
    assert "Scan" not in kinds(model)


def test_what_only_looks_like_an_idiom_is_none(key):
    def wrong_axis(x):
        weights = jnp.exp(x - jnp.max(x, 0)[:, None])
        return weights / jnp.sum(weights, 1, keepdims=True) ** 1

    def wrong_sum(x):
        weights = jnp.exp(x - jnp.max(x, 1, keepdims=True))
        return weights / jnp.sum(weights, 0)[:, None]

    def wrong_mean(x):
        return jnp.sum(x, 1) / 3

    def wrong_gelu(x):
        return x * (0.5 * (1 + jnp.tanh(0.79788456 * (x + 0.05 * x**3))))

    spec = jl.spec((4, 4))
    for function in (wrong_axis, wrong_sum, wrong_mean, wrong_gelu):
        found = kinds(agree(jl.lift(function), {}, {}, spec, values(spec), batch=None))
        assert not {"Softmax", "ReduceMean", "Gelu"} & set(found)


def test_copies_of_repeat_are_operators_in_a_loop(key):
    layer = jl.repeat(jl.serial(jl.LSTM(4), jl.LayerNorm(), jl.SelfAttention(2)), 2)
    params, state = layer.init(key, STEPS)
    model = agree(layer, params, state, STEPS, values(STEPS))
    assert {"Scan", "LSTM", "LayerNormalization", "Attention"} <= set(kinds(model))


def test_parameters_of_another_dtype_are_cast(key):
    layer = jl.serial(jl.LSTM(4), jl.LayerNorm(), jl.SelfAttention(2), jl.GlobalAvgPool())
    params, state = layer.init(key, STEPS)
    params = jax.tree.map(lambda a: a.astype(jnp.float16), params)
    model = agree(layer, params, state, STEPS, values(STEPS))
    assert {"LSTM", "LayerNormalization", "Attention"} <= set(kinds(model))


def test_a_factory_of_the_same_name_is_not_taken_for_ours(key):
    @jl.factory
    def LSTM(features):
        return jl.Dense(features)

    params, state = LSTM(3).init(key, STEPS)
    model = agree(LSTM(3), params, state, STEPS, values(STEPS))
    assert kinds(model) == ["MatMul", "Add", "Identity"]


def test_options_that_no_operator_has_are_written_out(key):
    for layer in (jl.LSTM(3, layer_norm=True), jl.LSTM(3, zoneout=0.2)):
        params, state = layer.init(key, STEPS)
        assert "Scan" in kinds(agree(layer, params, state, STEPS, values(STEPS)))


def test_transposes_between_convolutions_cancel(key):
    layer = jl.serial(
        *(jl.Conv(4, 3, padding="SAME"), jl.BatchNorm(), jax.nn.relu, jl.MaxPool(2)),
        *(jl.residual(jl.Conv(4, 3, padding="SAME")), jnp.tanh, jl.ConvTranspose(3, 2, strides=2)),
    )
    params, state = layer.init(key, IMAGE)
    model = agree(layer, params, state, IMAGE, values(IMAGE))
    wanted = "Transpose Conv BatchNormalization Relu MaxPool Conv Add Tanh ConvTranspose Transpose"
    assert kinds(model) == [*wanted.split(), "Identity"]


def test_parameters_keep_their_paths(key):
    encoder = jl.serial(jl.Conv(3, 1), jl.Dense(3), jl.LayerNorm())
    layer = jl.serial(encoder=encoder, head=jl.LSTM(2))
    params, state = layer.init(key, STEPS)
    params = jax.tree.map(lambda a: a + 0.5, params)
    names = {array.name for array in jl.export.onnx(layer, params, state, STEPS).graph.initializer}
    assert {"encoder/conv/kernel", "encoder/conv/bias"} <= names
    paths = ("encoder/dense/kernel", "encoder/dense/bias", "encoder/layer_norm/scale")
    assert {*paths, "head/kernel", "head/recurrent_kernel", "head/bias"} <= names


def test_a_mask_is_an_input(key):
    # Functions too are looked at for what they do to padding, without numbers for sizes.
    steps = jl.serial(jl.Dense(3), jax.nn.gelu, lambda x: x - x.mean(-1, keepdims=True))
    layer = jl.serial(steps, jl.bidirectional(jl.GRU(2)), jl.GlobalAvgPool())
    params, state = layer.init(key, STEPS)
    batch, time = export.symbolic_shape("batch, time")
    spec = jl.Sequence(
        jax.ShapeDtypeStruct((batch, time, 4), jnp.float32),
        jax.ShapeDtypeStruct((batch, time), bool),
    )
    x = jl.Sequence.from_lengths(values(jl.spec((3, 7, 4))), np.array([7, 2, 5]))
    model = agree(layer, params, state, spec, x)
    assert [value.name for value in model.graph.input] == ["x/values", "x/mask"]


def test_padding_alone_in_a_window_is_what_it_is_in_jax():
    steps = jl.Sequence.from_lengths(values(jl.spec((2, 6, 4))), np.array([3, 1]))
    model = agree(jl.MaxPool(2, strides=2), {}, {}, steps, steps)
    assert "MaxPool" in kinds(model)


def test_arrays_of_several_uses_are_written_once(key):
    twice = jl.compose(
        lambda f, x: f.lstm(f.conv(f.lstm(x))), lstm=jl.LSTM(24), conv=jl.Conv(24, 3)
    )
    head = jl.compose(
        lambda f, x: f.steps(f.table(x)) @ f.table.params["embedding"].T,
        table=jl.Embedding(70, 24),
        steps=twice,
    )
    ids = jl.spec((2, 5), jnp.int32)
    params, state = head.init(key, ids)
    model = agree(head, params, state, ids, values(ids))
    written = sum(np.prod(array.dims) for array in model.graph.initializer)
    assert written < 1.1 * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_blocks_of_a_stream_are_the_whole(key):
    model = jl.serial(jl.Conv(4, 3, padding="CAUSAL"), jl.LSTM(3))
    params, state = model.init(key, STEPS)
    streamed = jl.carried(model)
    block = jl.spec((2, 2, 4))
    carry = jl.out_spec(streamed, block)[1]
    graph = jl.export.onnx(streamed, params, state, (block, carry), time=None, check=False)
    x = values(jl.spec((2, 6, 4)))
    states = [np.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(carry)]
    blocks = []
    for start in range(0, 6, 2):
        y, *states = run(graph, [x[:, start : start + 2], *states])
        blocks.append(y)
    whole = jax.jit(model.apply)(params, state, x)[0]
    np.testing.assert_allclose(np.concatenate(blocks, 1), whole, rtol=1e-4, atol=1e-5)


def test_sizes_are_named(key):
    layer = jl.Conv(3, 2)
    params, state = layer.init(key, STEPS)
    model = jl.export.onnx(layer, params, state, STEPS, batch="rows", time="steps")
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [["rows", "steps", 4], ["rows", "steps - 1", 3]]
    fixed = jl.export.onnx(layer, params, state, STEPS, batch=None)
    assert run(fixed, [values(STEPS)])[0].shape == (2, 4, 3)


def test_a_file_and_another_one_for_its_arrays(key, tmp_path, monkeypatch):
    layer = jl.Dense(300)
    params, state = layer.init(key, jl.spec((2, 4)))
    model = jl.export.onnx(layer, params, state, jl.spec((2, 4)), tmp_path / "dense.onnx")
    assert onnx.load(tmp_path / "dense.onnx") == model
    monkeypatch.setattr("jlayers.export.to_onnx.exporting._EXTERNAL", 1000)
    jl.export.onnx(layer, params, state, jl.spec((2, 4)), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").stat().st_size >= 4800
    np.testing.assert_array_equal(
        jl.interop.read(tmp_path / "large.onnx")["kernel"], params["kernel"]
    )


@pytest.mark.parametrize("opset", [20, *full(22)])
def test_older_opsets(opset, key):
    layer = jl.serial(jl.RMSNorm(), jl.SelfAttention(2), jl.GroupNorm(2), jl.LSTM(2))
    params, state = layer.init(key, STEPS)
    model = agree(layer, params, state, STEPS, values(STEPS), opset=opset)
    assert model.opset_import[0].version == opset
    assert "Attention" not in kinds(model)
