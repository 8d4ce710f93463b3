"""A row's numbers: weights, input and cotangent, and the expected results, in float64."""

import contextlib
import functools
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .ops import OPS
from .row import Row


class Data(NamedTuple):
    """The arrays of a row: the inputs in its dtype, and the expected results in float64."""

    weights: Any
    x: Any
    cotangent: Any
    y: Any
    weight_gradients: Any
    x_gradient: Any  # None for an integer input


@contextlib.contextmanager
def default_promotion() -> Iterator[None]:
    """JAX's default promotion rules, on which other libraries rely, where stricter ones are set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def draw(row: Row) -> Data:
    """Random numbers for a row, the same in every run, and the reference's results."""
    op, rng = OPS[row.op], np.random.default_rng(zlib.crc32(row.name.encode()))
    cpu = jax.local_devices(backend="cpu")[0]
    dtype = jnp.dtype(row.dtype)
    weights, x = jax.tree.map(
        lambda value: value.astype(dtype) if np.issubdtype(value.dtype, np.floating) else value,
        (op.weights(row, rng), op.inputs(row, rng)),
    )
    with jax.enable_x64(True), jax.default_device(cpu), default_promotion():
        # From the rounded numbers: a narrow dtype is judged by its arithmetic alone.
        wide = jax.tree.map(_widen, (weights, x))
        like = jax.eval_shape(lambda w, x: op.reference(row, w, x), *wide)
        cotangent = rng.standard_normal(like.shape).astype(dtype)
        results = jax.jit(functools.partial(_value_and_gradients, row))(*wide, _widen(cotangent))
    y, weight_gradients, x_gradient = jax.tree.map(np.asarray, results)
    return Data(weights, x, cotangent, y, weight_gradients, x_gradient)


def _widen(value: np.ndarray) -> Any:
    return value.astype(np.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _value_and_gradients(row: Row, weights: Any, x: Any, cotangent: Any) -> Any:
    y, pull_back = vjp(functools.partial(OPS[row.op].reference, row), weights, x)
    return y, *pull_back(cotangent)


def vjp(function: Any, weights: Any, x: Any, has_aux: bool = False) -> tuple[Any, Any]:
    """``jax.vjp`` with the gradient of an integer ``x`` as None; auxiliary results are dropped."""
    if floating(x):
        y, pull_back, *_ = jax.vjp(function, weights, x, has_aux=has_aux)
        return y, pull_back
    y, pull_back, *_ = jax.vjp(lambda weights: function(weights, x), weights, has_aux=has_aux)
    return y, lambda cotangent: (*pull_back(cotangent), None)


def floating(x: Any) -> bool:
    """Whether there is a gradient with respect to ``x``."""
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(x))
