"""What this machine can do at best: matrix products and memory traffic, measured in this run."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .frameworks import Unavailable


def floor_seconds(flops: float, traffic: float, dtype: str) -> float:
    """The least time for so much arithmetic and so many bytes, where the two overlap."""
    # Bandwidths are measured at powers of four alone.
    magnitude = 4 ** math.ceil(math.log(min(max(traffic, 2**20), 2**30), 4))
    return max(flops / peak(dtype), traffic / bandwidth(magnitude))


@functools.cache
def peak(dtype: str) -> float:
    """FLOP/s of the best square matrix product, of JAX and of torch where it is installed."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / min(_best(lambda: product(a)), _torch_product(size, dtype))


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
        a = torch.ones((size, size), dtype=getattr(torch, dtype), device=device())
    except (ModuleNotFoundError, Unavailable):
        return math.inf
    return _best(lambda: (a @ a, wait()))
