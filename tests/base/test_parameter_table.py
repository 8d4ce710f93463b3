"""The table of parameters: what it says is what init does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import read
from jax.nn import initializers

import jlayers as jl


def model():
    return jl.serial(
        jl.Conv(4, 3),
        body=jl.ensemble(jl.serial(jl.Dense(4), deep=jl.repeat(jl.Dense(4, bias=False), 2)), 3),
        norm=jl.BatchNorm(),
    )


X = jl.spec((2, 8, 3))


def test_an_entry_for_each_array(key):
    params, state = model().init(key, X)
    for tree, table in ((params, jl.parameters(model(), X)), (state, jl.variables(model(), X))):
        arrays = jl.flatten(tree)
        assert arrays.keys() == table.keys()
        for path, array in arrays.items():
            assert (array.shape, array.dtype) == (table[path].shape, table[path].dtype)


def test_copies_and_keys():
    spec = jl.parameters(model(), X)["body/deep/kernel"]
    assert spec.shape == (3, 2, 4, 4)
    assert spec.copies == (3, 2)
    assert spec.shape_of_one == (4, 4)
    assert spec.key_path == ("body", 3, "deep", 2, "kernel")


def test_an_entry_as_text():
    table = jl.parameters(jl.repeat(jl.Dense(3, kernel_init=initializers.ones), 2), X)
    assert repr(table["kernel"]) == (
        "ParamSpec(jax.nn.initializers.ones, float32[2, 3, 3], copies=(2,))"
    )


def own_layer(init):
    return jl.stateless(init, lambda params, x: x + params["inner"]["w"].sum(), name="own")


def test_a_hand_written_init_is_called_once_for_all_its_arrays(key):
    calls = []

    def init(key, x):
        if not isinstance(key, jax.core.Tracer):
            calls.append(key)
        first, second = jax.random.split(key)
        return {"inner": {"w": jax.random.normal(first, (3,))}, "b": jax.random.normal(second)}

    layer = jl.serial(own_layer(init), own_layer(init))
    table = jl.parameters(layer, X)
    assert list(table) == ["own/inner/w", "own/b", "own_1/inner/w", "own_1/b"]
    assert repr(table["own/b"]).startswith("ParamSpec(init of stateless(")
    params, _ = layer.init(key, X)
    assert len(calls) == 2
    assert list(params["own"]) == ["inner", "b"]


def test_a_parameter_under_another_name_than_its_own_comes_from_its_init(key):
    dense = jl.Dense(3)

    def renamed(key, x):
        params, _ = dense.init(key, x)
        return {"inner": {"w": params["kernel"]}, "empty": {}}

    params, _ = jl.serial(own_layer(renamed)).init(key, X)
    assert params["own"]["empty"] == {}
    assert params["own"]["inner"]["w"].shape == (3, 3)


def test_the_error_of_a_hand_written_init_says_where(key):
    def init(key, x):
        if not isinstance(key, jax.core.Tracer):
            raise ValueError("no such file")
        return {"inner": {"w": jnp.zeros(3)}}

    with pytest.raises(jl.LayerError, match="at 'encoder/own': raised ValueError: no such"):
        jl.serial(encoder=jl.serial(own_layer(init))).init(key, X)


def test_other_keys_give_what_the_table_says():
    layer, key = model(), jax.random.key(3, impl="rbg")
    params, _ = layer.init(key, X)
    folded = jax.random.fold_in(key, 0)
    assert params["body"]["deep"]["kernel"].shape == (3, 2, 4, 4)
    assert not np.array_equal(
        params["body"]["deep"]["kernel"], layer.init(folded, X)[0]["body"]["deep"]["kernel"]
    )


def test_one_pattern_for_every_kernel(key):
    layers = jl.serial(
        jl.LSTM(4, projection=3), jl.SelfAttention(1), jl.LinearRecurrence(2), jl.GRU(2)
    )
    params, _ = layers.init(key, jl.spec((2, 5, 3)))
    chosen = jl.flatten(jl.select(params, "**/*kernel"))
    assert {path.split("/")[-1] for path, is_chosen in chosen.items() if is_chosen} == {
        "kernel", "recurrent_kernel", "projection_kernel", "gate_kernel",
        "query_kernel", "key_kernel", "value_kernel", "out_kernel",
    }  # fmt: skip
    assert all(
        is_chosen == (jl.flatten(params)[path].ndim > 1) for path, is_chosen in chosen.items()
    )


def test_partition_and_combine(key):
    params, _ = model().init(key, X)
    kernels, others = jl.partition(params, "**/kernel")
    assert set(jl.flatten(kernels)) == {"conv/kernel", "body/dense/kernel", "body/deep/kernel"}
    assert not set(jl.flatten(kernels)) & set(jl.flatten(others))
    together = jl.combine(others, kernels)
    assert jl.flatten(together).keys() == jl.flatten(params).keys()
    assert jl.partition(params, "**") == (params, {})
    with pytest.raises(jl.LayerError, match="the pattern 'kernal' fits no path"):
        jl.partition(params, "kernal")


PATH_ERRORS = [
    (lambda: jl.combine({"a": 1}, {"a": 2}), "combine: two trees have a leaf at 'a'"),
    (lambda: jl.combine([{"a": 1}]), "combine: the tree must be nested dicts, such as params"),
    (
        lambda: jl.partition({"a": (1, 2)}, "a/**"),
        "partition: the tree must be nested dicts, such as params",
    ),
    (
        lambda: jl.select({"a": 1}, ["a"]),
        "select: a pattern must be a text, got ['a']",
        'hint:     each pattern by itself: "**/bias", "head/**"; of a list *patterns',
    ),
]


@pytest.mark.parametrize("error", PATH_ERRORS, ids=lambda error: error[1])
def test_errors_of_paths(error):
    read(error)
