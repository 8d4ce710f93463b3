#!/usr/bin/env bash
# keras.ops.sparsemax is wrong where more than one class has a share.
#
# One would guess: a distribution (Martins and Astudillo, 2016); for the logits 2.0, 1.8, 0.0 it is 0.6, 0.4, 0.
# Versions: keras 3.15.1 on its JAX backend (jax 0.10.2), numpy 2.4.6, Python 3.11, CPU.
# Seen: zeros for each class, so that the sum is 0; with a support of one class it is right.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import keras
import numpy as np


def by_bisection(logits):
    """The threshold t for which max(logits - t, 0) sums to one."""
    low, high = logits.min() - 1, logits.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(logits - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(logits - low, 0)


for logits, right in (([2.0, 1.8, 0.0], False), ([3.0, 1.0, 0.0], True)):
    wanted = by_bisection(np.array(logits))
    got = np.asarray(keras.ops.sparsemax(np.array([logits], "float32")))[0]
    print(logits, "sparsemax", got, "right", wanted.round(6))
    assert np.allclose(got, wanted, atol=1e-5) == right
    assert right or got.sum() == 0
PY
