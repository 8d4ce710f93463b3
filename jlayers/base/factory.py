"""factory: layers that describe themselves by the call that built them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

from .errors import LayerError, caller_location, public_api
from .layer import Layer
from .parameters import snake_case
from .repr_text import call_text
from .specs import format_short

P = ParamSpec("P")


def factory(function: Callable[P, Layer]) -> Callable[P, Layer]:
    """Makes layers built by ``function`` describe themselves by its name and arguments.

    ``repr`` of the layer is the call that built it, its kind is the function's name in snake_case,
    and its errors name the line of the call.

    >>> import jlayers as jl
    >>> @jl.factory
    ... def MLP(width: int, depth: int = 2):
    ...     return jl.serial(*[jl.Dense(width) for _ in range(depth)])
    >>> MLP(64)
    MLP(64)
    >>> list(jl.serial(MLP(64), MLP(32, depth=3)).children)
    ['mlp', 'mlp_1']

    A ``name`` given to ``Layer``, ``stateless`` or ``compose`` inside ``function`` goes before
    the function's own.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    @public_api
    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        try:
            layer = function(*args, **kwargs)
            if not isinstance(layer, Layer):
                raise LayerError("the factory gave no Layer", got=format_short(layer))
        except LayerError as error:
            error.attribute_to(function.__name__)
            raise
        name = function.__name__
        arguments = signature.bind(*args, **kwargs)
        return layer._replace(
            kind=layer.kind if layer._named else snake_case(name),
            maker=name,
            site=caller_location(),
            _named=False,
            _text=lambda: call_text(name, arguments),
        )

    make.__jlayers_factory__ = True  # type: ignore[attr-defined]
    return make
