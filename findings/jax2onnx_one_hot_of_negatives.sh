#!/usr/bin/env bash
# jax2onnx converts one_hot of a negative number to the row that many places from the end.
#
# One would guess: jax.nn.one_hot(-1, 5) is zeros after conversion too, as its documentation says of indices out of range.
# Versions: jax2onnx 0.17.1, jax and jaxlib 0.10.2, flax 0.12.8, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11, CPU.
# Seen: 1 at the last place, as ONNX's OneHot counts negative indices from the end. With dtype=jnp.int32 the model does not load in onnxruntime, which has no OneHot of these types.
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

logging.disable(logging.CRITICAL)
import jax2onnx
import onnxruntime

x = np.array([0, 3, -1, 7], "int32")


def session_of(function):
    proto = jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(x.shape, x.dtype)])
    return onnxruntime.InferenceSession(proto.SerializeToString())


session = session_of(lambda x: jax.nn.one_hot(x, 5))
y = session.run(None, {session.get_inputs()[0].name: x})[0]
wanted = np.asarray(jax.nn.one_hot(x, 5))
print("of -1:", y[2], "instead of", wanted[2])
np.testing.assert_array_equal(y[[0, 1, 3]], wanted[[0, 1, 3]])
np.testing.assert_array_equal(wanted[2], np.zeros(5))
np.testing.assert_array_equal(y[2], np.eye(5)[4])
try:
    session_of(lambda x: jax.nn.one_hot(x, 5, dtype=jnp.int32))
except Exception as error:
    assert "OneHot" in str(error)
else:
    raise SystemExit("onnxruntime loads a OneHot of integers")
PY
