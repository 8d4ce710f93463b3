"""Gradients written by hand that all of JAX's transformations still see through.

``jax.custom_vjp`` forbids forward mode, and with it Hessians. Here the gradient program is
transposed to make the rule of forward mode, and JAX transposes that once more for reverse mode:
what then runs is the gradient program as it was written. A loop inside it keeps what it makes of
the arguments alone, unless its body is under ``jax.checkpoint(prevent_cse=False)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Product = Callable[[jax.Array, jax.Array], jax.Array]
Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def with_gradient(
    forward: Callable[..., tuple[Any, Any]], backward: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    """A function of arrays with a gradient of its own.

    Args:
      forward: ``forward(*args) -> (out, residuals)``; the residuals, any pytree of arrays, are kept
        for the backward pass beside the arguments.
      backward: ``backward(args, residuals, ct) -> cotangents``, one for each argument, linear in
        ``ct`` and made of JAX functions that can be transposed and differentiated.

    Returns:
      ``f(*args) -> out``. It passes ``grad``, ``jvp``, ``hessian``, ``vmap``, ``scan``, ``remat``.
    """

    @jax.custom_jvp
    def f(*args: jax.Array) -> Any:
        return forward(*args)[0]

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        out, residuals = forward(*primals)
        moved = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

        # Rematerialised, so that what backward makes of the arguments alone (an image's patches,
        # say) is made in the backward pass and not kept for it.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def tangent(primals: Any, residuals: Any, moving: list[jax.Array]) -> Any:
            def gradients(ct: Any) -> list[jax.Array]:
                every = backward(primals, residuals, ct)
                return [every[i] for i in moved]

            (result,) = jax.linear_transpose(gradients, out)(moving)
            return result

        if not moved:
            return out, jax.tree.map(jnp.zeros_like, out)
        return out, tangent(primals, residuals, [tangents[i] for i in moved])

    f.defjvp(rule, symbolic_zeros=True)
    return f


def pullback(f: Callable[[jax.Array], jax.Array], like: jax.Array, ct: jax.Array) -> jax.Array:
    """The transpose of a linear ``f`` of an array like ``like``, applied to ``ct``."""
    (result,) = jax.linear_transpose(f, like)(ct)
    return result  # type: ignore[no-any-return]


class Bilinear(NamedTuple):
    """A product of two arrays, linear in each, as three programs.

    Attributes:
      value: ``value(a, b)``.
      left, right: ``left(a, b, ct)`` and ``right(a, b, ct)``, the cotangents of ``a`` and of ``b``.
        Each uses of its own argument the shape alone.
    """

    value: Product
    left: Gradient
    right: Gradient


def bilinear(value: Product) -> Bilinear:
    """The product whose gradients are the transposes of ``value``."""
    return Bilinear(
        value,
        lambda a, b, ct: pullback(lambda a: value(a, b), a, ct),
        lambda a, b, ct: pullback(lambda b: value(a, b), b, ct),
    )


def product(on_cpu: Bilinear, elsewhere: Bilinear | None = None) -> Product:
    """The differentiable product; ``elsewhere`` is what runs on GPU and TPU, if not the same."""

    def pick(name: str) -> Callable[..., jax.Array]:
        ours = getattr(on_cpu, name)
        if elsewhere is None:
            return ours  # type: ignore[no-any-return]
        theirs = getattr(elsewhere, name)
        return lambda *args: lax.platform_dependent(*args, cpu=ours, default=theirs)

    value, left, right = pick("value"), pick("left"), pick("right")
    return with_gradient(
        lambda a, b: (value(a, b), ()),
        lambda args, _, ct: (left(*args, ct), right(*args, ct)),
    )
