"""save_model and load_model: the model comes back, and a file says what is wrong with it."""

import contextlib
import functools
import json
import os
import random

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tables.instances import INSTANCES
from tables.tiers import soak

import jlayers as jl
from jlayers.export.architecture import Decoder, Encoder
from jlayers.export.names import builders, callable_of

KEY = jax.random.key(0)
# Of functions that have to be given a name.
UNNAMED = {
    *("self-attention, a pattern", "rnn of a user's cell", "a user's cell", "stateless"),
    *("a function of a sequence", "causal", "with_losses", "compose with state"),
    "compose, a child twice, a key",
}


@jl.factory
def Tower(features, activation=jnp.tanh):
    return jl.serial(jl.Dense(features), activation)


def doubled(x):
    return 2 * x


class Scale:
    def __init__(self, by):
        self.by = by

    def applied(self, x):
        return x * self.by


def body(f, x):
    return f.dense(x) + 1


def outline(model):
    return repr(model), [(path, layer.kind, layer.maker) for path, layer in jl.walk(model)]


def test_every_layer_of_the_table_goes_through_json_unless_a_function_has_no_name():
    refused = set()
    for name, row in INSTANCES.items():
        encoder = Encoder({})
        try:
            text = json.dumps(encoder.layer(row.layer), allow_nan=False)
        except jl.LayerError:
            refused.add(name)
            continue
        again = Decoder(encoder.arrays, {}).layer(json.loads(text))
        assert outline(again) == outline(row.layer), name
    assert refused == UNNAMED


def saved(folder, model, x, **options):
    path = folder / "model.safetensors"
    params, state = model.init(KEY, x)
    jl.save_model(path, model, params, state, **options)
    return path, params, state


def test_model_parameters_and_state_come_back(tmp_path):
    model = jl.serial(
        jl.FIRFilter(np.array([0.5, 0.25])),
        jl.repeat(jl.residual(jl.Dense(4)), 2, remat=jax.checkpoint_policies.dots_saveable),
        jl.BatchNorm(),
        functools.partial(jax.nn.gelu, approximate=False),
        head=jl.Dense(3, kernel_init=jax.nn.initializers.normal(0.3)),
    )
    path, params, state = saved(tmp_path, model, jl.spec((2, 5, 4)))
    loaded = jl.load_model(path)
    assert outline(loaded.model) == outline(model)
    for got, wanted in ((loaded.params, params), (loaded.state, state)):
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    x = np.ones((2, 5, 4), "float32")
    np.testing.assert_array_equal(
        loaded.model.apply(loaded.params, loaded.state, x)[0], model.apply(params, state, x)[0]
    )


def test_the_file_is_one_of_safetensors_that_all_may_read(tmp_path):
    path, params, _ = saved(tmp_path, jl.Dense(3), jl.spec((1, 4)))
    arrays = safetensors.numpy.load_file(path)
    assert sorted(arrays) == ["params/bias", "params/kernel"]
    np.testing.assert_array_equal(arrays["params/kernel"], params["kernel"])
    assert os.listdir(tmp_path) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_dtypes_and_keys(tmp_path):
    path = tmp_path / "model"
    params = {
        "a": jnp.ones(3, jnp.bfloat16),
        "b": np.ones(2, ml_dtypes.float8_e4m3fn),
        "c": jnp.ones((), jnp.complex64),
    }
    state = {"key": jax.random.split(KEY, 2)}
    jl.save_model(path, jl.serial(), params, state)
    _, got, got_state = jl.load_model(path)
    assert {name: leaf.dtype for name, leaf in got.items()} == {
        n: p.dtype for n, p in params.items()
    }
    np.testing.assert_array_equal(
        jax.random.key_data(got_state["key"]), jax.random.key_data(state["key"])
    )


def test_numbers_of_numpy_and_arrays_without_axes_come_back(tmp_path):
    model = jl.serial(jl.Dense(np.int64(3)), rest=jl.Dropout(np.float32(0.5)))
    path, state = tmp_path / "model", {"count": jnp.float32(2)}
    params = {"a": jnp.ones(()), "b": np.arange(24.0, dtype="float32").reshape(4, 6)[:, ::2].T}
    jl.save_model(path, model, params, state)
    loaded = jl.load_model(path)
    assert outline(loaded.model) == outline(model)
    assert type(loaded.model.children["rest"]._call.args[0]) is np.float32
    jax.tree.map(np.testing.assert_array_equal, (loaded.params, loaded.state), (params, state))
    assert loaded.params["a"].shape == loaded.state["count"].shape == ()


def test_parts_of_users_by_a_registry(tmp_path):
    model = jl.serial(Tower(3), jl.compose(body, dense=jl.Dense(3)), doubled)
    own = {"body": body, "doubled": doubled}
    path, _, _ = saved(tmp_path, model, jl.spec((2, 4)), layers=own)
    loaded = jl.load_model(path, layers={"Tower": Tower, **own})
    assert outline(loaded.model) == outline(model)
    with pytest.raises(jl.CheckpointError) as caught:
        jl.load_model(path, layers=own)
    assert str(caught.value).splitlines()[1:] == [
        "  hint:     load_model(path, layers={'Tower': ...}), the factory that built it"
    ]
    with pytest.raises(jl.CheckpointError, match="a function 'body' that is not one that a file"):
        jl.load_model(path, layers={"Tower": Tower})
    wrong = {"Tower": lambda features: features, **own}
    with pytest.raises(jl.CheckpointError, match="the architecture in the file is damaged"):
        jl.load_model(path, layers=wrong)


def test_a_factory_of_another_version_is_refused(tmp_path):
    path, _, _ = saved(tmp_path, jl.serial(Tower(3)), jl.spec((2, 4)))

    @jl.factory
    def Deeper(features):
        return jl.serial(jl.Dense(features), jl.Dense(features), jnp.tanh)

    with pytest.raises(jl.CheckpointError) as caught:
        jl.load_model(path, layers={"Tower": Deeper})
    assert caught.value.problem.endswith("build another model than when it was saved")
    assert caught.value.expected == "tanh at 'tower/tanh'"
    assert caught.value.got == "Dense at 'tower/dense_1'"
    renamed = jl.factory(lambda features: jl.serial(jl.Dense(features), jnp.tanh))
    assert jl.load_model(path, layers={"Tower": renamed}).params.keys() == {"tower"}


def test_methods_and_types_are_arguments(tmp_path):
    scale = Scale(2.0)
    for activation in (scale.applied, np.float32, float, jnp.bfloat16, np.dtype("int8")):
        own = {"applied": scale.applied} if activation == scale.applied else {}
        encoder = Encoder(own)
        found = encoder.value([activation, scale.applied] if own else [activation])
        assert Decoder([], own).value(json.loads(json.dumps(found)))[0] == activation
    for wrong in (KEY, np.array(["text"]), slice(1), {1, 2}):
        with pytest.raises(jl.LayerError, match="an argument cannot be said in a file"):
            Encoder({}).value(wrong)
    with pytest.raises(jl.CheckpointError, match="damaged"):
        Decoder([], {}).value({"type": "object"})


def test_models_of_the_library_are_known():
    model = jl.serial(jl.models.ResNet(18), jax.nn.softmax)
    encoder = Encoder({})
    found = json.loads(json.dumps(encoder.layer(model)))
    assert found["args"][0] == {"layer": "ResNet", "args": [18], "kind": "res_net"}
    assert outline(Decoder(encoder.arrays, {}).layer(found)) == outline(model)


def test_what_a_file_cannot_say_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(jl.LayerError) as caught:
        jl.save_model(path, jl.serial(jl.Dense(3), lambda x: x), {}, {})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("serial: the function <lambda test_save_model.py:")
    assert lines[0].endswith("cannot be said in a file")
    assert lines[-1] == '  hint:     layers={"a_name": function}, here and in load_model'
    bare = jl.Layer(lambda key, x: ({}, {}), lambda params, state, x, *, key, train: (x, state))
    with pytest.raises(jl.LayerError, match="cannot be said in a file: it was made of functions"):
        jl.save_model(path, bare, {}, {})

    @jl.factory
    def Dense(features):
        return jl.Dense(features)

    with pytest.raises(jl.LayerError, match="the name 'Dense' is that of another factory"):
        jl.save_model(path, Dense(3), {}, {})
    with pytest.raises(jl.CheckpointError, match="a checkpoint cannot hold 'params/a'"):
        jl.save_model(path, jl.serial(), {"a": object()}, {})
    with pytest.raises(jl.CheckpointError, match="'params/a' of the model must be an array"):
        jl.save_model(path, jl.serial(), {"a": 2.0}, {})
    with pytest.raises(jl.CheckpointError, match="could not be written"):
        jl.save_model("", jl.serial(), {}, {})
    with pytest.raises(jl.CheckpointError, match="nothing empty"):
        jl.save_model(path, jl.serial(), {"a": {}}, {})
    assert os.listdir(tmp_path) == []
    with pytest.raises(jl.CheckpointError, match="the model could not be written to"):
        jl.save_model(tmp_path / "missing" / "model", jl.serial(), {}, {})


def test_trees_that_are_not_the_models_are_refused_by_path(tmp_path):
    path, model = tmp_path / "model", jl.serial(jl.Dense(3), jl.BatchNorm())
    params, state = model.init(KEY, jl.spec((1, 4)))
    dense = params["dense"]
    for given, text in (
        ((params, None), "state does not fit the model: 2 missing(?s:.*)batch_norm/mean"),
        (({}, state), "params do not fit the model: 4 missing"),
        ((state, params), "params and state are swapped"),
        (
            (params | {"dense": dense | {"bias": jnp.ones(4)}}, state),
            r"dense/bias  expected.*\[3\]",
        ),
        ((params | {"old": dense}, state), "2 extra(?s:.*)old/bias"),
        ((None, state), "params must be a tree of arrays"),
    ):
        with pytest.raises(jl.LayerError, match=f"serial: (?s:.*){text}"):
            jl.save_model(path, model, *given)
    assert os.listdir(tmp_path) == []
    # Of another input that it met, in another float, and of one that is only known by name.
    other, _ = model.init(KEY, jl.spec((1, 5)))
    jl.save_model(path, model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), other), state)
    jl.save_model(os.fsencode(path), jl.serial(jl.Dense(3)), {"dense": dense})
    assert jl.load_model(os.fsencode(path)).params.keys() == {"dense"}
    with pytest.raises(jl.CheckpointError, match="path must be that of a file"):
        jl.load_model(None)


def test_a_file_names_nothing_that_does_more_than_compute():
    for name in ("jax.numpy.save", "jax.numpy.load", "jax.jit", "os.system", "jax.numpy.fromfile"):
        assert callable_of(name) is None
    assert "save_model" not in builders()
    decoder = Decoder([], {})
    for found in (
        {"call": "jax.numpy.tile", "kwargs": {}},
        {"function": "builtins.exec"},
        {"partial": {"function": "jax.numpy.save"}, "args": ["/tmp/x"]},
        {"layer": "save_model"},
        {"value": "Layer", "kwargs": {}},
        {"numpy": -1},
        {"tuple": 3},
        {"unknown": 3},
    ):
        with pytest.raises(jl.CheckpointError):
            decoder.value(found)


def test_damage_names_the_file_and_the_entry(tmp_path):
    path, _, _ = saved(tmp_path, jl.Dense(3), jl.spec((1, 4)))
    data = path.read_bytes()

    def problem(changed):
        path.write_bytes(changed)
        with pytest.raises(jl.CheckpointError) as caught:
            jl.load_model(path)
        return str(caught.value)

    flipped = data[:-1] + bytes([data[-1] ^ 1])
    assert "'params/kernel' has another checksum" in problem(flipped)
    assert f"cannot read {path}" in problem(data[:-4])
    assert "is not a safetensors file" in problem(b"")
    renamed = data.replace(b'"layer\\":\\"Dense', b'"layer\\":\\"Dance')
    assert renamed != data
    assert "its description has another checksum" in problem(renamed)
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    assert "it holds weights, and no model" in problem(path.read_bytes())
    path.unlink()
    with pytest.raises(jl.CheckpointError, match="No such file"):
        jl.load_model(path)


def test_a_dtype_that_is_not_enabled_names_file_and_entry(tmp_path):
    path = tmp_path / "model"
    jl.save_model(path, jl.serial(), {"a": np.ones(2)}, {})
    with pytest.raises(jl.CheckpointError) as info:
        jl.load_model(path)
    assert f"cannot read {path}: 'params/a' is float64, which is not enabled" in str(info.value)


def test_what_is_passed_in_another_way(tmp_path):
    model, path = jl.Dense(3), tmp_path / "net.pt"
    with pytest.raises(jl.LayerError, match=r"the path comes first(?s:.*)save_model\(path, model"):
        jl.save_model(model, path, {}, {})
    with pytest.raises(jl.LayerError, match=r"layers must be a mapping(?s:.*)got:      list"):
        jl.save_model(path, model, {}, {}, layers=[jl.Dense])
    with pytest.raises(jl.LayerError, match="layers must be a mapping"):
        jl.load_model(path, layers=[jl.Dense])
    for wrong in ({1: Tower}, {"Tower": 3}, {"Tower": Tower(3)}):
        with pytest.raises(jl.LayerError, match="layers must hold factories and functions by name"):
            jl.load_model(path, layers=wrong)
    with pytest.raises(jl.LayerError, match=r"'Dense' in layers is that of jlayers or JAX"):
        jl.save_model(path, model, {}, {}, layers={"Dense": Tower})
    with pytest.raises(jl.LayerError, match=r"'jax.nn.relu' in layers is that of"):
        jl.load_model(path, layers={"jax.nn.relu": doubled})
    path.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(
        jl.CheckpointError, match=r"for interop.read, those of export.stablehlo for"
    ):
        jl.load_model(path)


def test_a_newer_version_and_a_deep_model_are_refused(tmp_path):
    from jlayers.export.models import _digest

    path = tmp_path / "model"

    def write(text):
        metadata = {"jlayers": f"{_digest(text)} {text}"}
        safetensors.numpy.save_file({}, path, metadata)

    head = '{"format": "jlayers model", "version": %d, "arrays": {}, "architecture": '
    write(head % 2 + "{}}")
    with pytest.raises(jl.CheckpointError, match="it is of version 2 of the format"):
        jl.load_model(path)
    n = 20_000
    write(head % 1 + '{"layer": "serial", "kind": "serial", "args": [' * n + "]}" * n + "}")
    with pytest.raises(jl.CheckpointError, match="nested too deeply"):
        jl.load_model(path)


@pytest.mark.parametrize("seed", [0, *soak(1, 2, 3)])
def test_mutated_files_raise_one_error_or_load(tmp_path, seed):
    path, _, _ = saved(tmp_path, jl.serial(jl.Dense(3), jl.BatchNorm()), jl.spec((1, 4)))
    data, rng = path.read_bytes(), random.Random(seed)
    for _ in range(100):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice([None, rng.randrange(len(changed))])])
        with contextlib.suppress(jl.CheckpointError):
            jl.load_model(path)
