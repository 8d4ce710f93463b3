#!/usr/bin/env bash
# Keras's .weights.h5 holds the name of each layer, and load_weights does not look at it.
#
# One would guess: layers are found by the names that the file has, or a file whose names are other ones is refused.
# Versions: keras 3.15.1 on its JAX backend (jax 0.10.2), h5py 3.16.0, numpy 2.4.6, Python 3.11, CPU.
# Seen: layers are found by their class and a counter. In a model whose two layers changed places, the layer "first"
#   gets the weights that the file has under the name "second", without a warning.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 h5py==3.16.0
cd "$folder"
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error::UserWarning - <<'PY'
import h5py
import keras
import numpy as np


def model(*names):
    return keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(3, name=name) for name in names)])


saved, loaded = model("first", "second"), model("second", "first")
saved.save_weights("saved.weights.h5")
with h5py.File("saved.weights.h5") as file:
    names = {path: group["vars"].attrs["name"] for path, group in file["layers"].items()}
print("in the file", names)
assert names == {"dense": "first", "dense_1": "second"}
loaded.load_weights("saved.weights.h5")
for name, other in (("first", "second"), ("second", "first")):
    got, same, swapped = (
        np.asarray(m.get_layer(n).kernel) for m, n in ((loaded, name), (saved, name), (saved, other))
    )
    print(name, "has the kernel that was", other + "'s:", np.array_equal(got, swapped))
    assert np.array_equal(got, swapped) and not np.array_equal(got, same)
PY
