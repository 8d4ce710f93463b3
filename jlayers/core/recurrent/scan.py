"""The recurrence under SimpleRNN, LSTM and GRU: one scan, one gradient, for any cell.

A step is ``carry' = cell(gates, carry)``, elementwise, with ``gates = x W + b`` and ``h U`` (``h``
is the first entry of the carry). So the only products that depend on the previous step are ``h U``
and, backwards, ``dgates U^T``. All others are computed for many steps at once: a chunk of them,
small enough to stay in cache. The gradient stores the carry of each step. The gates are recomputed
from it, a chunk at a time, or stored as well where that is cheaper.

How to read this file: ``recurrence`` picks a plan for each platform; ``_forward`` and ``_backward``
are the two passes, each a loop over chunks with a scan over the steps inside; what they share is at
the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import with_custom_gradient
from ..dense import affine, kernel_gradient
from ..dispatch import check_method, record_choice
from ..dtypes import at_least_float32, is_symbolic
from .chunking import METHODS, Carry, Cell, Gates, Index, Plan, choose_recurrence, over_chunks

# Saves copies of the carry in the forward loop; unrolling the backward one costs (docs/notes/0009).
_UNROLLED = 8


class Weights(NamedTuple):
    """kernel (in, G), recurrent_kernel (H, G), and two biases (G,), each of them optional."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None
    recurrent_bias: jax.Array | None


class _Input(NamedTuple):
    """values (batch, time, in), and bools (batch, time), True for valid steps, or None."""

    values: jax.Array
    mask: jax.Array | None


_Output = tuple[jax.Array, Carry]
# The carries after all steps, and the gates where they are stored.
_Residuals = tuple[Carry, Gates | None]
_Gradients = tuple[jax.Array, Carry, Weights]
# Of one step: the cotangent of its output, its gates, the carry before it, which rows are valid.
_BackwardStep = tuple[jax.Array, Gates, Carry, jax.Array | None]


def recurrence(
    cell: Cell,
    x: jax.Array,
    carry: Carry,
    weights: Weights,
    *,
    reverse: bool,
    method: str | None,
    name: str,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, Carry]:
    """Runs a cell over (batch, time, in).

    Args:
      carry: before the first step, arrays (batch, H); the first is the output of a step.
      reverse: from the last step to the first; outputs stay in the order of ``x``.
      method: whether the gradient stores the gates or recomputes them: ``"store"``,
        ``"recompute"``, or by default what ``choose_recurrence`` says.
      name: of the operation, for errors and ``explain``.
      mask: bools (batch, time): a step where it is False is skipped.

    Returns:
      (outputs (batch, time, H), the carry after the last step that was not skipped).

    Raises:
      ValueError: for an unknown method.
    """
    check_method(method, METHODS, name)
    hidden, width = weights.recurrent_kernel.shape
    choice = choose_recurrence(x.shape, hidden, width, cell.summed, x.dtype)
    record_choice(name, choice, choice, method)
    stores = (method or choice.method) == "store"
    # A custom gradient takes arrays only, so absent weights and masks are left out.
    present = [i for i, w in enumerate(weights) if w is not None]
    masks = () if mask is None else (mask,)
    arguments = (x, *carry, *(weights[i] for i in present), *masks)

    def unpack(arguments: Sequence[jax.Array]) -> tuple[_Input, Carry, Weights]:
        x, *rest = arguments
        valid = rest.pop() if masks else None
        given = dict(zip(present, rest[len(carry) :], strict=True))
        unpacked = Weights(given[0], given[1], given.get(2), given.get(3))
        return _Input(x, valid), tuple(rest[: len(carry)]), unpacked

    def pack(gradients: _Gradients) -> tuple[jax.Array | None, ...]:
        dx, dcarry, dweights = gradients
        # Masks have no gradient.
        return dx, *dcarry, *(dweights[i] for i in present), *(None for _ in masks)

    def pick(run: Callable[..., Any]) -> Callable[..., Any]:
        chunked, whole = (Plan(cell, reverse, stores, chunked) for chunked in (True, False))
        if chunked.chunks(x, width) == whole.chunks(x, width):
            return functools.partial(run, whole)
        # Chunks are for the caches of a CPU; on accelerators one product of all steps is fastest.
        return functools.partial(
            lax.platform_dependent,
            cpu=functools.partial(run, chunked),
            default=functools.partial(run, whole),
        )

    run = with_custom_gradient(
        pick(lambda plan, *arguments: _forward(plan, *unpack(arguments))),
        lambda arguments, residuals, ct: pick(
            lambda plan, arguments, residuals, ct: pack(
                _backward(plan, *unpack(arguments), residuals, ct)
            )
        )(arguments, residuals, ct),
    )
    return run(*arguments)  # type: ignore[no-any-return]


def _forward(plan: Plan, x: _Input, carry: Carry, weights: Weights) -> tuple[_Output, _Residuals]:
    """(outputs, last carry), and as residuals the carries after all steps and stored gates."""

    def chunk(
        state: tuple[Carry, Carry], start: Index, size: int, _: None
    ) -> tuple[tuple[Carry, Carry], Gates | None]:
        carry, stacked = state
        projected = affine(plan.take(x.values, start, size), weights.kernel, weights.bias)

        def step(carry: Carry, at: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, _Residuals]:
            projected, valid = at
            recurrent = affine(carry[0], weights.recurrent_kernel, weights.recurrent_bias)
            gates = plan.gates(projected, recurrent)
            carry = _advance(plan, gates, carry, valid)
            return carry, (carry, gates if plan.stores else None)

        at = (projected, _valid(plan, x, start, size))
        unroll = 1 if is_symbolic(size) else min(size, _UNROLLED)
        carry, (after, gates) = lax.scan(step, carry, at, unroll=unroll)
        stacked = tuple(plan.put(a, v, start) for a, v in zip(stacked, after, strict=True))
        return (carry, stacked), gates

    # Broadcast from the carry, so that they have its sharding.
    stacked = tuple(_repeated(jnp.zeros_like(c), x.values.shape[1]) for c in carry)
    chunks = plan.chunks(x.values, weights.kernel.shape[1])
    (carry, stacked), gates = over_chunks(chunk, (carry, stacked), None, chunks)
    return (stacked[0], carry), (stacked, gates)


def _backward(
    plan: Plan, x: _Input, carry: Carry, weights: Weights, residuals: _Residuals, ct: _Output
) -> _Gradients:
    """The cotangents of x, the first carry and the weights."""
    steps, (doutputs, dcarry), (stacked, stored) = x.values.shape[1], ct, residuals
    # Once, and not at every step.
    transposed = weights.recurrent_kernel.T

    def before(start: Index, size: int) -> Carry:
        """The carries before each step of a chunk, (size, batch, ...)."""

        def of(first: jax.Array, values: jax.Array) -> jax.Array:
            place = plan.place(steps, jnp.maximum(start - 1, 0), 1)
            last = lax.dynamic_index_in_dim(values, place, axis=1, keepdims=False)
            last = jnp.where(start == 0, first, last)
            return jnp.concatenate([last[None], plan.take(values, start, size)[:-1]])

        return tuple(of(first, values) for first, values in zip(carry, stacked, strict=True))

    # Rematerialised: see custom_gradient.py on loops in a gradient.
    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
    def chunk(
        state: tuple[Carry, Weights], start: Index, size: int, at: tuple[jax.Array, Gates | None]
    ) -> tuple[tuple[Carry, Weights], jax.Array]:
        (dcarry, dweights), (doutputs, gates) = state, at
        inputs, carries = plan.take(x.values, start, size), before(start, size)
        if gates is None:
            projected = affine(inputs, weights.kernel, weights.bias)
            recurrent = affine(carries[0], weights.recurrent_kernel, weights.recurrent_bias)
            gates = plan.gates(projected, recurrent)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def step(dcarry: Carry, at: _BackwardStep) -> tuple[Carry, Gates]:
            doutput, gates, carry, valid = at
            _, pull = jax.vjp(
                lambda gates, carry: _advance(plan, gates, carry, valid), gates, carry
            )
            dgates, (dh, *rest) = pull((dcarry[0] + doutput, *dcarry[1:]))
            last = dgates if plan.cell.summed else dgates[1]
            return (dh + affine(last, transposed, None), *rest), dgates

        steps_of_chunk = (doutputs, gates, carries, _valid(plan, x, start, size))
        dcarry, dgates = lax.scan(step, dcarry, steps_of_chunk, reverse=True)
        dprojected, drecurrent = (dgates, dgates) if plan.cell.summed else dgates
        more = Weights(
            kernel_gradient(inputs, dprojected, weights.kernel),
            kernel_gradient(carries[0], drecurrent, weights.recurrent_kernel),
            None if weights.bias is None else _total(dprojected),
            None if weights.recurrent_bias is None else _total(drecurrent),
        )
        dweights = jax.tree.map(jnp.add, dweights, more)
        dx = lax.dot_general(dprojected, weights.kernel, (((2,), (1,)), ((), ())))
        return (dcarry, dweights), dx

    # Sums over all steps, so in float32 at least.
    dweights = jax.tree.map(lambda w: jnp.zeros(w.shape, at_least_float32(w.dtype)), weights)
    doutputs = plan.ordered(jnp.swapaxes(doutputs, 0, 1), 0)
    chunks = plan.chunks(x.values, weights.kernel.shape[1])
    state, dx = over_chunks(chunk, (dcarry, dweights), (doutputs, stored), chunks, reverse=True)
    dcarry, dweights = state
    dweights = jax.tree.map(lambda w, d: d.astype(w.dtype), weights, dweights)
    return jnp.swapaxes(plan.ordered(dx, 0), 0, 1), dcarry, dweights


def _advance(plan: Plan, gates: Gates, carry: Carry, valid: jax.Array | None) -> Carry:
    """The carry after a step; rows that are not ``valid``, (batch,), skip it."""
    after = plan.cell.step(gates, carry)
    if valid is None:
        return after
    return tuple(
        jnp.where(jnp.broadcast_to(valid[:, None], new.shape), new, old)
        for new, old in zip(after, carry, strict=True)
    )


def _valid(plan: Plan, x: _Input, start: Index, size: int) -> jax.Array | None:
    return None if x.mask is None else plan.take(x.mask, start, size)


def _repeated(values: jax.Array, times: int) -> jax.Array:
    """(batch, times, ...) of (batch, ...)."""
    return jnp.broadcast_to(values[:, None], (values.shape[0], times, *values.shape[1:]))


def _total(values: jax.Array) -> jax.Array:
    return values.astype(at_least_float32(values.dtype)).sum((0, 1))
