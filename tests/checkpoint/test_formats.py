"""File formats: a small one registers itself, and safetensors files of any origin are read."""

import json
import os
import re
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from error_text import read
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from test_checkpoints import NAN_PAYLOAD, assert_exact, numbers, raw

import jlayers as jl
from jlayers import checkpoint
from jlayers.checkpoint.formats import base
from jlayers.checkpoint.formats.safetensors import _DTYPES, _PACKED, Safetensors
from jlayers.checkpoint.tree import DTYPES


class Npz:
    """NumPy's own format: the whole of what a new format has to have."""

    name = "npz"
    suffix = ".npz"

    def write(self, arrays, path):
        # NumPy's files have names for NumPy's dtypes only.
        own = {
            k: a if a.dtype.isbuiltin == 1 else a.view(f"V{a.itemsize}") for k, a in arrays.items()
        }
        np.savez(path, **own)

    def read(self, path):
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise checkpoint.CorruptFileError(f"{path.name}: {error}") from None


@pytest.fixture(params=["safetensors", "npz"])
def name(request, monkeypatch):
    monkeypatch.setattr(base, "_formats", dict(base._formats))
    checkpoint.register(Npz())
    return request.param


def leaves():
    """One of every kind of leaf."""
    return {
        "dtypes": {name: numbers(name) for name in DTYPES},
        "layers": [{"kernel": jnp.ones((3, 2), jnp.bfloat16)}, {"kernel": jnp.zeros((0, 2))}],
        "key": jax.random.split(jax.random.key(0, impl="rbg"), 2),
        "scalars": [True, 3, 0.5, 1j, np.float32(2.5), jnp.int32(7)],
        "payload": NAN_PAYLOAD,
    }


def test_every_format_restores_every_leaf(tmp_path, name):
    tree = leaves()
    path = checkpoint.save_checkpoint(tmp_path, tree, step=1, format=name)
    assert sorted(os.listdir(path)) == [f"arrays.{name}", "manifest.json"]
    assert_exact(checkpoint.read_checkpoint(path, tree).tree, tree)
    told = checkpoint.read_manifest(path)
    assert (told.format, told.size) == (name, (path / f"arrays.{name}").stat().st_size)
    with checkpoint.CheckpointManager(tmp_path / "folder", format=name) as checkpoints:
        checkpoints.save(5, tree)
    assert checkpoints.steps() == [5]
    assert_exact(checkpoints.restore(tree).tree, tree)


def test_the_manifest_detects_corruption_for_every_format(tmp_path, name):
    path = checkpoint.save_checkpoint(tmp_path, {"w": np.arange(64)}, step=1, format=name)
    file = path / f"arrays.{name}"
    data = bytearray(file.read_bytes())
    other = checkpoint.save_checkpoint(tmp_path / "other", {"w": np.ones(64)}, step=1, format=name)
    file.write_bytes((other / file.name).read_bytes())
    with pytest.raises(checkpoint.CorruptCheckpointError, match=r"is float64.* int64.* manifest"):
        checkpoint.read_arrays(path)
    file.write_bytes(data[:-1])
    with pytest.raises(checkpoint.CorruptCheckpointError, match=f"arrays.{name} is truncated"):
        checkpoint.read_arrays(path)
    file.write_bytes(data + b" ")
    with pytest.raises(checkpoint.CorruptCheckpointError, match=f"arrays.{name} is too long"):
        checkpoint.read_arrays(path)


def test_a_file_with_other_names_is_corrupt(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, {"a": np.zeros(2), "b": np.zeros(2)}, step=1)
    file = path / "arrays.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"b"', b'"c"'))
    first = "*arrays.safetensors does not match the manifest: 'b' is missing in arrays.safetensors"
    read((lambda: checkpoint.read_arrays(path), first))
    file.write_bytes(whole.replace(b'"b"', b'"A"'))
    first = "*arrays.safetensors does not match the manifest: 'A' is missing in the manifest"
    read((lambda: checkpoint.read_arrays(path), first))


def test_an_unknown_format(tmp_path):
    first = "unknown checkpoint format 'zip'"
    texts = ("'safetensors'", "register(format)")
    save = lambda: checkpoint.save_checkpoint(tmp_path, {}, step=1, format="zip")  # noqa: E731
    read((save, f"save_checkpoint: {first}", *texts))
    read((lambda: checkpoint.CheckpointManager(tmp_path, format="zip"), f"*{first}", *texts))
    checkpoint.register(Npz())
    try:
        path = checkpoint.save_checkpoint(tmp_path, {}, step=1, format="npz")
    finally:
        del base._formats["npz"]
    read((lambda: checkpoint.read_arrays(path), "read_arrays: unknown checkpoint format 'npz'"))


GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
LAYOUTS = {
    "contiguous": GRID,
    "fortran": np.asfortranarray(GRID),
    "transposed": GRID.T,
    "every second": GRID[::2, 1::2],
    "negative strides": GRID[::-1, ::-1],
    "broadcast": np.broadcast_to(GRID[0], (3, 6)),
    "axes swapped": np.moveaxis(GRID.reshape(2, 2, 6), 0, 2),
    "a column": GRID[:, :1],
    "zero-d": np.array(GRID[1, 2]),
    "zero-d view": GRID[1:2, 2:3].reshape(()),
    "empty": GRID[:0],
    "empty transposed": GRID[:, :0].T,
    "big endian": GRID.astype(">f4").T,
    "read only": np.frombuffer(GRID.tobytes(), np.float32).reshape(4, 6).T,
    "bfloat16 transposed": GRID.astype(jnp.bfloat16).T,
    "float8 transposed": GRID.astype(jnp.float8_e4m3fn).T,
    "int4 transposed": (GRID % 8).astype(jnp.int4).T,
    "bools transposed": (GRID % 2 == 0).T,
    "complex transposed": (GRID + 1j).T,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("copy", [False, True], ids=["save_checkpoint", "CheckpointManager"])
def test_arrays_of_any_memory_layout_are_restored(tmp_path, layout, copy):
    """safetensors 0.8 by itself writes the memory of a transposed view under the view's shape."""
    x = LAYOUTS[layout]
    if copy:
        with checkpoint.CheckpointManager(tmp_path) as checkpoints:
            checkpoints.save(1, {"x": x})
        path = checkpoints.path(1)
    else:
        path = checkpoint.save_checkpoint(tmp_path, {"x": x}, step=1)
    found = checkpoint.read_checkpoint(path, {"x": x}).tree["x"]
    assert found.shape == x.shape
    assert found.dtype == x.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, x)
    assert found.flags.writeable


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "int4" not in name])
def test_the_format_itself_makes_arrays_contiguous(tmp_path, layout):
    x = LAYOUTS[layout]
    if x.dtype.kind == "c" or x.dtype.byteorder == ">":
        x = x.real.astype(np.float32).T[::-1]
    Safetensors().write({"x": x}, tmp_path / "x")
    np.testing.assert_array_equal(checkpoint.read_safetensors(tmp_path / "x")["x"], x)


def test_the_files_have_the_permissions_of_new_files(tmp_path):
    """The package by itself writes a file that only its owner may read."""
    path = checkpoint.save_checkpoint(tmp_path, {"x": np.zeros(3)}, step=1)
    (path / "new").touch()
    modes = {file.name: file.stat().st_mode for file in path.iterdir()}
    assert len(modes) == 3
    assert len(set(modes.values())) == 1


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        Safetensors().write({"x": np.zeros(3)}, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_checksums_are_complete_when_python_starts_no_threads(tmp_path, monkeypatch):
    def exiting(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", exiting)
        path = checkpoint.save_checkpoint(tmp_path, {"x": np.arange(3)}, step=1)
    np.testing.assert_array_equal(checkpoint.read_arrays(path)["x"], np.arange(3))


def test_mutated_files_are_refused_or_read(tmp_path):
    """Whatever the bytes are, nothing but a CheckpointError is raised."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(5, np.int8), "c": np.array(True)}
    file = tmp_path / "x"
    save_file(arrays, file, metadata={"format": "pt"})
    whole, refused = file.read_bytes(), 0
    pick = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        at = int(pick.integers(len(data) if pick.random() < 0.5 else 9))
        change = pick.integers(4)
        if change == 0:
            data[at] ^= 1 << int(pick.integers(8))
        elif change == 1:
            del data[at : at + int(pick.integers(1, 9))]
        elif change == 2:
            data[at:at] = pick.bytes(int(pick.integers(1, 9)))
        else:
            data[at : at + 8] = int(pick.choice([0, 1, 2**31, 2**63])).to_bytes(8, "little")
        file.write_bytes(data)
        try:
            checkpoint.read_safetensors(file)
        except jl.CheckpointError as error:
            refused += bool(str(error))
    assert refused > 250


def test_sharded_arrays_are_stored_whole(tmp_path):
    mesh = jax.make_mesh((2,), ("batch",))
    x = np.arange(32, dtype=np.float32).reshape(4, 8).astype(jnp.bfloat16)
    rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    columns = jax.device_put(x.T, NamedSharding(mesh, PartitionSpec(None, "batch")))
    keys = jax.random.split(jax.random.key(0), 4)
    keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("batch")))
    tree = {"rows": rows, "columns": columns, "keys": keys}
    path = checkpoint.save_checkpoint(tmp_path, tree, step=1)
    found = checkpoint.read_safetensors(path / "arrays.safetensors")
    np.testing.assert_array_equal(found["rows"], x)
    np.testing.assert_array_equal(found["columns"], x.T)
    np.testing.assert_array_equal(found["keys"], jax.random.key_data(keys))
    restored = checkpoint.read_checkpoint(path, tree).tree
    assert restored["columns"].sharding == columns.sharding
    assert_exact(restored, tree)


def write_file(path, entries, data=b"", **metadata):
    """A safetensors file by hand: entries are (name, dtype, shape, bytes), ``data`` comes after."""
    header, body = {"__metadata__": metadata} if metadata else {}, b""
    for name, code, shape, part in entries:
        header[name] = {
            "dtype": code,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(part)],
        }
        body += part
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body + data)
    return path


@pytest.mark.parametrize("code", _DTYPES)
def test_foreign_files_of_every_dtype_are_read(tmp_path, code):
    dtype = _DTYPES[code]
    bits = _PACKED.get(code, 8 * dtype.itemsize)
    count = 8
    numbers = np.arange(count) % 2 if code == "BOOL" else np.arange(count * dtype.itemsize)
    expected = (numbers % 2 ** min(bits, 8)).astype(np.uint8).view(dtype)
    # A number of 4 or 6 bits is packed, the first in the lowest bits of the first byte.
    packed = sum(int(n) << (bits * i) for i, n in enumerate(numbers[:count])) if bits < 8 else 0
    data = packed.to_bytes(count * bits // 8, "little") if bits < 8 else expected.tobytes()
    entries = [("grid", code, [2, 4], data), ("none", code, [0, 3], b"")]
    if bits >= 8:
        entries.append(("one", code, [], data[: bits // 8]))
    found = checkpoint.read_safetensors(write_file(tmp_path / "x", entries, format="pt"))
    assert raw(found["grid"]) == raw(expected.reshape(2, 4))
    assert raw(found["none"]) == raw(np.zeros((0, 3), dtype))
    if bits >= 8:
        assert raw(found["one"]) == raw(expected[:1].reshape(()))
    assert all(array.flags.writeable for array in found.values())


def test_the_table_of_dtypes_is_that_of_the_package(tmp_path):
    file = write_file(tmp_path / "x", [("x", "NONE", [1], b"0")])
    with pytest.raises(jl.CheckpointError, match="expected one of") as caught:
        checkpoint.read_safetensors(file)
    listed = str(caught.value).split("expected one of")[1].split(" at line")[0]
    assert {name.strip(" `") for name in listed.split(",")} == set(_DTYPES)


def test_a_dtype_of_a_later_version_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.delitem(_DTYPES, "C64")
    file = write_file(tmp_path / "x", [("w", "C64", [1], bytes(8))])
    read((lambda: checkpoint.read_safetensors(file), "*cannot read 'w' in *x", "BF16", "C64"))


def test_a_file_of_the_package_is_read_as_the_package_reads_it(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 5))
    arrays = {"ü/a": x, "bf16": x.astype(ml_dtypes.bfloat16), "half": x.astype(np.float16)}
    arrays |= {"flag": x > 0, "complex": x.astype(np.complex64), "n": np.array(3)}
    save_file(arrays, tmp_path / "x", metadata={"format": "pt", "note": "ü"})
    found = checkpoint.read_safetensors(str(tmp_path / "x"))
    assert found.keys() == arrays.keys()
    for name, array in load_file(tmp_path / "x").items():
        assert raw(found[name]) == raw(array)
    save_file({}, tmp_path / "empty")
    assert checkpoint.read_safetensors(tmp_path / "empty") == {}


F32 = ("w", "F32", [2], b"12345678")
DAMAGED = {
    "empty file": b"",
    "header cut off": (100).to_bytes(8, "little") + b'{"w":',
    "header too long": (1 << 62).to_bytes(8, "little") + b"{}",
    "not JSON": (4).to_bytes(8, "little") + b"oops",
    "not UTF-8": (4).to_bytes(8, "little") + b'{"\xff"',
    "no table": (2).to_bytes(8, "little") + b"[]",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00",
}
ENTRIES = {
    "data cut off": ([("w", "F32", [4], b"1234")], b""),
    "bytes left over": ([F32], b"1"),
    "unknown dtype": ([("w", "I4", [2], b"1")], b""),
    "half a byte": ([("w", "F4", [3], b"12")], b""),
    "size overflows": ([("w", "F32", [2**62, 2**62, 0], b"")], b""),
    "negative size": ([("w", "F32", [-1], b"")], b""),
}


@pytest.mark.parametrize("case", [*DAMAGED, *ENTRIES])
def test_damaged_files_are_refused(tmp_path, case):
    file = tmp_path / "model.safetensors"
    if case in DAMAGED:
        file.write_bytes(DAMAGED[case])
    else:
        write_file(file, *ENTRIES[case])
    first = "read_safetensors: cannot read *model.safetensors: model.safetensors is not a safe*"
    read((lambda: checkpoint.read_safetensors(file), first))


def test_what_numpy_cannot_hold_is_refused_by_name(tmp_path):
    file = write_file(tmp_path / "x", [("many", "F32", [1] * 65, b"1234")])
    read((lambda: checkpoint.read_safetensors(file), "*'many' in x has a shape that NumPy*"))
    file = write_file(tmp_path / "x", [("long", "F32", [0, 2**61], b"")])
    read((lambda: checkpoint.read_safetensors(file), "*'long' in x has a shape that NumPy*"))
    file = write_file(tmp_path / "x", [("flag", "BOOL", [2], b"\x01\x02")])
    read((lambda: checkpoint.read_safetensors(file), "*'flag' in x has booleans other than 0 *"))


def test_what_is_not_a_file(tmp_path):
    missing = "read_safetensors: cannot read *none: No such file or directory"
    read((lambda: checkpoint.read_safetensors(tmp_path / "none"), missing))
    read((lambda: checkpoint.read_safetensors(tmp_path), "*is not a regular file"))
    os.mkfifo(tmp_path / "pipe")
    read((lambda: checkpoint.read_safetensors(tmp_path / "pipe"), "*pipe is not a regular file"))


def test_the_old_name_of_the_error_is_answered():
    from jlayers import training

    for module in (checkpoint, training):
        with pytest.raises(AttributeError, match=r"hint: +\w+.CorruptCheckpointError"):
            _ = module.DamagedCheckpointError
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = module.nothing


class Named(Npz):
    """An Npz of another name and suffix, which reads all arrays into a plain dict."""

    def __init__(self, name, suffix=".npz"):
        self.name, self.suffix = name, suffix

    def read(self, path):
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


WRONG_FORMATS = [
    (Npz, "a format must be an object with name, suffix, write and read"),
    ("npz", "a format must be an object with name, suffix, write and read"),
    (Named("../x"), "the name of a format must be a word, got '../x'"),
    (Named("mine", "f2"), "the suffix of a format must be like '.npz', got 'f2'"),
    (Named("safetensors"), "the name 'safetensors' is that of a format of jlayers"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG_FORMATS, ids=[text for _, text in WRONG_FORMATS])
def test_a_wrong_format_is_not_registered(wrong, text):
    before = dict(base._formats)
    with pytest.raises(jl.CheckpointError, match=re.escape(text)):
        checkpoint.register(wrong)
    assert base._formats == before


def test_a_format_may_read_a_plain_mapping(tmp_path):
    checkpoint.register(Named("plain"))
    try:
        path = checkpoint.save_checkpoint(tmp_path, {"w": np.ones(3)}, step=1, format="plain")
        np.testing.assert_array_equal(checkpoint.read_arrays(path)["w"], np.ones(3))
    finally:
        del base._formats["plain"]
