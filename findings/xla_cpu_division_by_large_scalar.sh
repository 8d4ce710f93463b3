#!/usr/bin/env bash
# On the CPU, JAX divides an array by a scalar as a product with its reciprocal, which is flushed to 0
# where it is subnormal.
#
# One would guess: x / c is the quotient rounded once, as IEEE 754 says and as the division of two
# arrays gives it: 3e38 / 3e38 is 1, and -inf / 3e38 is -inf.
# Versions: jax and jaxlib 0.10.2 (0.12.0.1 is the same), numpy 2.4.6, Python 3.11, CPU.
# Seen: for scalars above 2**126, whose reciprocal is below the smallest normal number, 0 for finite x
# and NaN for infinite x, with jit and without it, whether the scalar is a constant or an argument.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

x = jnp.array([3e38, 1e38, -jnp.inf], jnp.float32)
large = np.float32(3e38)
right = np.asarray(x) / large
by_constant = jax.jit(lambda x: x / large)(x)
by_argument = jax.jit(lambda x, c: x / c)(x, large)
by_array = jax.jit(lambda x, c: x / c)(x, jnp.full_like(x, large))
below = jax.jit(lambda x: x / np.float32(2.0**126))(x)
print("NumPy           ", right)
print("jit, a constant ", by_constant)
print("jit, an argument", by_argument)
print("jit, an array   ", by_array)
print("jit, by 2**126  ", below)
wrong = np.array([0, 0, np.nan], np.float32)
np.testing.assert_array_equal(by_constant, wrong)
np.testing.assert_array_equal(by_argument, wrong)
np.testing.assert_allclose(by_array, right, rtol=1e-6)
np.testing.assert_allclose(below, np.asarray(x) / np.float32(2.0**126), rtol=1e-6)
PY
