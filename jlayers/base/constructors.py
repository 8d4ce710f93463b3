"""The edges of the contract: layers from simpler functions, and simpler functions from layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from . import arguments
from .errors import LayerError, error_context, public_api
from .factory import factory
from .layer import Layer
from .naming import snake_case
from .repr_text import function_name, function_text
from .sequence_mode import SequenceMode
from .specs import Params, PyTree, State, format_short, path_text
from .tracing import trace


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

    def init_pair(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        params = init(key, x)
        if isinstance(params, tuple):
            raise LayerError(
                "init of a stateless layer gives params alone",
                got=format_short(params),
                hint="jl.Layer(init, apply) for a layer with state",
            )
        return params, {}

    def apply_pair(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        return apply(params, x), state

    return Layer(init_pair, apply_pair, name=name)


def lift(layer: Any) -> Layer:
    """A ``Layer`` as it is; any other function of one argument as a layer without parameters.

    Raises:
      LayerError: for what is no function of one argument, and for a factory that was not called.
    """
    if isinstance(layer, Layer):
        return layer
    function = layer
    while isinstance(function, functools.partial):
        function = function.func
    if getattr(function, "__jlayers_factory__", False):
        raise LayerError(
            f"the factory {function.__name__} stands where a layer belongs",
            hint=f"call it: {function.__name__}(...)",
        )
    if isinstance(layer, tuple) and len(layer) == 2 and all(map(callable, layer)):
        raise LayerError(
            "a bare pair of functions stands where a layer belongs",
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
            f"{format_short(layer)} stands where a layer belongs",
            expected="a Layer, or a function of one argument",
            hint=hint,
        )
    _check_one_argument(layer)

    def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        return layer(x), state

    kind = snake_case(function_name(layer))
    return Layer(init, apply, name=kind)._copy(_named=False, _text=lambda: function_text(layer))


@factory
def on_sequence(function: Callable[[Any], PyTree]) -> Layer:
    """A function of a whole ``Sequence`` as a layer, mask and all; of an array as it is.

    Functions are layers that act on each step alone: of a ``Sequence`` they see the values. One
    that mixes steps has to say so, and to mind the mask.

    Args:
      function: of the input, to a Sequence, an array, or a tree of these.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> last = jl.on_sequence(jl.Sequence.last)
    >>> x = jl.Sequence.from_lengths(jnp.arange(6.0).reshape(2, 3), [2, 3])
    >>> last.apply({}, {}, x)[0].tolist()
    [1.0, 5.0]
    """
    _check_one_argument(function)
    return Layer(
        lambda key, x: ({}, {}),
        lambda params, state, x, *, key, train: (function(x), state),
        sequence_mode=SequenceMode("whole"),
        stream="it is a function of the whole sequence",
    )


def lift_child(name: str, layer: Any) -> Layer:
    """``lift`` with the child's name in the error."""
    try:
        return lift(layer)
    except LayerError as error:
        error.add_parent_context(name, [])
        raise


def _check_one_argument(function: Callable[..., Any]) -> None:
    try:
        arguments.function("a child", function, "x")
        fits = getattr(function, "nin", 1) == 1  # a ufunc hides its arguments behind *args
    except LayerError:
        fits = False
    if not fits:
        raise LayerError(
            f"{function_text(function)} is no function of one argument",
            hint="a lambda of one argument, or compose; several inputs come as one tuple",
        )


class Pair(NamedTuple):
    """``params = init(key, x)`` and ``y = apply(params, x, key=None, train=False)``."""

    init: Callable[[jax.Array, PyTree], Params]
    apply: Callable[..., PyTree]


@public_api
def without_state(layer: Layer) -> Pair:
    """The pair of a layer that has no state, free of the empty dicts.

    Raises:
      LayerError: when init or apply finds that a layer inside has state, naming it.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> init, apply = jl.without_state(jl.Dense(2, kernel_init=jax.nn.initializers.ones))
    >>> params = init(jax.random.key(0), jl.spec((1, 3)))
    >>> apply(params, jnp.ones((1, 3)))
    Array([[3., 3.]], dtype=float32)
    """
    layer = lift(layer)

    def check(x: PyTree) -> None:
        with error_context(layer):
            state = trace(layer, x).state
            if state:
                paths = ", ".join(path_text(path) for path, _ in jax.tree.leaves_with_path(state))
                raise LayerError(
                    "without_state of a layer that has state",
                    got=paths,
                    hint="params, state = layer.init(key, x)",
                )

    @public_api
    def init(key: jax.Array, x: PyTree) -> Params:
        check(x)
        return layer.init(key, x)[0]

    @public_api
    def apply(
        params: Params, x: PyTree, key: jax.Array | None = None, train: bool = False
    ) -> PyTree:
        if key is not None and not arguments.is_key(key):
            with error_context(layer):
                raise LayerError(
                    "the key is no single typed key",
                    got=format_short(key),
                    hint="apply(params, x, key): without_state left the state out",
                )
        check(x)
        return layer.apply(params, {}, x, key=key, train=train)[0]

    return Pair(init, apply)


@public_api
def out_spec(layer: Layer, x: PyTree) -> PyTree:
    """Shapes and dtypes of ``layer``'s output for the input ``x``, without computing anything.

    Args:
      layer: a ``Layer``, or a function of one argument.
      x: arrays or ``jax.ShapeDtypeStruct``s.

    Returns:
      The output tree with a ``jax.ShapeDtypeStruct`` for every leaf.

    Raises:
      LayerError: where ``x`` does not fit the layer or a layer inside it.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Dense(10), jl.spec((32, 784)))
    ShapeDtypeStruct(shape=(32, 10), dtype=float32)
    """
    return trace(lift(layer), x).out
