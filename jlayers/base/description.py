"""What a layer was made of, in a form that can leave the process: calls and names, no closures.

How to read this file: ``Call`` is kept by every layer. ``reference`` says how a function can be
found or made again, as a ``Named`` or a ``Made``; pickles are made of them, and the files of
``export.save_model``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from .errors import LayerError
from .repr_text import closure_call, function_name, function_text, public_name

# They pickle functions by value, and ask a layer as pickle does.
_BY_VALUE = ("cloudpickle", "dill")


class Call(NamedTuple):
    """The call that built a layer.

    Attributes:
      make, args, kwargs: as it was called.
      checked: the arguments by name, as the checks of a factory gave them back.
    """

    make: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    checked: Mapping[str, Any] = MappingProxyType({})


class Named:
    """A function that is an attribute of a module; a pickle of it is one of the function."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.module, self.name)


class Made:
    """A function that another one returned, which is called again when it is unpickled."""

    def __init__(self, make: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]):
        self.make, self.args, self.kwargs = make, args, kwargs

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (portable(self.make), portable(self.args), portable(dict(self.kwargs)))


def _find(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _made(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return make(*args, **kwargs)


def reference(function: Callable[..., Any]) -> Named | Made | None:
    """How to get a function again; None where it has no name and is of no function that has one."""
    if isinstance(function, functools.partial):
        return Made(functools.partial, (function.func, *function.args), function.keywords)
    if (found := public_name(function)) is not None:
        return Named(*found)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module in sys.modules and "<" not in name:
        try:
            if _find(module, name) is function:
                return Named(module, name)
        except AttributeError:
            pass
    return _of_closure(function)


def _of_closure(function: Callable[..., Any]) -> Made | None:
    call = closure_call(function)
    if call is None:
        return None
    _, outer, arguments = call
    # An argument that the function does not hold any more would be lost: what the call gives has
    # to hold the same.
    try:
        again = outer(**arguments)
    except Exception:
        return None
    same = getattr(again, "__code__", None) is function.__code__ and _equal(
        inspect.getclosurevars(again).nonlocals, inspect.getclosurevars(function).nonlocals
    )
    return Made(outer, (), arguments) if same else None


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray | jax.Array):
        return bool(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b))
    if inspect.isfunction(a):
        return a.__code__ is b.__code__ and _equal(
            inspect.getclosurevars(a).nonlocals, inspect.getclosurevars(b).nonlocals
        )
    return bool(isinstance(a, str | int | float | complex | bytes | type) and a == b)


def portable(value: Any) -> Any:
    """An argument for a pickle: functions as references, all else as it is.

    Raises:
      LayerError: for a function that cannot be found or made again.
    """
    if type(value) is tuple or type(value) is list:
        return type(value)(portable(item) for item in value)
    if type(value) is dict:
        return {key: portable(item) for key, item in value.items()}
    found = reference(value) if is_function(value) else made_of_fields(value)
    if found is not None or not is_function(value):
        return value if found is None else found
    if _pickled_by_value():
        return value
    raise LayerError(
        f"{function_text(value)} cannot be pickled: no module has it under a name",
        got=function_name(value),
        hint="def it in a module, not in a function; or pickle with cloudpickle",
    )


def made_of_fields(value: Any) -> Made | None:
    """The call that makes a named tuple or a dataclass again; None for all else."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Made(type(value), (), dict(zip(value._fields, value, strict=True)))
    # Layers are dataclasses too.
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not _is_layer(value):
        fields = {
            f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value) if f.init
        }
        given = {name: held for name, (held, default) in fields.items() if held is not default}
        return Made(type(value), (), given)
    return None


def _is_layer(value: object) -> bool:
    return hasattr(value, "children") and hasattr(value, "maker")


def _pickled_by_value() -> bool:
    """Whether a package that pickles functions by value is what asks."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").partition(".")[0] in _BY_VALUE:
            return True
    return False


def is_function(value: object) -> bool:
    """Whether it is a function, and not an object with a state that can be called."""
    # Functions of JAX are objects of several classes; all of them are somewhere under a name.
    if isinstance(value, type) or _is_layer(value) or not callable(value):
        return False
    return (
        inspect.isfunction(value)
        or isinstance(value, functools.partial | np.ufunc)
        or (
            hasattr(value, "__wrapped__")
            or type(value).__module__.partition(".")[0] in ("jax", "jaxlib")
        )
    )
