#!/usr/bin/env bash
# A maximum over an axis of an array may lose NaN on the CPU.
#
# One would guess: jnp.max of a row with a NaN is NaN, as in NumPy, on GPUs, and here for small arrays.
# Versions: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU; jaxlib 0.12.0.1 likewise. Reported for XLA as
# tensorflow/tensorflow#116992.
# Seen: the maximum and the minimum over the rows of (4, 1024) ones with one NaN are 1; of (4, 8) they are NaN.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax.numpy as jnp
import numpy as np

for columns in (8, 1024):
    x = np.ones((4, columns), np.float32)
    x[1, 5] = np.nan
    found = [bool(jnp.isnan(of(x, 1)[1])) for of in (jnp.max, jnp.min)]
    print(f"NaN among {columns}: the maximum and the minimum are NaN: {found}")
    assert found == [columns == 8] * 2
PY
