"""``.npy`` and ``.npz``: what ``numpy.load`` gives, and damage by name."""

import io
import re
import zipfile

import numpy as np
import pytest
from oracles import mutations

import jlayers as jl

ARRAYS = {
    "linear/w": np.arange(6, dtype="float32").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "scalar": np.float16(3),
    "empty": np.zeros((0, 4)),
    "flags": np.array([True, False]),
    "complex": np.array([1j, 2]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    path = tmp_path / "x.npz"
    save(path, **ARRAYS)
    arrays = jl.interop.read(path)
    with np.load(path) as expected:
        assert list(arrays) == expected.files
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
            assert array.flags.f_contiguous == expected[name].flags.f_contiguous


@pytest.mark.parametrize("name", ARRAYS)
def test_npy(name, tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS[name])
    [array] = jl.interop.read(tmp_path / "x.npy").values()
    np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def rewritten(path, name, content):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)


def entry(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.npy", b"text", "'b.npy' is damaged"),
        ("b.npy", entry(np.array([None])), "'b.npy' has objects"),
        ("b.npy", entry(np.ones(4))[:-8], "'b.npy' is damaged*expected: 4 numbers*got:      3"),
        ("a", entry(np.ones(4)), "two arrays of one name*'a'"),
    ],
)
def test_entries_that_are_not_arrays(name, content, message, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(2))
    rewritten(path, name, content)
    with pytest.raises(jl.InteropError) as error:
        jl.interop.read(path)
    assert re.search(".*".join(map(re.escape, message.split("*"))), str(error.value), re.S)


def test_a_checksum(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(2))
    content = path.read_bytes()
    path.write_bytes(content.replace(np.ones(2).tobytes(), np.array([1.0, 2.0]).tobytes()))
    with pytest.raises(jl.InteropError, match=r"'a\.npy' is damaged"):
        jl.interop.read(path)


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_mutations(name, count, tmp_path):
    array = np.ones((3, 2))
    if name == "x.npy":
        np.save(tmp_path / name, array)
    else:
        np.savez_compressed(tmp_path / name, a=array, b=array)
    assert mutations.check(tmp_path / name, count) > count / 10
