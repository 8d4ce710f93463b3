#!/usr/bin/env bash
# While jax2onnx traces a function, jnp.take has fewer arguments than JAX's.
#
# One would guess: what jax.make_jaxpr traces, jax2onnx.to_onnx traces too.
# Versions: jax2onnx 0.17.1, jax and jaxlib 0.10.2, flax 0.12.8, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11, CPU.
# Seen: jnp.take(table, x, axis=0) is converted; jnp.take(table, x, 0) is a TypeError, as it is with fill_value. A program that was traced before, run by jaxpr_as_fun, is converted.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax2onnx==0.17.1 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

logging.disable(logging.CRITICAL)
import jax2onnx
import onnxruntime

table = np.arange(12, dtype="float32").reshape(4, 3)
x = np.array([0, 3, 1], "int32")


def converted(function):
    proto = jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(x.shape, x.dtype)])
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def by_position(x):
    return jnp.take(table, x, 0)


def with_a_value(x):
    return jnp.take(table, x, axis=0, fill_value=0.0)


np.testing.assert_array_equal(converted(lambda x: jnp.take(table, x, axis=0)), table[x])
for function in (by_position, with_a_value):
    np.testing.assert_array_equal(function(x), table[x])
    program = jax.make_jaxpr(function)(x)
    np.testing.assert_array_equal(converted(lambda x: jaxpr_as_fun(program)(x)[0]), table[x])
    try:
        converted(function)
    except TypeError as error:
        print(f"{function.__name__}:", error)
        assert "_patched()" in str(error)
    else:
        raise SystemExit(f"{function.__name__} is converted")
PY
