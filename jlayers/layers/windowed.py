"""What layers with windows over time share: Sequences, blocks, and what is left of the last one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.receptive_field import ReceptiveField
from ..base.sequence import join, split
from ..base.sequence_mode import SequenceMode
from ..base.specs import Params, State, format_spec
from ..base.step_pair import Carry, StepPair, of_step
from ..core import SpreadWindow, TimeWindow


class Windowed(NamedTuple):
    """An operation with windows over the first spatial axis of its input, which is time.

    Attributes:
      window: ``window(x)``, how they lie for an input of that shape.
      run: ``run(params, x, mask, within) -> y``. ``mask`` holds bools (batch, time), or is None.
        With ``within`` the first steps of ``x`` are context, and there is no padding in time.
      counts: whether ``run`` has to know of the context which steps are some: padding is not the
        same to it as zeros.
    """

    window: Callable[[Any], TimeWindow | SpreadWindow]
    run: Callable[[Params, jax.Array, jax.Array | None, bool], jax.Array]
    counts: bool = False


def windowed(init: Callable[[Any, Any], Params], how: Windowed) -> Layer:
    """The layer of an operation with windows over time.

    A convolution or pool takes time as it is: a step of padding is silence, which passes.
    """

    def start(params: Params, state: State, x: Any, *, capacity: int | None) -> Carry:
        window = _causal(how, x)
        if not window.context:
            return {}
        lead = (x.shape[0], window.context)
        carry: Carry = {"context": jnp.zeros((*lead, *x.shape[2:]), x.dtype)}
        return carry | ({"valid": jnp.zeros(lead, bool)} if how.counts else {})

    def step(
        params: Params, state: State, carry: Carry | None, x: Any, *, key: Any, train: bool
    ) -> tuple[Any, Carry]:
        values, mask = split(x)
        if carry is None:
            y = how.run(params, values, mask, False)
            return _masked(how, values, mask, y), {}
        window = _causal(how, values)
        if values.shape[1] % window.stride:
            raise LayerError(
                f"a block of {values.shape[1]} steps is no multiple of the stride {window.stride}",
                hint="blocks of a multiple of the model's stride: "
                "jl.receptive_field(model, x).stride",
            )
        if not window.context:
            return _masked(how, values, mask, how.run(params, values, mask, True)), {}
        whole = jnp.concatenate([carry["context"], values], 1)
        after = {"context": whole[:, -window.context :]}
        valid = None
        if how.counts:
            here = jnp.ones(values.shape[:2], bool) if mask is None else mask
            valid = jnp.concatenate([carry["valid"], here], 1)
            after["valid"] = valid[:, -window.context :]
        return _masked(how, values, mask, how.run(params, whole, valid, True)), after

    return Layer(
        lambda key, x: (init(key, x), {}),
        of_step(step),
        sequence_mode=SequenceMode("whole", functools.partial(_receptive_field, how)),
        stream=StepPair(start, step),
    )


def _masked(how: Windowed, x: Any, mask: jax.Array | None, y: jax.Array) -> Any:
    return join(y, None if mask is None else how.window(x).outputs(mask, y.shape[1]))


def _causal(how: Windowed, x: Any) -> TimeWindow:
    window = how.window(x)
    if not isinstance(window, TimeWindow) or not window.causal:
        raise LayerError(
            "cannot be streamed: its windows reach later steps",
            got=format_spec(x),
            hint="padding='CAUSAL'",
        )
    return window


def _receptive_field(how: Windowed, x: Any) -> ReceptiveField:
    window = how.window(x)
    before, after = window.low, window.extent - 1 - window.low
    if isinstance(window, TimeWindow):
        return ReceptiveField(window.stride, before, after)
    one = Fraction(1, window.stride)
    return ReceptiveField().compose(ReceptiveField(one, one * before, one * after))
