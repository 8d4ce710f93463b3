"""The recurrence under SimpleRNN, LSTM and GRU: one scan, one gradient, for any cell.

A step is ``carry' = cell(gates, carry)``, elementwise, with ``gates = x W + b`` and ``h U`` (``h``
is the first entry of the carry). So the only products that depend on the previous step are ``h U``
and, backwards, ``dgates U^T``. All others are computed for many steps at once: a chunk of them,
small enough to stay in cache. The gradient stores the carry of each step. The gates are recomputed
from it, a chunk at a time, or stored as well where that is cheaper. Of the backward step too, a
cell may compute for a chunk at once what no later step decides, as GRU does with the factors of its
cotangents and all tanh.

How to read this file: ``recurrence`` picks a plan for each platform; ``_forward`` and ``_backward``
are the two passes, each a loop over chunks with a scan over the steps inside; what they share is at
the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from ..custom_gradient import with_custom_gradient
from ..dense import affine, kernel_gradient, matrix_product
from ..dispatch import check_method, record_choice
from ..dtypes import at_least_float32, is_sharded
from .chunking import (
    METHODS,
    Arrays,
    Carry,
    Cell,
    Index,
    Plan,
    choose_recurrence,
    over_chunks,
    swap_leading,
)
from .gates import GateAxis, on_mesh

# Steps in a turn of the forward loop on accelerators, where each turn costs some microseconds. On
# CPU one step is faster (docs/notes/0009).
_UNROLLED = 8


class Weights(NamedTuple):
    """kernel (in, G), recurrent_kernel (H, G), and optional biases.

    G is one axis, or two where gates are apart.

    Attributes:
      bias: (G,), or None.
      recurrent_bias: of the last entries of ``h U``, as many as it has, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None
    recurrent_bias: jax.Array | None


class _Input(NamedTuple):
    """values (batch, time, in), and bools (batch, time), True for valid steps, or None."""

    values: jax.Array
    mask: jax.Array | None


_Output = tuple[jax.Array, Carry]
# The carries after all steps, and the activated gates where they are stored.
_Residuals = tuple[Carry, Any]
_Gradients = tuple[jax.Array, Carry, Weights]
# Of one step: the cotangent of its output, the coefficients, which rows are valid.
_BackwardStep = tuple[jax.Array, Arrays, jax.Array | None]


def recurrence(
    cell_of: Callable[[GateAxis], Cell],
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
      cell_of: the cell for gates that lie side by side, or apart.
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
    # The gradients of the weights would be summed over the devices at each chunk.
    together = is_sharded(x)
    axis, viewed = on_mesh(hidden, *weights, may=together and width > hidden)
    cell, weights = cell_of(axis), Weights(*viewed)
    choice = choose_recurrence(x.shape, hidden, width, cell.summed, x.dtype)
    if together:
        choice = choice._replace(reason="sharded over devices: all steps at once")
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
            return functools.partial(run, chunked)
        if together:
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
    ) -> tuple[tuple[Carry, Carry], Any]:
        carry, stacked = state
        projected = affine(plan.take(x.values, start, size), weights.kernel, weights.bias)
        prepared = plan.cell.prepare(projected)

        def step(carry: Carry, at: tuple[Any, jax.Array | None]) -> tuple[Carry, _Residuals]:
            prepared, valid = at
            recurrent = matrix_product(carry[0], weights.recurrent_kernel)
            activated = plan.cell.activate(prepared, recurrent, weights.recurrent_bias)
            carry = _select(valid, plan.cell.step(activated, carry), carry)
            stored = activated if plan.cell.summed else recurrent
            return carry, (carry, stored if plan.stores else None)

        at = (prepared, _valid(plan, x, start, size))
        unroll = 1 if plan.chunked else min(size, _UNROLLED)
        carry, (after, stored) = lax.scan(step, carry, at, unroll=unroll)
        stacked = tuple(plan.put(a, v, start) for a, v in zip(stacked, after, strict=True))
        if stored is not None and not plan.cell.summed:
            stored = plan.cell.activate(prepared, stored, weights.recurrent_bias)
        return (carry, stacked), stored

    # Broadcast from the carry, so that they have its sharding.
    stacked = tuple(_repeated(lax.full_like(c, 0), x.values.shape[1]) for c in carry)
    chunks = plan.chunks(x.values, math.prod(weights.kernel.shape[1:]))
    (carry, stacked), stored = over_chunks(chunk, (carry, stacked), None, chunks)
    return (stacked[0], carry), (stacked, stored)


def _backward(
    plan: Plan, x: _Input, carry: Carry, weights: Weights, residuals: _Residuals, ct: _Output
) -> _Gradients:
    """The cotangents of x, the first carry and the weights."""
    steps, (doutputs, dcarry), (stacked, stored) = x.values.shape[1], ct, residuals
    # Once, and not at every step.
    recurrent_axes = range(weights.recurrent_kernel.ndim)
    transposed = lax.transpose(weights.recurrent_kernel, (*recurrent_axes[1:], 0))

    def before(start: Index, after: Carry) -> Carry:
        """The carries before each step of a chunk, of those after them; (size, batch, ...)."""

        def of(first: jax.Array, all_values: jax.Array, values: jax.Array) -> jax.Array:
            last = first
            if not isinstance(start, int) or start > 0:
                earlier = lax.max(start, lax.full_like(start, 1)) - 1
                place = plan.place(steps, earlier, 1)
                last = lax.dynamic_index_in_dim(all_values, place, axis=1, keepdims=False)
                last = lax.select(lax.eq(start, lax.full_like(start, 0)), first, last)
            rest = lax.slice_in_dim(values, 0, values.shape[0] - 1)
            return lax.concatenate([lax.expand_dims(last, (0,)), rest], 0)

        return tuple(map(of, carry, stacked, after))

    # Rematerialised: see custom_gradient.py on loops in a gradient.
    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
    def chunk(
        state: tuple[Carry, Weights], start: Index, size: int, at: tuple[jax.Array, Any]
    ) -> tuple[tuple[Carry, Weights], jax.Array]:
        (dcarry, dweights), (doutputs, activated) = state, at
        inputs, valid = plan.take(x.values, start, size), _valid(plan, x, start, size)
        after = tuple(plan.take(values, start, size) for values in stacked)
        carries = before(start, after)
        if activated is None:
            projected = affine(inputs, weights.kernel, weights.bias)
            recurrent = matrix_product(carries[0], weights.recurrent_kernel)
            prepared = plan.cell.prepare(projected)
            activated = plan.cell.activate(prepared, recurrent, weights.recurrent_bias)
        coefficients = plan.cell.coefficients(activated, carries, after)
        if valid is not None:
            # A skipped step passes on the cotangent of the carry, and nothing else.
            coefficients = _select(valid, coefficients, _zeros(coefficients))

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def step(dcarry: Carry, at: _BackwardStep) -> tuple[Carry, Arrays]:
            doutput, coefficients, valid = at
            dcarry = (lax.add(dcarry[0], doutput), *dcarry[1:])
            signal, drecurrent, (dh, *rest) = plan.cell.backward(coefficients, dcarry)
            dh = lax.add(dh, _product_back(drecurrent, transposed, recurrent_axes[:-1]))
            signal = _select(valid, signal, _zeros(signal))
            return _select(valid, (dh, *rest), dcarry), signal

        dcarry, signal = lax.scan(step, dcarry, (doutputs, coefficients, valid), reverse=True)
        dprojected, drecurrent = plan.cell.gradients(coefficients, signal)
        more = Weights(
            kernel_gradient(inputs, dprojected, weights.kernel),
            kernel_gradient(carries[0], drecurrent, weights.recurrent_kernel),
            _bias_gradient(dprojected, weights.bias),
            _bias_gradient(drecurrent, weights.recurrent_bias),
        )
        dweights = jax.tree.map(lax.add, dweights, more)
        dx = _product_back(dprojected, weights.kernel, range(1, weights.kernel.ndim))
        return (dcarry, dweights), dx

    # Sums over all steps, so in float32 at least.
    dweights = jax.tree.map(lambda w: lax.full(w.shape, 0, at_least_float32(w.dtype)), weights)
    doutputs = plan.ordered(swap_leading(doutputs), 0)
    chunks = plan.chunks(x.values, math.prod(weights.kernel.shape[1:]))
    state, dx = over_chunks(chunk, (dcarry, dweights), (doutputs, stored), chunks, reverse=True)
    dcarry, dweights = state
    dweights = jax.tree.map(lambda w, d: d.astype(w.dtype), weights, dweights)
    return swap_leading(plan.ordered(dx, 0)), dcarry, dweights


def _product_back(ct: jax.Array, kernel: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The product of ``ct`` with these axes of a kernel, which are the last of ``ct``."""
    last = range(ct.ndim - len(axes), ct.ndim)
    return lax.dot_general(ct, kernel, ((tuple(last), tuple(axes)), ((), ())))


def _select(valid: jax.Array | None, new: Arrays, old: Arrays) -> Arrays:
    """``new`` for the rows that are ``valid``, of the shape of their leading axes, else ``old``."""
    if valid is None:
        return new
    return tuple(
        lax.select(lax.broadcast_in_dim(valid, a.shape, tuple(range(valid.ndim))), a, b)
        for a, b in zip(new, old, strict=True)
    )


def _zeros(like: Arrays) -> Arrays:
    return tuple(lax.full_like(values, 0) for values in like)


def _valid(plan: Plan, x: _Input, start: Index, size: int) -> jax.Array | None:
    return None if x.mask is None else plan.take(x.mask, start, size)


def _repeated(values: jax.Array, times: int) -> jax.Array:
    """(batch, times, ...) of (batch, ...)."""
    return lax.broadcast_in_dim(values, (values.shape[0], times, *values.shape[1:]), (0, 2))


def _bias_gradient(ct: jax.Array, bias: jax.Array | None) -> jax.Array | None:
    """The sum over steps and rows of the last entries, as many as the bias has."""
    if bias is None:
        return None
    axis = ct.ndim - bias.ndim
    own = lax.slice_in_dim(ct, ct.shape[axis] - bias.shape[0], None, axis=axis)
    return lax.reduce_sum(own.astype(at_least_float32(ct.dtype)), (0, 1))
