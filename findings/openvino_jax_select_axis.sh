#!/usr/bin/env bash
# OpenVINO's reader of JAX programs gives a select one axis more than it has.
#
# One would guess: jnp.where of arrays (3, 4) has the shape (3, 4) after conversion.
# Versions: openvino 2026.4.0, jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: (1, 3, 4). A sum over axis 0 afterwards is over the new one: it gives the select itself, and no error.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 packaging
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np
import openvino
from jax import lax


def select(x):
    return lax.select_n(x > 0, -x, x)


def total(x):
    return select(x).sum(0)


def converted(function, x):
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.convert_model(jax.make_jaxpr(function)(x))
    return next(iter(openvino.compile_model(model, "CPU", options)([x]).values()))


x = np.arange(-6, 6, dtype="float32").reshape(3, 4)
y = converted(select, x)
print("select:", y.shape, "instead of", select(x).shape)
assert y.shape == (1, 3, 4)
np.testing.assert_array_equal(y[0], select(x))
y = converted(total, x)
print("its sum over axis 0:", y.shape, "instead of", total(x).shape)
np.testing.assert_array_equal(y, select(x))
PY
