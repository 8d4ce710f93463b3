"""SimpleRNN, LSTM, GRU and MGU as single functions, with the custom gradient of ``recurrence``.

How to read this file: each function gives ``recurrence`` its ``Cell``, the elementwise part of a
step forwards and backwards, for both ways in which gates may lie (``GateAxis``). Sigmoids are
(tanh(v / 2) + 1) / 2, so that all gates of an LSTM share one call of tanh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..dense import add_bias
from ..dispatch import traced_once
from .chunking import Arrays, Carry, Cell
from .gates import (
    GateAxis,
    one_less,
    one_less_square,
    repeat,
    select_part,
    sigmoid,
    sigmoid_of,
    stack,
)
from .scan import Weights, recurrence


@traced_once("activation", "reverse", "method")
def simple_rnn(
    x: jax.Array,
    carry: tuple[jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array]]:
    """``h' = activation(x W + h U + b)`` (Elman, 1990).

    Args:
      x: (batch, time, in).
      carry: (h,), (batch, H), before the first step.
      kernel: (in, H). recurrent_kernel: (H, H). bias: (H,), or None.
      activation: elementwise.
      reverse: from the last step to the first; outputs stay in the order of ``x``.
      method: whether the gradient is to ``"store"`` the gates or ``"recompute"`` them; by default
        whichever is expected to be faster.
      mask: bools (batch, time): a step where it is False is skipped.

    Returns:
      (outputs (batch, time, H), (h,) after the last step that was not skipped).

    Raises:
      ValueError: for an unknown method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> one = jnp.ones((1, 1))
    >>> y, (h,) = jl.core.simple_rnn(x, (one,), one, one, activation=lambda v: v)
    >>> y.ravel().tolist(), h.tolist()
    ([2.0, 4.0], [[4.0]])
    """

    def step(gates: jax.Array, carry: Carry) -> Carry:
        return (activation(gates),)

    def coefficients(gates: jax.Array, before: Carry, after: Carry) -> Arrays:
        _, pull = jax.vjp(activation, gates)
        return pull(lax.full_like(gates, 1))  # type: ignore[no-any-return]

    def backward(slope: Arrays, dcarry: Carry) -> tuple[Arrays, jax.Array, Carry]:
        dgates = lax.mul(*slope, *dcarry)
        return (dgates,), dgates, (lax.full_like(dgates, 0),)

    outputs, (h,) = recurrence(
        lambda _: Cell(True, _as_it_is, _sum, step, coefficients, backward, _same_for_both),
        x,
        carry,
        Weights(kernel, recurrent_kernel, None, bias),
        reverse=reverse,
        method=method,
        name="simple_rnn",
        mask=mask,
    )
    return outputs, (h,)


@traced_once("reverse", "method")
def lstm(
    x: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate of Gers et al., 2000).

    With ``i, f, g, o = split(x W + h U + b, 4)``::

        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Args:
      x: (batch, time, in).
      carry: (h, c), each (batch, H), before the first step.
      kernel: (in, 4 H). recurrent_kernel: (H, 4 H). bias: (4 H,), or None. Gate order i, f, g, o.
      reverse, method, mask: as in ``simple_rnn``.

    Returns:
      (outputs (batch, time, H), (h, c) after the last step that was not skipped).

    Raises:
      ValueError: for an unknown method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, zeros = jnp.ones((2, 3, 4)), jnp.zeros((2, 5))
    >>> y, (h, c) = jl.core.lstm(x, (zeros, zeros), jnp.ones((4, 20)), jnp.ones((5, 20)))
    >>> y.shape, h.shape, bool((y[:, -1] == h).all())
    ((2, 3, 5), (2, 5), True)
    """
    outputs, (h, c) = recurrence(
        _lstm,
        x,
        carry,
        Weights(kernel, recurrent_kernel, None, bias),
        reverse=reverse,
        method=method,
        name="lstm",
        mask=mask,
    )
    return outputs, (h, c)


# The functions below are of `lax` alone: those of `jnp` are each a program within the program.


@functools.cache
def _lstm(axis: GateAxis) -> Cell:
    def step(gates: jax.Array, carry: Carry) -> Carry:
        _, c = carry
        # tanh(v / 2) of i, f and o, and tanh(v) of g.
        scaled = lax.mul(gates, axis.spread([0.5, 0.5, 1.0, 0.5], gates))
        # Without the barrier XLA recomputes the tanh in each fusion that uses it.
        i, f, g, o = axis.split(lax.optimization_barrier(lax.tanh(scaled)), 4)
        c = lax.add(lax.mul(sigmoid_of(f), c), lax.mul(sigmoid_of(i), g))
        return lax.mul(sigmoid_of(o), lax.tanh(c)), c

    def coefficients(gates: jax.Array, before: Carry, after: Carry) -> Arrays:
        # The factors themselves are 6 H a step to write and read, more than it costs to compute
        # them again (docs/notes/0009).
        return gates, before[1]

    def backward(coefficients: Arrays, dcarry: Carry) -> tuple[Arrays, jax.Array, Carry]:
        _, pull = jax.vjp(lambda gates, c: step(gates, (c, c)), *coefficients)
        dgates, dc = pull(dcarry)
        return (dgates,), dgates, (lax.full_like(dc, 0), dc)

    return Cell(True, _as_it_is, _sum, step, coefficients, backward, _same_for_both)


def _same_for_both(coefficients: Arrays, signal: Arrays) -> tuple[jax.Array, jax.Array]:
    (dgates,) = signal
    return dgates, dgates


def _as_it_is(values: jax.Array) -> jax.Array:
    return values


# The bias in each step: added to the projections it would be one more pass over them.
def _sum(projected: jax.Array, recurrent: jax.Array, bias: jax.Array | None) -> jax.Array:
    return lax.add(projected, recurrent if bias is None else add_bias(recurrent, bias))


@traced_once("reverse", "method")
def gru(
    x: jax.Array,
    carry: tuple[jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    *,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array]]:
    """Gated recurrent unit, reset gate after the product (Cho et al., 2014, as in cuDNN).

    With ``xr, xz, xn = split(x W + b, 3)`` and ``hr, hz, hn = split(h U, 3)``::

        r  = sigmoid(xr + hr)
        z  = sigmoid(xz + hz)
        n  = tanh(xn + r (hn + recurrent_bias))
        h' = (1 - z) n + z h

    Args:
      x: (batch, time, in).
      carry: (h,), (batch, H), before the first step.
      kernel: (in, 3 H). recurrent_kernel: (H, 3 H). bias: (3 H,), or None. Gate order r, z, n.
      recurrent_bias: (H,), of the candidate (those of r and z would only add to ``bias``), or None.
      reverse, method, mask: as in ``simple_rnn``.

    Returns:
      (outputs (batch, time, H), (h,) after the last step that was not skipped).

    Raises:
      ValueError: for an unknown method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, zeros = jnp.ones((2, 3, 4)), jnp.zeros((2, 5))
    >>> y, (h,) = jl.core.gru(x, (zeros,), jnp.ones((4, 15)), jnp.ones((5, 15)))
    >>> y.shape, h.shape, bool((y[:, -1] == h).all())
    ((2, 3, 5), (2, 5), True)
    """
    outputs, (h,) = recurrence(
        _gru,
        x,
        carry,
        Weights(kernel, recurrent_kernel, bias, recurrent_bias),
        reverse=reverse,
        method=method,
        name="gru",
        mask=mask,
    )
    return outputs, (h,)


# XLA for CPU makes a function of a value that is read at several indices. It does not vectorise a
# loop that calls it, or asks at each call whether the arrays are far enough apart. So the three
# projections are three arrays, and the bias comes after the split (docs/notes/0009).
def _kept_cell(
    axis: GateAxis,
    count: int,
    step: Callable[[tuple[Arrays, Arrays], Carry], Carry],
    coefficients: Callable[[tuple[Arrays, Arrays], Carry, Carry], Arrays],
) -> Cell:
    """Of gates whose coefficients are of ``h U``, of the candidate, and how much of h is kept."""

    def prepare(projected: jax.Array) -> Arrays:
        return tuple(axis.split(projected, count))

    def activate(
        prepared: Arrays, recurrent: jax.Array, recurrent_bias: jax.Array | None
    ) -> tuple[Arrays, Arrays]:
        *gates, hn = axis.split(recurrent, count)
        if recurrent_bias is not None:
            hn = add_bias(hn, *axis.split(recurrent_bias, 1))
        return prepared, (*gates, hn)

    def backward(coefficients: Arrays, dcarry: Carry) -> tuple[Arrays, jax.Array, Carry]:
        recurrent, _, kept = coefficients
        (dh,) = dcarry
        return (dh,), axis.join(lax.mul(recurrent, repeat(dh, count))), (lax.mul(dh, kept),)

    def gradients(coefficients: Arrays, signal: Arrays) -> tuple[jax.Array, jax.Array]:
        recurrent, candidate, _ = coefficients
        dh = repeat(signal[0], count)
        # Only the candidate has another slope in ``x W`` than in ``h U``.
        projected = select_part(count - 1, repeat(candidate, count), recurrent)
        return axis.join(lax.mul(projected, dh)), axis.join(lax.mul(recurrent, dh))

    return Cell(False, prepare, activate, step, coefficients, backward, gradients)


def _gru_gates(activated: tuple[Arrays, Arrays]) -> tuple[jax.Array, ...]:
    """r, z, the candidate, and what of it r acts on."""
    (xr, xz, xn), (hr, hz, hn) = activated
    r, z = (sigmoid(lax.add(*terms)) for terms in ((xr, hr), (xz, hz)))
    return r, z, lax.tanh(lax.add(xn, lax.mul(r, hn))), hn


def _gru_step(activated: tuple[Arrays, Arrays], carry: Carry) -> Carry:
    (h,) = carry
    _, z, n, _ = _gru_gates(activated)
    return (lax.add(n, lax.mul(z, lax.sub(h, n))),)


def _gru_coefficients(activated: tuple[Arrays, Arrays], before: Carry, after: Carry) -> Arrays:
    (h,) = before
    r, z, n, hn = _gru_gates(activated)
    not_r, not_z = one_less(r), one_less(z)
    candidate = lax.mul(not_z, one_less_square(n))
    through_r = lax.mul(candidate, r)
    own = [
        lax.mul(lax.mul(through_r, not_r), hn),
        lax.mul(lax.mul(lax.sub(h, n), z), not_z),
        through_r,
    ]
    return stack(own), candidate, z


@functools.cache
def _gru(axis: GateAxis) -> Cell:
    return _kept_cell(axis, 3, _gru_step, _gru_coefficients)


@traced_once("reset_gate", "reverse", "method")
def mgu(
    x: jax.Array,
    carry: tuple[jax.Array],
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None = None,
    recurrent_bias: jax.Array | None = None,
    *,
    reset_gate: bool = True,
    reverse: bool = False,
    method: str | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array]]:
    """The minimal gated unit of ``jlayers.MGU``.

    Args:
      kernel: (in, 2 H). recurrent_kernel: (H, 2 H). bias: (2 H,), or None. Gate order f, n.
      recurrent_bias: (H,), of the candidate, or None.
      reset_gate: whether f acts on the candidate's part of ``h U``.
      x, carry, reverse, method, mask: as in ``gru``, as are results and errors.
    """
    outputs, (h,) = recurrence(
        functools.partial(_mgu, reset_gate),
        x,
        carry,
        Weights(kernel, recurrent_kernel, bias, recurrent_bias),
        reverse=reverse,
        method=method,
        name="mgu",
        mask=mask,
    )
    return outputs, (h,)


@functools.cache
def _mgu(reset_gate: bool, axis: GateAxis) -> Cell:
    def gates(activated: tuple[Arrays, Arrays]) -> Arrays:
        (xf, xn), (hf, hn) = activated
        f = sigmoid(lax.add(xf, hf))
        return f, lax.tanh(lax.add(xn, lax.mul(f, hn) if reset_gate else hn)), hn

    def step(activated: tuple[Arrays, Arrays], carry: Carry) -> Carry:
        f, n, _ = gates(activated)
        return (lax.add(n, lax.mul(f, lax.sub(carry[0], n))),)

    def coefficients(activated: tuple[Arrays, Arrays], before: Carry, after: Carry) -> Arrays:
        f, n, hn = gates(activated)
        candidate = lax.mul(one_less(f), one_less_square(n))
        through_f, through_hn = lax.sub(before[0], n), candidate
        if reset_gate:
            through_f = lax.add(through_f, lax.mul(candidate, hn))
            through_hn = lax.mul(candidate, f)
        own = [lax.mul(lax.mul(through_f, f), one_less(f)), through_hn]
        return stack(own), candidate, f

    return _kept_cell(axis, 2, step, coefficients)
