"""What this machine can do at best: matrix products and memory traffic, measured in this run."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .frameworks import Unavailable

# Bytes of the largest copy that is measured.
LARGE = 2**30


def floor_seconds(flops: float, traffic: float, dtype: str) -> float:
    """The least time for so much arithmetic and so many bytes, where the two overlap."""
    # Bandwidths are measured at powers of four alone. On an accelerator fewer bytes would measure
    # what it takes to start a program.
    least = 2**20 if jax.default_backend() == "cpu" else LARGE
    magnitude = 4 ** math.ceil(math.log(min(max(traffic, least), LARGE), 4))
    return max(flops / peak(dtype), traffic / bandwidth(magnitude))


@functools.cache
def peak(dtype: str, precision: str | None = None) -> float:
    """FLOP/s of the best square matrix product, of JAX and of torch where it is installed.

    Args:
      precision: JAX's ``default_matmul_precision``; with one, the product is JAX's alone.
    """
    size = 2048 if jax.default_backend() == "cpu" else 8192
    # Random, since some processors multiply zeros and ones faster.
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    seconds = _best(lambda: product(a))
    return 2 * size**3 / (seconds if precision else min(seconds, _torch_product(size, dtype)))


@functools.cache
def bandwidth(traffic: int) -> float:
    """Bytes read and written in place a second, for ``traffic`` bytes, which may fit a cache."""
    values = jnp.ones((max(traffic // 8, 1024),), jnp.float32)
    scale = jax.jit(lambda values: values * 1.0001, donate_argnums=0)
    current = [values]

    def once() -> Any:
        current[0] = scale(current[0])
        return current[0]

    return 8 * values.size / _best(once)


def _best(call: Callable[[], Any], seconds: float = 0.4, least: int = 5) -> float:
    """The shortest of many calls: a floor is the possible, not the usual time."""
    jax.block_until_ready(call())
    times: list[float] = []
    while sum(times) < seconds or len(times) < least:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def _torch_product(size: int, dtype: str) -> float:
    try:
        import torch

        from .frameworks.torch.ops import configure, device, wait

        configure()
        a = torch.randn((size, size), device=device()).to(getattr(torch, dtype))
    except (ModuleNotFoundError, Unavailable):
        return math.inf
    return _best(lambda: (a @ a, wait()))
