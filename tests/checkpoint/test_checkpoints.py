"""Checkpoints: every kind of leaf is restored exactly, and other programs read the files."""

import hashlib
import json
import zlib
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
from jax.sharding import NamedSharding, PartitionSpec

import jlayers as jl
from jlayers import training
from jlayers.checkpoint.tree import DTYPES

Pair = namedtuple("Pair", "left right")
NAN_PAYLOAD = np.array([0x7FC12345, 0xFF800001, 0x80000000], np.uint32).view(np.float32)


def raw(leaf):
    """The bytes of a leaf, and what it is."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return type(leaf), str(jax.random.key_impl(leaf)), raw(jax.random.key_data(leaf))
    if not hasattr(leaf, "dtype"):
        return type(leaf), np.array(leaf).tobytes()
    return type(leaf), leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()


def assert_exact(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert raw(a) == raw(b)


def save_and_restore(folder, tree, **options):
    path = training.save_checkpoint(folder, tree, step=7, **options)
    return training.read_checkpoint(path, tree)


def numbers(name):
    """Every bit pattern of a byte, seen as a dtype, that the dtype has."""
    dtype = DTYPES[name]
    if name == "bool":
        return np.arange(256) % 2 == 0
    if name.startswith(("int2", "int4", "uint2", "uint4", "float4")):
        return np.arange(4).astype(dtype)
    return np.arange(256, dtype=np.uint8).view(dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_restored_exactly(tmp_path, name):
    x = numbers(name)
    tree = {"numpy": x, "grid": x.reshape(2, -1), "one": x[:1].reshape(()), "none": x[:0]}
    narrow = jax.dtypes.canonicalize_dtype(x.dtype) == x.dtype
    if narrow:  # the rest needs 64 bits
        tree["jax"] = jax.device_put(x)
    assert_exact(save_and_restore(tmp_path, tree).tree, tree)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_are_restored_exactly(tmp_path, impl):
    key = jax.random.key(3, impl=impl)
    tree = {"key": key, "keys": jax.random.split(key, (2, 3)), "no keys": jax.random.split(key, 0)}
    restored = save_and_restore(tmp_path, tree).tree
    assert_exact(restored, tree)
    assert jax.random.bits(restored["key"]) == jax.random.bits(key)


def test_every_kind_of_tree_is_restored_exactly(tmp_path):
    tree = {
        "pair": Pair([jnp.ones(2), (jnp.zeros((2, 0)), None)], {"empty": {}, "nothing": ()}),
        "numbers": [True, 3, -(2**63), 0.1, float("nan"), float("-inf"), 1j],
        "scalars": (np.float32(2.5), np.int8(-3), np.bool_(True)),
        "payload": jnp.asarray(NAN_PAYLOAD),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2].T,
        "a name, with: 'all' \"kinds\" \\ of \n characters ü \ud800": np.int32(1),
    }
    restored = save_and_restore(tmp_path, tree).tree
    assert_exact(restored, tree)
    restored["strided"][0, 0] = 1  # numpy arrays can be written to
    for tree in ({}, None, (), [{}], jnp.ones(3)):
        assert_exact(save_and_restore(tmp_path, tree).tree, tree)


def test_values_of_big_endian_and_weak_arrays_are_restored(tmp_path):
    tree = {"big": np.arange(3, dtype=">f4"), "weak": jnp.asarray(2.0)}
    restored = save_and_restore(tmp_path, tree).tree
    np.testing.assert_array_equal(restored["big"], tree["big"])
    assert restored["weak"] == 2
    assert restored["weak"].dtype == jnp.float32


def test_a_train_state_is_restored_exactly(tmp_path):
    model = jl.serial(jl.Dense(3), jl.BatchNorm())
    with jax.numpy_dtype_promotion("standard"):
        state = training.train_state(model, optax.adam(1e-2), jax.random.key(0), jl.spec((4, 5)))
    restored = save_and_restore(
        tmp_path,
        state,
        position=[2, 17],
        metrics={"loss": jnp.float32(0.5), "worst": float("nan")},
        history=[{"step": 1, "loss": float("inf")}, (1, None, "text")],
        extra={"note": [np.int64(3), {"deep": True}]},
        model=model,
    )
    assert_exact(restored.tree, state)
    assert (restored.step, restored.position) == (7, [2, 17])
    assert restored.metrics["loss"] == 0.5
    assert np.isnan(restored.metrics["worst"])
    assert restored.history == [{"step": 1, "loss": float("inf")}, [1, None, "text"]]
    assert restored.extra == {"note": [3, {"deep": True}]}
    told = training.read_manifest(restored.path)
    assert told.model == repr(model)
    assert told.versions.keys() == {"jlayers", "jax", "numpy", "python"}


def test_a_template_of_shapes(tmp_path):
    tree = {"x": jnp.arange(3.0), "key": jax.random.key(1)}
    path = training.save_checkpoint(tmp_path, tree, step=0)
    assert_exact(training.read_checkpoint(path, jax.eval_shape(lambda: tree)).tree, tree)


def test_from_two_devices_to_one_and_back(tmp_path):
    mesh = jax.make_mesh((2,), ("batch",))
    split = NamedSharding(mesh, PartitionSpec("batch"))
    second = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    x, keys = jnp.arange(8.0).reshape(4, 2), jax.random.split(jax.random.key(0), 4)
    placements = [split, second, NamedSharding(mesh, PartitionSpec()), None]
    trees = [{"x": jax.device_put(x, s), "keys": jax.device_put(keys, s)} for s in placements]
    for tree in trees:
        path = training.save_checkpoint(tmp_path, tree, step=1)
        for like in trees:
            for template in (like, jax.eval_shape(lambda like=like: like)):
                found = training.read_checkpoint(path, template).tree
                assert_exact(found, {"x": x, "keys": keys})
            found = training.read_checkpoint(path, like).tree
            for name in found:
                assert found[name].sharding == like[name].sharding
                assert found[name].committed == like[name].committed


def test_the_safetensors_package_reads_the_file(tmp_path):
    names = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"]
    tree = {"wide": np.arange(6.0), "none": np.zeros((0, 3)), "one": np.int32(4)}
    tree |= {name: numbers(name) for name in names}
    path = training.save_checkpoint(tmp_path, tree, step=1)
    with safetensors.safe_open(path / "arrays.safetensors", framework="np") as file:
        assert set(file.keys()) == set(tree)
        for name, expected in tree.items():
            found = file.get_tensor(name)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tobytes() == expected.tobytes()


def test_the_safetensors_package_reads_dtypes_that_numpy_does_not_have(tmp_path):
    tree = {name: numbers(name) for name in DTYPES} | {"key": jax.random.key(0)}
    path = training.save_checkpoint(tmp_path, tree, step=1)
    found = dict(safetensors.deserialize((path / "arrays.safetensors").read_bytes()))
    assert set(found) == set(tree)
    for name in DTYPES:
        assert bytes(found[name]["data"]) == tree[name].tobytes()
    assert {found[name]["dtype"] for name in ("bfloat16", "float8_e5m2")} == {"BF16", "F8_E5M2"}


def test_the_manifest_is_readable_json(tmp_path):
    tree = {"dense": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}, "key": jax.random.key(0)}
    path = training.save_checkpoint(tmp_path, tree, step=12, position=[1, 5], metrics={"loss": 2})
    text = (path / "manifest.json").read_text()
    content = json.loads(text)
    assert content["step"] == 12
    size = (path / "arrays.safetensors").stat().st_size
    assert content["file"] == {"format": "safetensors", "size": size}
    assert content["position"] == [1, 5]
    assert content["metrics"] == {"loss": 2.0}
    assert content["arrays"]["dense/kernel"] == {
        "kind": "array",
        "dtype": "bfloat16",
        "shape": [2, 3],
        "crc32": f"{zlib.crc32(bytes([0x80, 0x3F] * 6)):08x}",
    }
    assert content["arrays"]["key"]["impl"] == "threefry2x32"
    checksum = content.pop("checksum")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert checksum == "sha256:" + hashlib.sha256(canonical).hexdigest()
    (path / "manifest.json").write_text(json.dumps(json.loads(text), indent=4))
    assert training.read_manifest(path).step == 12


def test_read_arrays_needs_no_template(tmp_path):
    key = jax.random.key(5)
    tree = {"params": [jnp.ones(2)], "key": key, "rate": 0.5}
    path = training.save_checkpoint(tmp_path, tree, step=1)
    arrays = training.read_arrays(path)
    assert list(arrays) == ["key", "params/0", "rate"]
    assert_exact(arrays["params/0"], np.ones(2, np.float32))
    np.testing.assert_array_equal(arrays["key"], jax.random.key_data(key))
    assert arrays["rate"] == 0.5
