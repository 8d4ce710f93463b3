#!/usr/bin/env bash
# XLA for the CPU computes the gradient of a convolution's kernel 20 to 40 times slower inside a loop than
# outside of one.
#
# One would guess: a turn of jax.lax.scan takes as long as the same step without the loop.
# Versions: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: a 3x3 kernel of 64 to 64 channels, eight images of 28x28: 10.4 ms alone, 253 to 379 ms a turn. Outside of
# loops XLA moves the batch of that convolution, which is where the gradient has its sum, to the place that its fast
# library takes; inside of one the convolution keeps its axes, and falls back to loops over single elements.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import time

import jax
import jax.numpy as jnp


def conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def loss(kernel, x):
    return jnp.sum(conv(x, kernel) ** 2)


kernel_gradient = jax.grad(loss)


def once(kernel, x):
    return kernel - 1e-9 * kernel_gradient(kernel, x)


def in_a_loop(kernel, x):
    return jax.lax.scan(lambda k, _: (once(k, x), None), kernel, length=4)[0]


def seconds(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


x = jax.random.normal(jax.random.key(0), (8, 28, 28, 64))
kernel = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, 64, 64))
alone, turn = seconds(once, kernel, x), seconds(in_a_loop, kernel, x) / 4
print(f"a step alone {alone * 1e3:.1f} ms, a turn of a scan {turn * 1e3:.1f} ms: {turn / alone:.1f}x")
assert turn > 5 * alone
PY
