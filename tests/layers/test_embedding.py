"""Embedding: ids of every width, out of range, negative, and spread over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tables.tiers import named

import jlayers as jl
from jlayers import decoding, training

WIDTHS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "int4")


def _table(count):
    layer = jl.Embedding(count, 2)
    params, _ = layer.init(jax.random.key(0), jl.spec((1,), jnp.int32))
    return layer, params, np.asarray(params["embedding"])


def _ids(dtype, count):
    info = jnp.iinfo(dtype)
    asked = (0, count - 1, count, -1, -count, -count - 1, 2**31, 2**32 + 1, info.min, info.max)
    return sorted({int(i) for i in asked if info.min <= i <= info.max})


@pytest.mark.parametrize("count", [10, 300])
@pytest.mark.parametrize("dtype", named(WIDTHS, "int8", "uint32", "int64", "uint64"))
def test_ids_of_every_width(dtype, count):
    """Inside jit the row or NaN; without it the row or an error."""
    with jax.enable_x64("64" in dtype):
        layer, params, table = _table(count)
        ids = _ids(dtype, count)
        rows = jax.jit(lambda ids: layer.apply(params, {}, ids)[0])(
            jnp.asarray(np.array(ids, object).astype(f"{'u' * (dtype[0] == 'u')}int64"), dtype)
        )
        for i, row in zip(ids, np.asarray(rows), strict=True):
            known = -count <= i < count
            np.testing.assert_array_equal(row, table[i] if known else [np.nan] * 2)
            one = jnp.asarray(np.array([i], f"{'u' * (i > 0)}int64"), dtype)
            if known:
                np.testing.assert_array_equal(layer.apply(params, {}, one)[0][0], table[i])
            else:
                with pytest.raises(jl.LayerError, match=f"the id {i} is out of range"):
                    layer.apply(params, {}, one)


@pytest.mark.parametrize("number", [2**31, 2**32 + 1, 2**40, 2**63 - 1, -(2**31) - 1])
def test_ids_beyond_32_bits_are_refused_where_jax_has_32(number):
    layer, params, _ = _table(10)
    ids = np.array([1, number])
    for x in (ids, jl.Sequence(np.array([ids]), np.ones((1, 2), bool))):
        with pytest.raises(jl.LayerError, match=f"{number} is out of range: without x64 JAX holds"):
            layer.apply(params, {}, x)
    with pytest.raises(jl.LayerError, match=f"{number} is out of range"):
        jl.Sequence.from_rows([ids])


def test_padding_may_hold_any_id():
    layer, params, table = _table(10)
    x = jl.Sequence(jnp.asarray([[3, 99]]), jnp.asarray([[True, False]]))
    y, _ = layer.apply(params, {}, x)
    np.testing.assert_array_equal(y.values[0, 0], table[3])


def test_the_error_names_the_largest_id():
    layer, params, _ = _table(10)
    with pytest.raises(jl.LayerError) as caught:
        layer.apply(params, {}, jnp.asarray([[3, 10]]))
    for text in (
        "Embedding: the id 10 is out of range",
        "expected: ids from 0 to 9, or from -10 to -1 counted from the end",
        "got:      int32[1, 2]",
        "hint:     the largest id is 9; Embedding(n, ...) takes ids up to n - 1",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("padding_id", [10, -11])
def test_a_padding_id_is_one_of_the_ids(padding_id):
    text = f"Embedding: padding_id must be an id, from -10 to 9, got {padding_id}"
    with pytest.raises(jl.LayerError, match=text):
        jl.Embedding(10, 3, padding_id=padding_id)


def test_ids_may_name_the_padding_from_either_end():
    layer = jl.Embedding(10, 2, padding_id=3)
    params, _ = layer.init(jax.random.key(0), jl.spec((1,), jnp.int32))

    def loss(params):
        return jnp.sum(layer.apply(params, {}, jnp.asarray([3, -7, 4, -6]))[0])

    gradient = np.asarray(jax.grad(loss)(params)["embedding"])
    np.testing.assert_array_equal(gradient[3:5], [[0, 0], [2, 2]])


def test_a_table_of_numpy():
    layer, _, table = _table(10)
    np.testing.assert_array_equal(
        layer.apply({"embedding": table}, {}, jnp.array([2]))[0], table[2:3]
    )


TIED = {
    "the first layer has no table of its own": lambda: jl.tied(
        jl.serial(jl.Embedding(7, 4), jl.Dropout(0.1)), jl.LSTM(4)
    ),
    "the output of the layer does not fit the table": lambda: jl.tied(
        jl.Embedding(7, 4), jl.LSTM(5)
    ),
    "expected a layer, got 7": lambda: jl.tied(7, jl.LSTM(4)),
}


@pytest.mark.parametrize("text", TIED)
def test_what_cannot_be_tied(text):
    with pytest.raises(jl.LayerError) as caught:
        TIED[text]().init(jax.random.key(0), jl.spec((2, 5), jnp.int32))
    assert text in str(caught.value)


def test_a_tied_model_learns_and_generates():
    model = jl.tied(jl.Embedding(6, 8), jl.residual(jl.GRU(8)))
    ids = jnp.asarray([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    state = training.train_state(model, optax.sgd(0.3, momentum=0.9), jax.random.key(0), ids)

    def loss(logits, wanted):
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()

    step = jax.jit(training.train_step(model, loss, optax.sgd(0.3, momentum=0.9)))
    for _ in range(60):
        state, record = step(state, (ids[:, :-1], ids[:, 1:]))
    assert float(record["loss"]) < 0.1
    made = decoding.generate(model, state.params, state.state, jnp.asarray([[3, 4]]), 5)
    assert made.values.tolist() == [[5, 0, 1, 2, 3]]


MESHES = {
    # the table's sharding, that of the ids, that of the rows
    "ids": (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data", None, None)),
    "features": (PartitionSpec(None, "data"), PartitionSpec(), PartitionSpec(None, None, "data")),
    "table and ids": (
        PartitionSpec("data"),
        PartitionSpec(None, "data"),
        PartitionSpec(None, "data", None),
    ),
    "features and ids": (
        PartitionSpec(None, "data"),
        PartitionSpec("data"),
        PartitionSpec("data", None, None),
    ),
}


@pytest.mark.parametrize("name", named(MESHES, "ids", "features and ids"))
def test_ids_and_tables_that_are_spread_over_a_mesh_of_explicit_axes(name):
    layer, params, table = _table(8)
    of_table, of_ids, of_rows = MESHES[name]
    mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Explicit,))
    ids = np.arange(16).reshape(4, 4) % 8
    x = jax.device_put(ids.astype("int32"), NamedSharding(mesh, of_ids))
    params = jax.device_put(params, NamedSharding(mesh, of_table))

    @jax.jit
    def run(params, x):
        y, pull = jax.vjp(lambda params: layer.apply(params, {}, x)[0], params)
        return y, pull(y)[0]["embedding"]

    y, gradient = run(params, x)
    assert y.sharding.spec == of_rows
    np.testing.assert_array_equal(y, table[ids])
    np.testing.assert_allclose(gradient, 2 * table, rtol=1e-6)
