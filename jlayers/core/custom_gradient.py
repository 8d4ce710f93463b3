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
import numpy as np
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

    def tangent_out(
        active: list[int], out: Out, primals: Args, residuals: Residuals, tangents: list[jax.Array]
    ) -> Out:
        def vjp(ct: Out) -> list[jax.Array | None]:
            cotangents = backward(primals, residuals, ct)
            return [cotangents[i] for i in active]

        (result,) = jax.linear_transpose(vjp, out)(tangents)
        return result  # type: ignore[no-any-return]

    return _with_tangent(forward, tangent_out)


def _with_tangent(
    forward: Callable[..., tuple[Out, Residuals]],
    tangent_out: Callable[[list[int], Out, Args, Residuals, list[jax.Array]], Out],
) -> Callable[..., Out]:
    """The function with that derivative along the arguments of the given indices."""

    @jax.custom_jvp
    def f(*args: jax.Array) -> Out:
        return forward(*args)[0]

    def jvp(primals: Args, tangents: tuple[jax.Array | SymbolicZero, ...]) -> tuple[Out, Out]:
        out, residuals = forward(*primals)
        # Only the cotangents of arguments that vary are computed: a model's input has none.
        active = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
        # Nothing varies, and there is nothing to transpose.
        if not active:
            return out, jax.tree.map(jnp.zeros_like, out)
        # Rematerialised: what the backward program derives from the arguments alone (an image's
        # patches, say) is recomputed in the backward pass instead of being stored for it.
        tangent = jax.checkpoint(
            lambda *arrays: tangent_out(active, out, *arrays), prevent_cse=False
        )
        return out, tangent(primals, residuals, [tangents[i] for i in active])

    f.defjvp(jvp, symbolic_zeros=True)
    return lambda *args: f(*varying_alike(args))


def varying_alike(args: Args) -> Args:
    """Arguments that all vary over the devices of a ``shard_map`` where one of them does.

    A rule's gradient of parameters varies where the batch does, and has to be of the type of the
    parameters. The transpose of the cast sums it over the devices.
    """
    varying = [_varying_axes(arg) for arg in args]
    everywhere = frozenset[str]().union(*varying)
    return tuple(
        arg if axes == everywhere else lax.pcast(arg, tuple(everywhere - axes), to="varying")
        for arg, axes in zip(args, varying, strict=True)
    )


def _varying_axes(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying  # type: ignore[no-any-return]


def on_cpu(
    value: Callable[..., jax.Array],
    tangent: Callable[[Args, jax.Array, dict[int, jax.Array]], jax.Array],
    default: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
    """On CPU a function with a derivative of its own, on other platforms JAX's of another one.

    Args:
      value: ``value(*args) -> out``.
      tangent: ``tangent(args, out, tangents) -> tangent of out``, for the tangents of the arguments
        of the given indices, linear in them; of ``out`` only shape and dtype count. Its transpose
        is the backward program.
      default: ``default(*args) -> out``, equal to ``value`` up to rounding.
    """

    # The platform is asked twice, and not once for each argument: what is inside a branch is
    # traced, differentiated and transposed for each platform.
    def either(*args: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return lax.platform_dependent(*args, cpu=value, default=default), ()

    def tangent_out(
        active: list[int], out: jax.Array, primals: Args, _: tuple[()], tangents: list[jax.Array]
    ) -> jax.Array:
        # Each branch rematerialises: JAX splits a conditional that it transposes, and what a branch
        # derives from the arguments would be a result of the one half in all branches.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def ours(primals: Args, tangents: list[jax.Array]) -> jax.Array:
            return tangent(primals, out, dict(zip(active, tangents, strict=True)))

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_default(primals: Args, tangents: list[jax.Array]) -> jax.Array:
            def varying(*args: jax.Array) -> jax.Array:
                given = dict(zip(active, args, strict=True))
                return default(*(given.get(i, primal) for i, primal in enumerate(primals)))

            _, result = jax.jvp(varying, tuple(primals[i] for i in active), tuple(tangents))
            return result  # type: ignore[no-any-return]

        result: jax.Array = lax.platform_dependent(primals, tangents, cpu=ours, default=of_default)
        return result

    return _with_tangent(either, tangent_out)


def apply_transpose(
    f: Callable[[jax.Array], jax.Array],
    x: jax.Array | jax.ShapeDtypeStruct,
    ct: jax.Array,
) -> jax.Array:
    """The transpose of a linear ``f``, applied to ``ct``; of ``x`` only shape and dtype count."""
    (result,) = jax.linear_transpose(f, x)(ct)
    return result  # type: ignore[no-any-return]


def linear_op(
    value: Callable[[jax.Array], jax.Array], transpose: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """A linear function of arrays with axes, and its transpose: each program the other's gradient.

    JAX has no public rule of transposition but that of the solution of a linear system. With
    ``A`` for the function, the system ``x = b, y - A x = c`` has the solution ``(b, c + A b)``, and
    its transpose ``(b + A^T c, c)``.

    >>> import jax, jax.numpy as jnp
    >>> twice = linear_op(lambda x: x + x, lambda ct: 2 * ct)
    >>> twice(jnp.array([3.0])).tolist(), jax.grad(lambda x: twice(x)[0])(jnp.array([3.0])).tolist()
    ([6.0], [2.0])
    """

    def system(x_and_y: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, y = x_and_y
        return x, y - value(x)

    def solve(_: object, b_and_c: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        b, c = b_and_c
        return b, c + value(b)

    def solve_transposed(
        _: object, b_and_c: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        b, c = b_and_c
        return b + transpose(c), c

    def call(x: jax.Array) -> jax.Array:
        out = jax.eval_shape(value, x)
        # JAX transposes systems of which all right-hand sides are linear in the argument, and all
        # of whose solution is used: no number of it, with zeros around, and none beside the result.
        zeros = _none_of(x, out.shape)
        same, y = lax.custom_linear_solve(system, (x, zeros), solve, solve_transposed)
        return lax.concatenate([y, _none_of(same, (*out.shape[:-1], 0))], len(out.shape) - 1)

    return call


def _none_of(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Zeros of a shape around no number of ``x``: axes that both have stay what they are."""
    if len(shape) == x.ndim:
        empty = lax.slice_in_dim(x, 0, 0, axis=x.ndim - 1)
    else:
        empty = lax.slice(x, (0,) * x.ndim, (0,) * x.ndim).reshape((0,) * len(shape))
    room = [(0, size - old, 0) for size, old in zip(shape, empty.shape, strict=True)]
    return lax.pad(empty, np.zeros((), x.dtype), room)


class BilinearRule(NamedTuple):
    """A bilinear operation of two arrays, as up to three programs for equal values.

    Attributes:
      value: ``value(lhs, rhs)``.
      for_lhs, for_rhs: the programs whose transposes in ``lhs`` and in ``rhs`` are the gradients;
        ``value``, if None.
      vjp_lhs, vjp_rhs: ``vjp_lhs(lhs, rhs, ct)`` and ``vjp_rhs(lhs, rhs, ct)``, the gradients
        themselves, where they are not transposes. Of the argument whose gradient it computes, each
        uses the shape alone.
    """

    value: BinaryOp
    for_lhs: BinaryOp | None = None
    for_rhs: BinaryOp | None = None
    vjp_lhs: BinaryOpVjp | None = None
    vjp_rhs: BinaryOpVjp | None = None

    def tangent(self, args: Args, out: jax.Array, tangents: dict[int, jax.Array]) -> jax.Array:
        """The derivative along the tangents of the arguments of the given indices, 0 and 1."""
        (lhs, rhs), total = args, None
        for index, tangent in tangents.items():
            moved = (tangent, rhs) if index == 0 else (lhs, tangent)
            program, vjp = ((self.for_lhs, self.vjp_lhs), (self.for_rhs, self.vjp_rhs))[index]
            if vjp is None:
                term = (program or self.value)(*moved)
            else:
                term = apply_transpose(functools.partial(vjp, *moved), out, tangent)
            total = term if total is None else lax.add(total, term)
        assert total is not None
        return total

    def gradient_rhs(
        self, lhs: jax.Array, rhs: jax.Array | jax.ShapeDtypeStruct, ct: jax.Array
    ) -> jax.Array:
        """The gradient of ``rhs``, of which only shape and dtype count."""
        if self.vjp_rhs is not None:
            return self.vjp_rhs(lhs, rhs, ct)  # type: ignore[arg-type]
        return apply_transpose(lambda rhs: (self.for_rhs or self.value)(lhs, rhs), rhs, ct)


def bilinear_op(rule: BilinearRule, default: BinaryOp | None = None) -> BinaryOp:
    """The differentiable operation; ``default``, if given, is what runs on GPU and TPU."""
    if default is not None:
        return on_cpu(rule.value, rule.tangent, default)
    # Where JAX's gradients are the rule's, no rule is traced.
    if rule[1:] == (None,) * 4:
        return rule.value
    return _with_tangent(
        lambda *args: (rule.value(*args), ()),
        lambda active, out, primals, _, tangents: rule.tangent(
            primals, out, dict(zip(active, tangents, strict=True))
        ),
    )
