#!/usr/bin/env bash
# XLA for the CPU compiles the gradient of a chain of pre-norm residual blocks into a program that
# grows with the square of the number of blocks.
#
# One would guess: twice the blocks, twice the program, as without the residual connection.
# Versions: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: 328, 1,058 and 3,718 additions in the optimised program of 10, 20 and 40 blocks, 1.0, 2.1 and
# 8.6 s to compile; without the residual connection 153, 313 and 633, 0.5 to 1.0 s. The gradient of the normalisation that JAX
# derives ends with a broadcast mean, so the sum of the gradients of all later blocks ends with one. XLA
# takes a sum with a broadcast for an operation of one array, which it may compute again for each user:
# it does so for the whole chain, in every block.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import re
import time

import jax
import jax.numpy as jnp


def normalize(x):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def additions(blocks, residual):
    def loss(weights, x):
        for first, second in weights:
            y = jax.nn.gelu(normalize(x) @ first) @ second
            x = x + y if residual else y
        return jnp.sum(x)

    weights = [(jnp.ones((32, 32)), jnp.ones((32, 32)))] * blocks
    lowered = jax.jit(jax.grad(loss)).lower(weights, jnp.ones((8, 32)))
    start = time.perf_counter()
    text = lowered.compile().as_text()
    count = len(re.findall(r" add\(", text))
    kind = "residual" if residual else "plain   "
    print(f"{kind} {blocks:3} blocks: {count:6} additions, {time.perf_counter() - start:5.1f} s")
    return count


plain = [additions(blocks, residual=False) for blocks in (10, 20, 40)]
chain = [additions(blocks, residual=True) for blocks in (10, 20, 40)]
assert plain[2] < 2.2 * plain[1] < 5 * plain[0], plain
assert chain[2] > 3 * chain[1] > 8 * chain[0], chain
PY
