"""factory: layers that describe themselves by the call that built them."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import ParamSpec

from . import arguments
from .description import Call
from .errors import LayerError, call_error, caller_location, public_api
from .layer import Layer
from .parameters import snake_case
from .repr_text import call_text
from .specs import format_short
from .types import Initializer

P = ParamSpec("P")
Check = Callable[[str, typing.Any], typing.Any]


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

    An argument that is annotated as a ``bool``, as an ``Initializer``, or by one of the annotations
    of ``base.arguments``, is checked before ``function`` is called.
    """

    # At the first call: then all names in the annotations exist, and an import pays for nothing.
    @functools.cache
    def described() -> tuple[inspect.Signature, dict[str, Check]]:
        signature = inspect.signature(function)
        return signature, _checks(function, signature)

    @functools.wraps(function)
    @public_api
    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        name = function.__name__
        signature, checks = described()
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise call_error(name, signature, args, kwargs) or error from None
        try:
            # The repr shows what the user gave, and not what the checks made of it.
            given = {
                key: checks[key](key, value) if key in checks else value
                for key, value in bound.arguments.items()
            }
            call = inspect.BoundArguments(signature, given)
            layer = function(*call.args, **call.kwargs)
            if not isinstance(layer, Layer):
                raise LayerError("the factory must return a Layer", got=format_short(layer))
        except LayerError as error:
            error.attribute_to(name)
            raise
        return layer._replace(
            kind=layer.kind if layer._named else snake_case(name),
            maker=name,
            site=caller_location(),
            _named=False,
            # Later, and only if asked for: most layers are never printed.
            _text=lambda: call_text(name, bound),
            _call=Call(make, args, kwargs, given),
        )

    # So that a combinator can tell a factory from a layer: Dense from Dense(3).
    make.__jlayers_factory__ = True  # type: ignore[attr-defined]
    return make


def _checks(function: Callable[..., object], signature: inspect.Signature) -> dict[str, Check]:
    """What the annotations of the arguments ask for, by name."""
    found = {}
    for name, parameter in signature.parameters.items():
        single = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        check = _check_of(_evaluated(function, parameter.annotation)) if single else None
        if check is not None:
            found[name] = check
    return found


def _evaluated(function: Callable[..., object], annotation: object) -> object:
    """The annotation as a type, where it was left a string; None where it cannot be known."""
    if not isinstance(annotation, str):
        return annotation
    # Each by itself, unlike ``typing.get_type_hints``: a name that is imported for type checkers
    # alone must not switch off the other checks.
    try:
        return eval(annotation, function.__globals__)
    except Exception:
        return None


def _check_of(annotation: object) -> Check | None:
    if annotation is bool:
        return arguments.flag
    if annotation is Initializer:
        return arguments.initializer
    if typing.get_origin(annotation) is typing.Annotated:
        return next((check for check in typing.get_args(annotation)[1:] if callable(check)), None)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = typing.get_args(annotation)
        inner = [part for part in parts if part is not type(None)]
        check = _check_of(inner[0]) if len(inner) == 1 else None
        return check and (lambda name, value: None if value is None else check(name, value))
    return None
