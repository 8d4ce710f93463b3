#!/usr/bin/env bash
# ConvTranspose(padding="CIRCULAR", transpose_kernel=True) of Flax is off by one from the transpose of Conv(padding="CIRCULAR").
#
# One would guess: with transpose_kernel=True it is the gradient of the convolution, as with the other paddings.
# Versions: flax 0.12.8, jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: for (kernel, stride) of (3, 1) and (3, 2) it is; for (2, 1) and (4, 1) the result is turned by one step one way, for (3, 3) and (5, 3) the other way.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np
from flax import linen as nn

turns = {(3, 1): 0, (3, 2): 0, (2, 1): 1, (4, 1): 1, (3, 3): -1, (5, 3): -1}
for (size, stride), turn in turns.items():
    options = {"strides": (stride,), "padding": "CIRCULAR", "use_bias": False}
    conv = nn.Conv(3, (size,), **options)
    x = jax.random.normal(jax.random.key(0), (1, 12, 2))
    weights = conv.init(jax.random.key(1), x)
    y, transpose = jax.vjp(lambda x: conv.apply(weights, x), x)
    cotangent = jax.random.normal(jax.random.key(2), y.shape)
    (wanted,) = transpose(cotangent)
    got = nn.ConvTranspose(2, (size,), transpose_kernel=True, **options).apply(weights, cotangent)
    found = [n for n in (-1, 0, 1) if np.allclose(np.roll(got, n, 1), wanted, atol=1e-5)]
    print(f"kernel {size}, stride {stride}: right after a turn by {found}")
    assert found == [turn]
PY
