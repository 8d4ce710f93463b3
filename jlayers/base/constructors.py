"""Layers from simpler functions: ``stateless``, ``lift``, ``on_sequence``, ``of_steps``.

How to read this file: ``stateless``, ``on_sequence`` and ``lift`` check what users give them, the
last for every child of a combinator. ``pure`` and ``of_steps`` make most layers of the library,
each from functions without the arguments that they do not use. The other way, from layers to
simpler functions, is ``adapters``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from . import arguments
from .description import Call
from .errors import LayerError
from .factory import factory
from .layer import Layer
from .parameters import snake_case
from .receptive_field import ReceptiveField
from .repr_text import function_name, function_text
from .sequence_mode import SequenceMode
from .specs import format_short
from .step_pair import StepPair
from .types import ApplyFn, Carry, Key, Params, PyTree, State

# What serial and the other combinators take for a layer.
LayerOrFunction = Layer | Callable[[Any], PyTree]


@factory
def stateless(
    init: Callable[[jax.Array, PyTree], Params],
    apply: Callable[[Params, PyTree], PyTree],
    *,
    name: str | None = None,
) -> Layer:
    """A layer without state or randomness from ``params = init(key, x)``, ``y = apply(params, x)``.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> scale = jl.stateless(
    ...     lambda key, x: {"scale": jnp.full(x.shape[-1:], 2.0)},
    ...     lambda params, x: x * params["scale"], name="scale")
    >>> params, state = scale.init(jax.random.key(0), jl.spec((3,)))
    >>> scale.apply(params, state, jnp.arange(3.0))
    (Array([0., 2., 4.], dtype=float32), {})
    """

    arguments.function("init", init, "key, x")
    arguments.function("apply", apply, "params, x")

    def checked_init(key: jax.Array, x: PyTree) -> Params:
        params = init(key, x)
        # A pair is what init of a Layer returns, and the likeliest mix-up.
        if isinstance(params, tuple):
            raise LayerError(
                "init of a stateless layer must return params alone",
                got=format_short(params),
                hint="jl.Layer(init, apply) for a layer with state",
            )
        return params

    mode = SequenceMode("unknown", function=apply)
    return pure(checked_init, apply, name=name, sequence_mode=mode)


def pure(
    init: Callable[[jax.Array, PyTree], Params],
    apply: Callable[[Params, PyTree], PyTree],
    *,
    name: str | None = None,
    sequence_mode: SequenceMode = SequenceMode.PER_STEP,
    stream: str | None = None,
    lazy_weights: tuple[str, ...] = (),
) -> Layer:
    """``stateless`` for functions that are known to be right, with the rest of a description."""
    return Layer(
        lambda key, x: (init(key, x), {}),
        lambda params, state, x, *, key, train: (apply(params, x), state),
        name=name,
        sequence_mode=sequence_mode,
        stream=stream,
        lazy_weights=lazy_weights,
    )


def no_params(key: jax.Array, x: PyTree) -> Params:
    """``init`` of a layer without parameters."""
    return {}


def of_step(step: Callable[..., tuple[PyTree, Carry]]) -> ApplyFn:
    """``apply`` of a causal layer: its ``step`` over the whole sequence."""

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        return step(params, state, None, x, key=key, train=train)[0], state

    return apply


def lift(layer: LayerOrFunction) -> Layer:
    """A ``Layer`` as it is; any other function of one argument as a layer without parameters.

    Args:
      layer: a ``Layer``, or a function of one argument, an array or a tree of arrays.

    Raises:
      LayerError: for anything else, and for a factory that was not called.
    """
    if isinstance(layer, Layer):
        return layer
    function: Any = layer
    # partial(Dense, ...) is a factory too.
    while isinstance(function, functools.partial):
        function = function.func
    if getattr(function, "__jlayers_factory__", False):
        raise LayerError(
            f"expected a layer, got the factory {function.__name__}",
            hint=f"call it: {function.__name__}(...)",
        )
    # As in stax, whose layers are bare pairs.
    if isinstance(layer, tuple) and len(layer) == 2 and all(map(callable, layer)):
        raise LayerError(
            "expected a layer, got a bare pair of functions",
            hint="jl.Layer(init, apply), or jl.stateless(init, apply)",
        )
    if not callable(layer):
        hint = None
        if isinstance(layer, tuple | list):
            hint = "unpack it: serial(*layers)"
        elif isinstance(layer, str) and callable(getattr(jax.nn, layer, None)):
            hint = f"jax.nn.{layer}"
        elif isinstance(layer, str):
            hint = "a layer's name is its keyword in the parent: serial(head=Dense(10))"
        raise LayerError(
            f"expected a layer, got {format_short(layer)}",
            expected="a Layer, or a function of one argument",
            hint=hint,
        )
    _check_one_argument(layer)

    # Children are named after the function: ``relu``, ``relu_1``.
    kind = snake_case(function_name(layer))
    mode = SequenceMode("unknown", function=layer)
    lifted = pure(no_params, lambda params, x: layer(x), name=kind, sequence_mode=mode)
    call = Call(lift, (layer,), {})
    return lifted._replace(_named=False, _text=lambda: function_text(layer), _call=call)


def of_steps(
    init: Callable[[jax.Array, Any], Params],
    start: Callable[[Params, Any, int | None], Carry],
    step: Callable[[Params, Carry | None, Any], tuple[PyTree, Carry]],
    receptive_field: Callable[[Any], ReceptiveField] | None,
    unstreamed: str | None = None,
) -> Layer:
    """A layer over time without state or randomness, whose ``apply`` is one ``step``.

    Args:
      init: ``params = init(key, x)``.
      start, step: ``start(params, x, capacity)`` and ``step(params, carry, x)``, a ``StepPair``.
      receptive_field: as in ``SequenceMode``.
      unstreamed: why it cannot be streamed, if it cannot.
    """
    pair = StepPair(
        lambda params, state, x, *, capacity: start(params, x, capacity),
        lambda params, state, carry, x, *, key, train: step(params, carry, x),
    )
    return Layer(
        lambda key, x: (init(key, x), {}),
        of_step(pair.step),
        sequence_mode=SequenceMode("whole", receptive_field),
        stream=unstreamed or pair,
    )


@factory
def on_sequence(function: Callable[[Any], PyTree]) -> Layer:
    """A layer of a function of a whole ``Sequence``, values and mask.

    A plain function is called with the values of a ``Sequence`` alone, and refused if it is found
    to mix steps. A function that mixes them has to say so here, and to use the mask.

    Args:
      function: of the input, a Sequence or an array, to a Sequence, an array, or a tree of these.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> last = jl.on_sequence(jl.Sequence.last)
    >>> x = jl.Sequence.from_lengths(jnp.arange(6.0).reshape(2, 3), [2, 3])
    >>> last.apply({}, {}, x)[0].tolist()
    [1.0, 5.0]
    """
    _check_one_argument(function)
    return pure(
        no_params,
        lambda params, x: function(x),
        sequence_mode=SequenceMode("whole"),
        stream="it is a function of the whole sequence",
    )


def lift_child(name: str, layer: LayerOrFunction) -> Layer:
    """``lift`` with the child's name in the error."""
    try:
        return lift(layer)
    except LayerError as error:
        error.add_parent_context(name, [])
        raise


def _check_one_argument(function: Callable[..., Any]) -> None:
    try:
        arguments.function("a child", function, "x")
        # arguments.function cannot see the arity of a ufunc.
        fits = getattr(function, "nin", 1) == 1  # a ufunc hides its arguments behind *args
    except LayerError:
        fits = False
    if not fits:
        raise LayerError(
            f"{function_text(function)} must be a function of one argument",
            hint="a lambda of one argument, or compose; several inputs are one tuple",
        )
