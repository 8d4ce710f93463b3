#!/usr/bin/env bash
# With padding="same", output_padding of a transposed convolution in Keras goes to the start or to the end, by the parity of the kernel.
#
# One would guess: as in PyTorch, and as with padding="valid", one more output at the end, the others as they were.
# Versions: keras 3.15.1 on its JAX backend (jax 0.10.2), numpy 2.4.6, Python 3.11, CPU.
# Seen: a kernel 1, 2, 3 on an impulse gives 2 3 0 0 0 0 0 without it, and 1 2 3 0 0 0 0 0 with output_padding=1: the new output is the first.
# With a kernel of 4, 3 4 0 0 0 0 becomes 2 3 4 0 0 0 0. With "valid" both get a zero at the end.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import keras
import numpy as np


def impulse(size, padding, more):
    """The response of a transposed convolution of stride 2 with the kernel 1, 2, ..., size."""
    layer = keras.layers.Conv1DTranspose(
        1, size, strides=2, padding=padding, output_padding=more, use_bias=False
    )
    layer.build((1, 4, 1))
    layer.set_weights([np.arange(1.0, size + 1, dtype="float32").reshape(size, 1, 1)])
    x = np.array([1, 0, 0, 0], "float32").reshape(1, 4, 1)
    return np.asarray(layer(x)).ravel()


for size in (3, 4):
    for padding in ("same", "valid"):
        without, with_one = impulse(size, padding, 0), impulse(size, padding, 1)
        print(size, padding, without, with_one)
        # Where the earlier outputs are found again: after the new one, or before it.
        last = padding == "valid"
        kept = with_one[: len(without)] if last else with_one[1:]
        assert len(with_one) == len(without) + 1
        assert np.array_equal(kept, without)
PY
