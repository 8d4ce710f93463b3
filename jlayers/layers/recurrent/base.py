"""What recurrent layers share: input, parameters of the first carry, start, step and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import Initializer, initialize
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import join, joined_masks, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import (
    Params,
    PyTree,
    State,
    format_spec,
)
from ...base.step_pair import Carry, StepPair, of_step
from ...core import Course

STEPS = "(batch, time, features)"
Run = Callable[[Params, jax.Array, tuple[jax.Array, ...], Course], tuple[jax.Array, Any]]
Wanted = dict[str, tuple[Initializer, Sequence[int]] | None]


def steps_of_features(x: Any) -> None:
    """Raises unless ``x`` is (batch, time, features)."""
    hint = "Reshape((time, features)) before it; Embedding for ids"
    arguments.one_array(x, STEPS, rank=3, lower=hint)
    arguments.floating(x)
    arguments.not_empty(x, STEPS)


def recurrent(
    run: Run,
    parameters: Callable[[jax.ShapeDtypeStruct], Wanted],
    carries: Callable[[Any], dict[str, jax.ShapeDtypeStruct]],
    *,
    return_sequences: bool,
    reverse: bool,
    check: Callable[[Any], None] = steps_of_features,
    trainable_carry: bool = False,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
) -> Layer:
    """The pair of a recurrent layer.

    Args:
      run: ``run(params, x, carry, course)`` to (outputs, carry after the last step); the carry is
        a tuple of arrays, that of the outputs first.
      parameters: the initialiser and shape of each, for the spec of ``x``.
      carries: the names of the carry's arrays and their specs, (batch, ...).
      check: raises for an input, given as a spec, that the layer does not take; the rest are the
        layers' own arguments.
    """
    return_sequences = arguments.flag("return_sequences", return_sequences)
    reverse = arguments.flag("reverse", reverse)
    trainable_carry = arguments.flag("trainable_carry", trainable_carry)
    zoneout = arguments.fraction("zoneout", zoneout)
    recurrent_dropout = arguments.fraction("recurrent_dropout", recurrent_dropout)

    def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        x, resets = _with_resets(x)
        check(x)
        if resets is not None:
            _check_resets(resets, x)
        wanted = parameters(x)
        if trainable_carry:
            for name, spec in carries(x).items():
                wanted[f"initial_{name}"] = (initializers.zeros, spec.shape[1:])
        return initialize(key, x, **wanted), {}

    def first(params: Params, name: str, zeros: jax.Array) -> jax.Array:
        if not trainable_carry:
            return zeros
        return zeros + jnp.broadcast_to(params[f"initial_{name}"].astype(zeros.dtype), zeros.shape)

    def start(params: Params, state: State, x: Any, *, capacity: int | None) -> Carry:
        x, _ = _with_resets(x)
        return {
            name: first(params, name, jnp.zeros(spec.shape, spec.dtype))
            for name, spec in carries(x).items()
        }

    def step(
        params: Params, state: State, carry: Carry | None, x: Any, *, key: Any, train: bool
    ) -> tuple[Any, Carry]:
        x, resets = _with_resets(x)
        (values, mask), (resets, other) = split(x), split(resets)
        if other is not None:
            mask = other if mask is None else joined_masks(mask, other)
        specs = carries(values)
        # Made of a slice, so that they are spread over devices as the batch is: a scan insists on
        # it.
        one = jnp.zeros_like(values[:, 0, ..., :1])
        firsts = {
            name: first(params, name, jnp.broadcast_to(one.astype(spec.dtype), spec.shape))
            for name, spec in specs.items()
        }
        carry = firsts if carry is None else carry
        kept, held = _drawn(tuple(specs.values()), values.shape[1], key, train)
        course = Course(reverse, mask, resets, tuple(firsts.values()), kept, held)
        given = {name: value for name, value in params.items() if not name.startswith("initial_")}
        outputs, after = run(given, values, tuple(carry[name] for name in specs), course)
        y = join(outputs, mask) if return_sequences else after[0].astype(outputs.dtype)
        return y, dict(zip(specs, after, strict=True))

    def _drawn(
        specs: tuple[jax.ShapeDtypeStruct, ...], steps: int, key: Any, train: bool
    ) -> tuple[Any, Any]:
        """``kept`` and ``held`` of the course."""
        if not train:
            return None, zoneout or None
        if (zoneout or recurrent_dropout) and key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        kept, held = None, None
        if recurrent_dropout:
            drawn = jax.random.fold_in(key, 0)
            keep = jax.random.bernoulli(drawn, 1 - recurrent_dropout, specs[0].shape)
            kept = keep.astype(specs[0].dtype) / (1 - recurrent_dropout)
        if zoneout:
            held = tuple(
                jax.random.bernoulli(jax.random.fold_in(key, i), zoneout, (steps, *spec.shape))
                for i, spec in enumerate(specs, 1)
            )
        return kept, held

    unstreamed = "it reads the sequence from its end" if reverse else None
    if not return_sequences:
        unstreamed = "it gives the last step alone"
    return Layer(
        init,
        of_step(step),
        sequence_mode=SequenceMode(
            "whole", lambda x: ReceptiveField(1, 0, math.inf) if reverse else CAUSAL
        ),
        stream=unstreamed or StepPair(start, step),
    )


def of_rows(features: dict[str, int], wide: bool = False) -> Callable[[Any], Any]:
    """``carries`` of vectors: (batch, size) for each name, in the dtype of the input.

    Args:
      features: the sizes by name.
      wide: float32 at least.
    """

    def carries(x: Any) -> dict[str, jax.ShapeDtypeStruct]:
        dtype = core.at_least_float32(x.dtype) if wide else x.dtype
        return {
            name: jax.ShapeDtypeStruct((x.shape[0], size), dtype) for name, size in features.items()
        }

    return carries


def bound(name: str, value: float | None) -> float | None:
    """``value`` as a number above 0, or None."""
    if value is None:
        return None
    number = arguments.number(name, value)
    if number == 0:
        raise LayerError(f"{name} must be above 0, or None", got="0")
    return number


def _with_resets(x: PyTree) -> tuple[Any, Any]:
    """``(x, resets)`` of what the layer was given."""
    if isinstance(x, tuple | list) and len(x) == 2:
        return x[0], x[1]
    return x, None


def _check_resets(resets: Any, x: Any) -> None:
    wanted = jax.ShapeDtypeStruct(x.shape[:2], bool)
    if not hasattr(resets, "shape") or (resets.shape, resets.dtype) != (wanted.shape, wanted.dtype):
        raise LayerError(
            "takes (x, resets), and these are no resets of its steps",
            expected=format_spec(wanted),
            got=format_spec(resets),
            hint="concat() to merge two inputs into one",
        )
