#!/usr/bin/env bash
# safetensors 0.8.0 writes a NumPy array that is not C-contiguous in the order of its memory.
#
# One would guess: save_file of a transposed view, a Fortran-ordered array or a slice with a step
# either writes the values of the array, as safetensors 0.7.0 does, or raises, as the PyTorch
# binding does.
# Versions: safetensors 0.8.0 and 0.7.0, numpy 2.4.6, Python 3.11.
# Seen: with 0.8.0 the file has the right shape and dtype and other values; nothing is raised.
# Reported upstream as safetensors/safetensors#825.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.7.0 0.8.0; do
    "$folder/venv/bin/pip" install -q numpy==2.4.6 "safetensors==$version"
    VERSION=$version "$folder/venv/bin/python" - "$folder/file" <<'PYTHON'
import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

array = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {
    "transposed": array.T,
    "Fortran order": np.asfortranarray(array),
    "every second column": array[:, ::2],
}
for name, view in views.items():
    save_file({"x": view}, sys.argv[1])
    read = load_file(sys.argv[1])["x"]
    assert read.shape == view.shape and read.dtype == view.dtype
    same = np.array_equal(read, view)
    print(os.environ["VERSION"], name, "values kept" if same else f"{view.tolist()} became {read.tolist()}")
    assert same == (os.environ["VERSION"] == "0.7.0"), "the behaviour has changed"
PYTHON
done
