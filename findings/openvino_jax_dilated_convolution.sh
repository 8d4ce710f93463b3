#!/usr/bin/env bash
# OpenVINO's reader of JAX programs ignores the dilation of a kernel, and dilates the kernel where the input was to be.
#
# One would guess: lax.conv_general_dilated with rhs_dilation or lhs_dilation is converted, or refused as other operations are.
# Versions: openvino 2026.4.0, jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: with rhs_dilation=2 the result is that without dilation; with lhs_dilation=2 it is that of rhs_dilation=2. The shape is another one than JAX's, which a sum over the image hides.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 packaging
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import functools

import jax
import numpy as np
import openvino
from jax import lax

rng = np.random.default_rng(0)
x = rng.normal(size=(1, 8, 8, 2)).astype("float32")
kernel = rng.normal(size=(3, 3, 2, 4)).astype("float32")


def summed(x, **dilation):
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((3, 3), (3, 3)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **dilation,
    )
    return y.sum((1, 2))


def converted(**dilation):
    program = jax.make_jaxpr(functools.partial(summed, **dilation))(x)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(openvino.convert_model(program), "CPU", options)
    return next(iter(model([x]).values()))


close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
undilated = {}
kernel_dilated = {"rhs_dilation": (2, 2)}
input_dilated = {"lhs_dilation": (2, 2)}
for name, dilation, seen in (
    ("no dilation  ", undilated, undilated),
    ("of the kernel", kernel_dilated, undilated),
    ("of the input ", input_dilated, kernel_dilated),
):
    print(name, "JAX", summed(x, **dilation)[0], "OpenVINO", converted(**dilation)[0])
    close(converted(**dilation), summed(x, **seen))
assert np.abs(summed(x, **kernel_dilated) - summed(x)).max() > 1
assert np.abs(summed(x, **input_dilated) - summed(x, **kernel_dilated)).max() > 1
PY
