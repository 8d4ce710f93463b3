#!/usr/bin/env bash
# Adaptive pools of Keras on JAX have wrong windows for some sizes, and NaN where a window is empty.
#
# One would guess: seven outputs of seven values are the values; in general the windows from floor(i n / m) to ceil((i + 1) n / m).
# Versions: keras 3.15.1 on its JAX backend (jax 0.10.2), numpy 2.4.6, Python 3.11, CPU.
# Seen: AdaptiveAveragePooling1D(7) of 0 to 6 gives 0, 1, 2.5, 3, 4, 5.5, NaN; 8 of 8 is right.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import keras
import numpy as np


def pooled(size):
    """As many means as there are values."""
    x = np.arange(size, dtype="float32").reshape(1, size, 1)
    return np.asarray(keras.layers.AdaptiveAveragePooling1D(size)(x)).ravel()


for size, right in ((7, False), (8, True), (13, False)):
    print(size, pooled(size))
    assert np.array_equal(pooled(size), np.arange(size)) == right
assert np.array_equal(pooled(7), [0, 1, 2.5, 3, 4, 5.5, np.nan], equal_nan=True)
PY
