"""Gradients written by hand that all of JAX's transformations can still differentiate.

``jax.custom_vjp`` forbids forward mode, and with it Hessians. Here the rule of forward mode is the
transposed backward program, and JAX transposes that once more for reverse mode: what then runs is
the backward program as it was written. See docs/notes/0009-compiled-cores.md.

A loop inside a backward program needs its body under ``jax.checkpoint(prevent_cse=False)``. Without
it, JAX stores those intermediate values that depend on the arguments alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Out = TypeVar("Out")
Residuals = TypeVar("Residuals")
Args = tuple[jax.Array, ...]
BinaryOp = Callable[[jax.Array, jax.Array], jax.Array]
BinaryOpVjp = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def with_custom_gradient(
    forward: Callable[..., tuple[Out, Residuals]],
    backward: Callable[[Args, Residuals, Out], Sequence[jax.Array | None]],
) -> Callable[..., Out]:
    """A function of arrays with a gradient of its own.

    Args:
      forward: ``forward(*args) -> (out, residuals)``; the residuals, any pytree of arrays, are
        stored for the backward pass, beside the arguments.
      backward: ``backward(args, residuals, ct) -> cotangents``, one for each argument, linear in
        ``ct`` and made of JAX functions that can be transposed and differentiated. None for an
        argument that has no gradient, such as a mask.

    Returns:
      ``f(*args) -> out``. It passes ``grad``, ``jvp``, ``hessian``, ``vmap``, ``scan``, ``remat``.

    >>> import jax, jax.numpy as jnp
    >>> square = with_custom_gradient(
    ...     lambda x: (x * x, ()), lambda args, residuals, ct: (2 * args[0] * ct,))
    >>> float(jax.grad(square)(3.0)), float(jax.hessian(square)(3.0))
    (6.0, 2.0)
    """

    @jax.custom_jvp
    def f(*args: jax.Array) -> Out:
        return forward(*args)[0]

    def jvp(primals: Args, tangents: tuple[jax.Array | SymbolicZero, ...]) -> tuple[Out, Out]:
        out, residuals = forward(*primals)
        # Only the cotangents of arguments that vary are computed: a model's input has none.
        active = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

        # Rematerialised: what the backward program derives from the arguments alone (an image's
        # patches, say) is recomputed in the backward pass instead of being stored for it.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def tangent_out(
            primals: Args, residuals: Residuals, active_tangents: list[jax.Array]
        ) -> Out:
            def vjp(ct: Out) -> list[jax.Array | None]:
                cotangents = backward(primals, residuals, ct)
                return [cotangents[i] for i in active]

            (result,) = jax.linear_transpose(vjp, out)(active_tangents)
            return result  # type: ignore[no-any-return]

        # Nothing varies, and there is nothing to transpose.
        if not active:
            return out, jax.tree.map(jnp.zeros_like, out)
        return out, tangent_out(primals, residuals, [tangents[i] for i in active])

    f.defjvp(jvp, symbolic_zeros=True)
    return f


def apply_transpose(
    f: Callable[[jax.Array], jax.Array],
    x: jax.Array | jax.ShapeDtypeStruct,
    ct: jax.Array,
) -> jax.Array:
    """The transpose of a linear ``f``, applied to ``ct``; of ``x`` only shape and dtype count."""
    (result,) = jax.linear_transpose(f, x)(ct)
    return result  # type: ignore[no-any-return]


class BilinearRule(NamedTuple):
    """A bilinear operation of two arrays, as three programs.

    Attributes:
      value: ``value(lhs, rhs)``.
      vjp_lhs, vjp_rhs: ``vjp_lhs(lhs, rhs, ct)`` and ``vjp_rhs(lhs, rhs, ct)``, the cotangents of
        the two arguments. Of the argument whose cotangent it computes, each uses the shape alone.
    """

    value: BinaryOp
    vjp_lhs: BinaryOpVjp
    vjp_rhs: BinaryOpVjp


def bilinear_rule(value: BinaryOp) -> BilinearRule:
    """The rule whose gradients are the transposes that JAX derives from ``value``."""
    return BilinearRule(
        value,
        lambda lhs, rhs, ct: apply_transpose(lambda lhs: value(lhs, rhs), lhs, ct),
        lambda lhs, rhs, ct: apply_transpose(lambda rhs: value(lhs, rhs), rhs, ct),
    )


def bilinear_op(cpu: BilinearRule, default: BilinearRule | None = None) -> BinaryOp:
    """The differentiable operation; ``default`` runs on GPU and TPU, if it is not the same."""
    if default is None:
        value, vjp_lhs, vjp_rhs = cpu
    else:
        value = _by_platform(cpu.value, default.value)
        vjp_lhs = _by_platform(cpu.vjp_lhs, default.vjp_lhs)
        vjp_rhs = _by_platform(cpu.vjp_rhs, default.vjp_rhs)
    return with_custom_gradient(
        lambda lhs, rhs: (value(lhs, rhs), ()),
        lambda args, _, ct: (vjp_lhs(args[0], args[1], ct), vjp_rhs(args[0], args[1], ct)),
    )


def _by_platform(
    cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    # Not an `if` on the backend: one traced function must lower correctly on every platform.
    return lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default)
