"""Keras's files against Keras: every variable under the name that Keras prints, value for value."""

import io
import json
import os
import zipfile

import jax
import numpy as np
import pytest
from oracles import mutations

import jlayers as jl
from jlayers import interop

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
L = keras.layers


def randomised(model):
    rng = np.random.default_rng(0)
    for variable in model.variables:
        value = rng.normal(size=variable.shape) * 3
        variable.assign(value.astype(variable.dtype))
    return model


def layers_of_many_kinds():
    x = keras.Input((6, 4), name="in")
    y = L.Dense(4, name="swap_b")(x)
    y = L.Dense(4, use_bias=False, name="swap_a")(y)
    y = y + 1.0
    y = L.Bidirectional(L.LSTM(2, return_sequences=True), name="both")(y)
    y = L.MultiHeadAttention(2, 3, name="attention")(y, y)
    y = L.TimeDistributed(L.Dense(4, name="each"), name="over_time")(y)
    y = L.Add(name="plus")([y, y])
    y = L.Dropout(0.5, name="drop")(y)
    y = L.GRU(3, return_sequences=True, name="gru_of_mine")(y)
    cells = L.StackedRNNCells([L.GRUCell(3, name="one"), L.LSTMCell(2, name="two")], name="pair")
    y = L.RNN(cells, return_sequences=True, name="stack")(y)
    inner = [keras.Input((6, 2)), L.SeparableConv1D(3, 2, name="swap_a"), L.PReLU(name="act")]
    y = keras.Sequential([*inner, L.BatchNormalization(scale=False, name="norm")], name="inner")(y)
    y = L.LayerNormalization(name="ln")(y)
    return keras.Model(x, L.Dense(2, name="head")(L.Flatten()(y)), name="whole")


@pytest.fixture(scope="module")
def model():
    with jax.numpy_rank_promotion("allow"):  # as Keras's convolutions ask for
        return randomised(layers_of_many_kinds())


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.save_weights(folder / "model.weights.h5")
    return folder


def printed(model):
    """What Keras prints; it saves no generators of dropout."""
    return {v.path: np.asarray(v) for v in model.variables if "seed_generator" not in v.path}


def assert_same(arrays, expected):
    assert set(arrays) == set(expected)
    for name, value in expected.items():
        assert arrays[name].dtype == value.dtype, name
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


@pytest.mark.parametrize("age", ["new", "without names", "of TensorFlow 2.13"])
def test_archive(model, saved, tmp_path, age):
    path = saved / "model.keras"
    if age != "new":
        change = drop_names if age == "without names" else as_tensorflow_2_13
        path = rewritten(path, tmp_path / "old.keras", change)
    arrays = interop.read(path)
    assert_same(arrays, printed(model))
    # The counters of the file would put a nested model's layers elsewhere.
    layers = list(dict.fromkeys(name.split("/")[0] for name in arrays))
    assert layers == [layer.name for layer in model.layers if layer.weights]


def drop_names(file):
    def drop(_, entry):
        if "name" in entry.attrs:
            del entry.attrs["name"]

    file.visititems(drop)


def as_tensorflow_2_13(file):
    """The list of layers had another name."""
    drop_names(file)
    file.move("layers", "_layer_checkpoint_dependencies")


def rewritten(path, target, change, method=zipfile.ZIP_STORED):
    """An archive whose weights were changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", method) as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".h5") and change is not None:
                buffer = io.BytesIO(content)
                with h5py.File(buffer, "r+") as file:
                    change(file)
                content = buffer.getvalue()
            archive.writestr(name, content)
    return target


def test_archive_that_is_compressed_or_a_folder(model, saved, tmp_path):
    compressed = rewritten(saved / "model.keras", tmp_path / "c.keras", None, zipfile.ZIP_DEFLATED)
    assert_same(interop.read(compressed), printed(model))
    with zipfile.ZipFile(compressed) as archive:
        archive.extractall(tmp_path / "folder")
    assert_same(interop.read(tmp_path / "folder"), printed(model))


def test_arrays_are_mapped_not_copied(saved):
    for name in ("model.keras", "model.weights.h5", "model.h5"):
        assert not any(
            a.flags.owndata or a.flags.writeable for a in interop.read(saved / name).values()
        )


def test_weights_alone_have_the_paths_of_the_file(model, saved):
    arrays = interop.read(saved / "model.weights.h5")
    np.testing.assert_array_equal(arrays["layers/dense_1/vars/0"], model.get_layer("swap_a").kernel)
    assert len(arrays) == len(printed(model))


def test_legacy_file_of_keras_3(model, saved):
    arrays = interop.read(saved / "model.h5")
    assert_same(arrays, printed(model))
    kernels = [name for name in arrays if name.startswith("both/forward")]
    assert [name.rsplit("/", 1)[1] for name in kernels] == ["kernel", "recurrent_kernel", "bias"]


def test_optimiser(tmp_path):
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="d", dtype="bfloat16")])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    randomised(model)
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        arrays = interop.read(tmp_path / name)
        own = [each for each in arrays if not each.startswith("optimizer/")]
        assert own == ["d/kernel", "d/bias"]
        assert len(arrays) == 2 + len(model.optimizer.variables)
        for each in own:
            expected = np.asarray(getattr(model.layers[0], each[2:]))
            assert arrays[each].dtype == expected.dtype == "bfloat16"
            np.testing.assert_array_equal(arrays[each], expected)


def of_keras_2(file):
    """As TensorFlow's Keras writes a model: the layer's name twice, and ":0"."""
    file.attrs["model_config"] = json.dumps({"class_name": "Sequential"}).encode()
    root = file.create_group("model_weights")
    root.attrs["layer_names"] = [b"z", b"drop", b"a"]
    root.attrs["keras_version"] = b"2.4.0"
    root.create_group("drop").attrs["weight_names"] = []
    for layer in ("z", "a"):
        group = root.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()]
        group[f"{layer}/kernel:0"] = np.full((2, 3), ord(layer), ">f4")
        group[f"{layer}/bias:0"] = np.zeros(3, "f8")
    return ["z/kernel", "z/bias", "a/kernel", "a/bias"]


def of_keras_1(file):
    """Weights alone, as Keras 1.0 to 1.2 writes them; the list of layers is in pieces."""
    file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"dense_2"], [b"dense_1"]
    for layer in ("dense_1", "dense_2"):
        group = file.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}_W".encode(), f"{layer}_b".encode()]
        group[f"{layer}_W"], group[f"{layer}_b"] = np.ones((2, 2), "f"), np.zeros(2, "f")
    return ["dense_2/dense_2_W", "dense_2/dense_2_b", "dense_1/dense_1_W", "dense_1/dense_1_b"]


def before_keras_1(file):
    """Before 1.0 layers and weights are counted."""
    file.attrs["nb_layers"] = 11
    for i in range(11):
        group = file.create_group(f"layer_{i}")
        group.attrs["nb_params"] = 1
        group["param_0"] = np.full(2, i)
    return [f"layer_{i}/param_0" for i in range(11)]


def nested_with_the_same_names(file):
    """Two nested models whose layers have the same names."""
    file.attrs["layer_names"] = [b"left", b"right"]
    for layer in ("left", "right"):
        group = file.create_group(layer)
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        group["conv/kernel:0"] = np.ones(2)
    return ["left/conv/kernel", "right/conv/kernel"]


def compressed_and_small(file):
    """What h5py can do and Keras does not: chunks, compression, tied and compact arrays."""
    file.create_dataset("c", data=np.arange(60.0).reshape(6, 10), chunks=(4, 4), compression="gzip")
    file.create_dataset("l", data=np.arange(60), chunks=(7,), compression="lzf", shuffle=True)
    file["tied"] = file["c"]
    file["empty"] = np.zeros((0, 3))
    file["flags"], file["complex"] = np.array([True, False]), np.array([1 + 2j])
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((2,))
    compact = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, layout)
    compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([3, 4], "f"))
    return ["c", "compact", "complex", "empty", "flags", "l", "tied"]


WRITERS = [of_keras_2, of_keras_1, before_keras_1, nested_with_the_same_names, compressed_and_small]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_layouts_of_other_versions(write, libver, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        names = write(file)
        datasets = {}
        file.visititems(lambda name, entry: datasets.update({name: entry}))
        values = {
            name.removeprefix("model_weights/"): entry[()]
            for name, entry in datasets.items()
            if isinstance(entry, h5py.Dataset)
        }
        # A dataset with two names is visited under one.
        values |= {name: file[name][()] for name in names if name in file}
    arrays = interop.read(tmp_path / "x.h5")
    assert list(arrays) == names
    for name, array in arrays.items():
        layer = name.split("/")[0]
        stored = [name, name + ":0", f"{layer}/{name}:0"]
        expected = next(values[each] for each in stored if each in values)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def external_link(file, folder):
    file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "/y")


def soft_link(file, folder):
    file["x"] = h5py.SoftLink("/elsewhere")


def virtual(file, folder):
    layout = h5py.VirtualLayout((4,), "f")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "y", (4,))
    file.create_virtual_dataset("x", layout)


def external_values(file, folder):
    file.create_dataset("x", (4,), "f", external=[(str(folder / "values"), 0, 16)])


def objects(file, folder):
    file.create_dataset("x", data=["text"], dtype=h5py.string_dtype())


def texts(file, folder):
    file["x"] = np.array([b"text"])


def records(file, folder):
    file["x"] = np.zeros(2, [("a", "f"), ("b", "i4")])


def never_written(file, folder):
    file.create_dataset("x", (1 << 40,), "f")


def never_written_chunks(file, folder):
    file.create_dataset("x", (1 << 40,), "f", chunks=(1024,), compression="gzip")


def itself(file, folder):
    file["x/y"] = file.create_group("x")


def unnamed_bytes(file, folder):
    file["x"] = np.zeros(2, "V1")


REFUSED = {
    external_link: "entry 'x': ExternalLink leads elsewhere",
    soft_link: "entry 'x': SoftLink leads elsewhere",
    virtual: "entry 'x': its values are in other files",
    external_values: "entry 'x': its values are in other files",
    objects: "entry 'x': dtype object, shape (1,)",
    texts: "entry 'x': dtype |S4, shape (1,)",
    records: "entry 'x': dtype [('a', '<f4'), ('b', '<i4')]",
    never_written: "entry 'x': 0 bytes stored for shape (1099511627776,), float32",
    never_written_chunks: "entry 'x': 0 bytes stored for shape (1099511627776,), float32",
    itself: "entry 'x/y': a group that is met twice",
    unnamed_bytes: "entry 'x': dtype |V1, None",
}


@pytest.mark.parametrize("write", REFUSED)
def test_what_is_refused(write, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file, tmp_path)
    with pytest.raises(jl.InteropError) as error:
        interop.read(tmp_path / "x.h5")
    assert f"{tmp_path / 'x.h5'}, {REFUSED[write]}" in str(error.value)


def test_texts_that_send_hdf5_round_for_ever(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["a text of the heap"]
    damaged = bytearray((tmp_path / "x.h5").read_bytes())
    heap = damaged.index(b"GCOL")
    free = heap + 16 + 16 + 24
    assert damaged[free : free + 2] == b"\0\0"
    damaged[free + 8 : free + 16] = bytes(8)
    (tmp_path / "x.h5").write_bytes(damaged)
    with pytest.raises(jl.InteropError, match=f"a heap at byte {heap} with 0 bytes free"):
        interop.read(tmp_path / "x.h5")


def test_damaged_archives(saved, tmp_path):
    whole = (saved / "model.keras").read_bytes()
    path = tmp_path / "x.keras"

    def text_of(content):
        path.write_bytes(content)
        with pytest.raises(jl.InteropError) as error:
            interop.read(path)
        return str(error.value)

    assert f"{path} is damaged" in text_of(whole[:-30])
    values = whole.index(np.asarray(interop.read(saved / "model.keras")["head/kernel"]).tobytes())
    changed = whole[:values] + b"\0\0\0\1" + whole[values + 4 :]
    assert f"{path}, model.weights.h5 is damaged" in text_of(changed)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    assert f"{path} has no config.json" in text_of(path.read_bytes())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
        archive.writestr("model.weights.h5", (saved / "model.weights.h5").read_bytes())
    assert f"{path}, config.json is damaged" in text_of(path.read_bytes())


def test_names_that_are_not_there(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
    with pytest.raises(jl.InteropError, match="has no layer 'a', which its 'layer_names' names"):
        interop.read(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file.create_group("a").attrs["weight_names"] = [b"a/kernel:0"]
    with pytest.raises(jl.InteropError, match="layer 'a' has no weight 'a/kernel:0'"):
        interop.read(tmp_path / "x.h5")


def test_without_h5py(saved, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(jl.InteropError, match="needs h5py, which is not installed") as error:
        interop.read(saved / "model.h5")
    assert "pip install 'jlayers[interop]'" in str(error.value)


# HDF5 itself has damaged files from which it does not return: those are not for every run.
@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "name",
    [
        "small.keras",
        pytest.param("small.weights.h5", marks=pytest.mark.soak),
        pytest.param("small.h5", marks=pytest.mark.soak),
    ],
)
def test_mutations(name, count, tmp_path):
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="a"), L.Dense(2, name="b")])
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    kind = "keras" if name.endswith(".keras") else "hdf5"
    assert mutations.check(tmp_path / name, count, kind) > count / 10
