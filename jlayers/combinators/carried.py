"""carried: a layer with the states of its recurrence as input and output.

How to read this file: ``carried`` wraps the ``Stepping`` that every layer has, so that no layer
knows of it. ``_completed`` fills in what a given carry leaves out; ``_check_fits`` names what does
not fit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..base.arguments import Positive
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.specs import format_spec, path_text, placeholders, specs_of
from ..base.step_pair import Blocks, Stepping, check_carry, stream_of, taking
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..base.validation import check_tree_matches
from ..sequences.streaming import check_causal
from .transparent import traced, wrapper


@factory
def carried(layer: LayerOrFunction, *, capacity: Positive | None = None) -> Layer:
    """``layer`` with its carry as input and output: from ``(x, carry)`` to ``(y, carry)``.

    A carry is what a layer remembers between blocks of a sequence, as in ``stream``: h and c of an
    ``LSTM``, the context of a causal ``Conv``, the keys and values of causal ``SelfAttention``. It
    is a dict of arrays, of a model named like its parameters: ``carry["lstm"]["h"]``. So one block
    after another, each with the carry after the one before, gives what the whole sequence gives.

    An input carry may be a part: what is missing begins by itself, as all of it does where the
    input is ``x`` alone or ``(x, {})``. The output carry is complete. Of a ``Sequence`` it is that
    after each row's last valid step, and gradients flow through it.

    With ``reverse=True``, without ``return_sequences``, and in ``bidirectional``, a recurrent layer
    takes whole sequences and no blocks: its carry is what each direction begins with and ends with,
    as ``initial_state`` and ``return_state`` of Keras and (h_0, c_0) and (h_n, c_n) of PyTorch.

    Transparent: parameters and name are the layer's own. In training it is the layer in training,
    with its dropout, its statistics and the losses added inside.

    Args:
      layer: a layer that streams, a recurrent one, or a model of such; each layer inside it hands
        over its carry or works on each step by itself.
      capacity: for how many steps attention without a window allocates its cache.

    Raises:
      LayerError: for a layer that reads later steps and has no carry, naming it; for an input carry
        with other names, shapes or dtypes than the layer's.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.carried(jl.serial(jl.Conv(4, 3, padding="CAUSAL"), jl.LSTM(5)))
    >>> x = jax.random.normal(jax.random.key(0), (1, 6, 2))
    >>> params, state = layer.init(jax.random.key(1), x)
    >>> (whole, _), _ = layer.apply(params, state, x)
    >>> (first, carry), _ = layer.apply(params, state, x[:, :4])
    >>> (rest, carry), _ = layer.apply(params, state, (x[:, 4:], carry))
    >>> bool(jnp.allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6))
    True
    >>> (y, _), _ = layer.apply(params, state, (x, {"lstm": {"h": jnp.ones((1, 5))}}))
    """
    inner, slots = lift(layer), capacity

    def abstract(_: Layer, key: jax.Array, inputs: PyTree) -> tuple[Trace, PyTree]:
        x, given = _parts(inputs)
        found, y = traced(inner, key, x)
        with error_context(inner):
            params, state = placeholders(found.params), placeholders(found.state)
            first = _first(inner, params, state, specs_of(x), slots)[0]
            # In the dtypes of the parameters it will be given, which are not known here.
            _check_fits(_completed(first, given), first, x)
        return found, (y, first)

    def apply(
        params: Params, state: State, inputs: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        x, given = _parts(inputs)
        with error_context(inner):
            first, blocks = _first(inner, params, state, specs_of(x), slots)
            carry = _completed(first, given)
            _check_fits(carry, first, x)
            _check_dtypes(carry, first)
            with taking(blocks):
                step = stream_of(inner).advance
                y, after, new = step(params, state, carry, x, key=key, train=train)
            check_carry(carry, after)
        return (y, after), new

    def start(params: Params, state: State, inputs: PyTree, *, capacity: int | None) -> Carry:
        x, given = _parts(inputs)
        with error_context(inner):
            carry = stream_of(inner).start(params, state, x, capacity=slots or capacity)
        return {"started": jnp.zeros((), bool), "carry": carry} if given else carry

    # Of a stream, each block comes with the carry from which the first one begins.
    def advance(
        params: Params, state: State, carry: Carry, inputs: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        x, given = _parts(inputs)
        before = _continued(carry["carry"], given, carry["started"]) if given else carry
        with error_context(inner):
            step = stream_of(inner).advance
            y, after, new = step(params, state, before, x, key=key, train=train)
        started = {"started": jnp.ones((), bool), "carry": after}
        return (y, after), started if given else after, new

    return wrapper(
        inner,
        abstract,
        apply,
        lambda new: carried(new, capacity=slots),
        Stepping(start, advance),
    )


def _parts(inputs: PyTree) -> tuple[PyTree, Carry]:
    """``x`` and the given carry, empty for ``x`` alone."""
    # No layer takes a pair with a dict, but a body may: it is given ``(x, {})``.
    if isinstance(inputs, tuple | list) and len(inputs) == 2 and isinstance(inputs[1], dict):
        return inputs[0], inputs[1]
    return inputs, {}


def _first(
    layer: Layer, params: Params, state: State, x: PyTree, capacity: int | None
) -> tuple[Carry, Blocks]:
    """The carry that the layer begins with, and whether blocks of ``x`` are whole sequences.

    Raises:
      LayerError: for a layer that has no carry and reads other steps.
    """

    def start(blocks: Blocks) -> tuple[Carry, Blocks]:
        with taking(blocks):
            return stream_of(layer).start(params, state, x, capacity=capacity), blocks

    try:
        found = start(Blocks())
        check_causal(layer, x)
        return found
    except LayerError as refused:
        try:
            found = start(Blocks(whole=True))
        except LayerError as error:
            # The first error may be of a layer that takes whole sequences: here it may.
            raise error from None
        if not found[1].met:
            raise refused from None
        return found


def _completed(first: Carry, given: Carry) -> Carry:
    """``given``, and of ``first`` what it leaves out."""
    both = {**first, **given}
    return {
        name: _completed(first[name], value)
        if isinstance(value, dict) and isinstance(first.get(name), dict)
        else value
        for name, value in both.items()
    }


def _continued(carry: Carry, given: Carry, started: jax.Array) -> Carry:
    """``carry``, and before the stream has started what is given instead."""

    def entry(old: Any, new: Any) -> Any:
        if isinstance(new, dict):
            return _continued(old, new, started)
        return jnp.where(started, old, new)

    return carry | {name: entry(carry[name], value) for name, value in given.items()}


def _check_fits(carry: Carry, first: Carry, x: PyTree) -> None:
    check_tree_matches(carry, specs_of(first), "given carry", x)


def _check_dtypes(carry: Carry, first: Carry) -> None:
    for (path, leaf), own in zip(
        jax.tree.leaves_with_path(carry), jax.tree.leaves(first), strict=True
    ):
        # A carry keeps its dtype from block to block.
        if leaf.dtype != own.dtype:
            raise LayerError(
                f"the carry has another dtype than the layer's at {path_text(path)!r}",
                expected=format_spec(specs_of(own)),
                got=format_spec(specs_of(leaf)),
                hint=f"astype({str(own.dtype)!r})",
            )
