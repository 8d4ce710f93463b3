"""The architecture of a model as JSON: the calls that build it, of functions known by name.

How to read this file: ``Encoder`` writes, ``Decoder`` reads, each a method for a kind of value. A
value that JSON lacks is a dict with one of the keys of ``Decoder``: ``{"layer": "Dense", "args":
[3]}``, ``{"tuple": [1, 2]}``. What a file may name is in ``names``, and nothing else is called.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from functools import partial as _partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.description import Made, is_function, made_of_fields, reference
from ..base.errors import CheckpointError, JlayersError, LayerError
from ..base.layer import Layer
from ..base.parameters import check_name
from ..base.repr_text import function_text, public_name
from ..base.specs import format_short
from ..checkpoint.tree import DTYPES
from .names import builders, callable_of, is_initializer, values

# What users pass for a dtype.
_TYPES: tuple[type, ...] = (bool, int, float, complex, *(dtype.type for dtype in DTYPES.values()))
Registry = Mapping[str, Callable[..., Any]]
_HINT = 'layers={"a_name": function}, here and in load_model'


class Encoder:
    """Writes layers as values of JSON, and collects the arrays among their arguments.

    Args:
      layers: names of the caller's own factories and functions.
    """

    def __init__(self, layers: Registry):
        self.arrays: list[np.ndarray] = []
        self._own = {_identity(value): name for name, value in layers.items()}
        self._layers = layers
        self._claimed: dict[str, Callable[..., Any]] = {}

    def layer(self, layer: Layer) -> dict[str, Any]:
        make, args, kwargs, _ = layer._call
        try:
            name = self._maker(make, layer)
            found: dict[str, Any] = {"layer": name}
            if args:
                found["args"] = [self.value(item) for item in args]
            if kwargs:
                found["kwargs"] = {key: self.value(item) for key, item in kwargs.items()}
        except LayerError as error:
            error.attribute_to(layer.maker, layer.short(), layer.site)
            raise
        found["kind"] = layer.kind
        return found

    def _maker(self, make: Callable[..., Any], layer: Layer) -> str:
        if (own := self._own.get(_identity(make))) is not None:
            return own
        name = getattr(make, "__name__", "")
        if builders().get(name) is make:
            return name
        if getattr(make, "__jlayers_factory__", False):
            # A factory of the user's has a name, which the one who loads the file has to know.
            self._claim(name, make)
            return name
        raise LayerError(
            "cannot be said in a file: it was made of functions",
            hint="@jl.factory on the function that builds it; compose in place of Layer",
        )

    def _claim(self, name: str, function: Callable[..., Any]) -> None:
        taken = self._layers.get(name, builders().get(name))
        if (taken or self._claimed.setdefault(name, function)) is not function:
            raise LayerError(f"the name {name!r} is that of another factory", hint=_HINT)

    def value(self, value: Any) -> Any:
        if isinstance(value, Layer):
            return self.layer(value)
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float) and not isinstance(value, np.generic):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if type(value) is complex:
            return {"complex": [value.real, value.imag]}
        if type(value) is list:
            return [self.value(item) for item in value]
        if type(value) is tuple:
            return {"tuple": [self.value(item) for item in value]}
        if type(value) is dict:
            return {"dict": [[self.value(k), self.value(v)] for k, v in value.items()]}
        if isinstance(value, np.ndarray | np.generic | jax.Array) and _is_stored(value):
            self.arrays.append(np.asarray(value))
            kinds = {jax.Array: "array", np.generic: "scalar", np.ndarray: "numpy"}
            kind = next(kind for cls, kind in kinds.items() if isinstance(value, cls))
            return {kind: len(self.arrays) - 1}
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if value is Ellipsis:
            return {"ellipsis": True}
        if isinstance(value, type) and value in _TYPES and public_name(value) is None:
            return {"type": value.__name__}
        if callable(value):
            return self.function(value)
        made = made_of_fields(value)
        if made is not None and values().get(type(value).__name__) is type(value):
            return {"value": type(value).__name__, "kwargs": self._items(made.kwargs)}
        raise LayerError(
            "an argument cannot be said in a file",
            expected="numbers, texts, tuples, lists, dicts, arrays, dtypes, layers, functions",
            got=format_short(value),
        )

    def function(self, function: Callable[..., Any]) -> dict[str, Any]:
        if (own := self._own.get(_identity(function))) is not None:
            return {"function": own}
        found = public_name(function)
        if found is not None and callable_of(".".join(found)) is function:
            return {"function": ".".join(found)}
        made = reference(function) if is_function(function) else None
        if isinstance(made, Made):
            inner = self.function(made.make) if made.make is not _partial else None
            if inner is None:
                first, *rest = made.args
                return {
                    "partial": self.function(first),
                    "args": [self.value(item) for item in rest],
                    "kwargs": self._items(made.kwargs),
                }
            return {"call": inner["function"], "kwargs": self._items(made.kwargs)}
        if getattr(function, "__jlayers_factory__", False):
            return {"function": self._maker(function, None)}  # type: ignore[arg-type]
        raise LayerError(
            f"the function {function_text(function)} cannot be said in a file", hint=_HINT
        )

    def _items(self, items: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.value(item) for key, item in items.items()}


def _identity(value: Any) -> tuple[int, ...]:
    # A method is another object each time that it is asked for.
    if isinstance(value, types.MethodType):
        return id(value.__self__), id(value.__func__)
    return (id(value),)


def _is_stored(value: Any) -> bool:
    return isinstance(value.dtype, np.dtype) and value.dtype.name in DTYPES


class Decoder:
    """Builds layers from values of JSON; raises a ``CheckpointError`` for anything that is unknown.

    Args:
      arrays: by the numbers that an ``Encoder`` gave them.
      layers: as for an ``Encoder``.
    """

    def __init__(self, arrays: list[np.ndarray], layers: Registry):
        self._arrays, self._layers = arrays, layers

    def layer(self, found: Any) -> Layer:
        if not (isinstance(found, dict) and isinstance(found.get("layer"), str)):
            raise _damaged("a layer", found)
        name = found["layer"]
        make = self._layers.get(name) or builders().get(name)
        if make is None:
            raise CheckpointError(
                f"the file has a layer {name!r} that is not one of jlayers",
                hint=f"load_model(path, layers={{{name!r}: ...}}), the factory that built it",
            )
        args = [self.value(item) for item in _list(found.get("args", []))]
        try:
            layer = make(*args, **self._items(found.get("kwargs", {})))
        except JlayersError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the layer {name!r} cannot be built: {error}") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the layer {name!r} cannot be built: {error}") from error
        kind = found.get("kind")
        if not isinstance(layer, Layer) or not isinstance(kind, str):
            raise _damaged("a layer", found)
        if layer.kind == kind:
            return layer
        check_name(kind)
        return layer._replace(kind=kind)

    def value(self, found: Any) -> Any:
        if found is None or isinstance(found, bool | int | float | str):
            return found
        if isinstance(found, list):
            return [self.value(item) for item in found]
        if not isinstance(found, dict):
            raise _damaged("a value", found)
        if "layer" in found:
            return self.layer(found)
        for kind in _KINDS:
            if kind in found:
                try:
                    return getattr(self, f"_{kind}")(found[kind], found)
                except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                    if isinstance(error, JlayersError):
                        raise
                    raise _damaged("a value", found) from error
        raise _damaged("a value", found)

    def _items(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise _damaged("arguments", found)
        return {key: self.value(item) for key, item in found.items()}

    def _float(self, content: Any, _: Any) -> float:
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]

    def _complex(self, content: Any, _: Any) -> complex:
        real, imaginary = content
        return complex(real, imaginary)

    def _tuple(self, content: Any, _: Any) -> tuple[Any, ...]:
        return tuple(self.value(item) for item in _list(content))

    def _dict(self, content: Any, _: Any) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in _list(content)}

    def _numpy(self, content: Any, _: Any) -> np.ndarray:
        if type(content) is not int or content < 0:
            raise IndexError
        return self._arrays[content]

    def _scalar(self, content: Any, found: Any) -> np.generic:
        value = self._numpy(content, found)[()]
        if not isinstance(value, np.generic):
            raise TypeError
        return value

    def _array(self, content: Any, found: Any) -> jax.Array:
        return jnp.asarray(self._numpy(content, found))

    def _dtype(self, content: Any, _: Any) -> Any:
        return jnp.dtype(content)

    def _type(self, content: Any, _: Any) -> Any:
        return {one.__name__: one for one in _TYPES}[content]

    def _ellipsis(self, *_: Any) -> Any:
        return ...

    def _value(self, content: Any, found: Any) -> Any:
        return values()[content](**self._items(found.get("kwargs", {})))

    def _function(self, content: Any, _: Any) -> Any:
        known = self._layers.get(content) or callable_of(content) or builders().get(content)
        if known is None:
            raise CheckpointError(
                f"the file has a function {content!r} that is not one that a file may name",
                hint=f"load_model(path, layers={{{content!r}: ...}}), if it is yours",
            )
        return known

    def _partial(self, content: Any, found: Any) -> Any:
        args = [self.value(item) for item in _list(found.get("args", []))]
        return _partial(self.value(content), *args, **self._items(found.get("kwargs", {})))

    def _call(self, content: Any, found: Any) -> Any:
        # Others could be made to fill the memory.
        if content not in self._layers and not is_initializer(content):
            raise _damaged("an initialiser", content)
        return self._function(content, found)(**self._items(found.get("kwargs", {})))


_KINDS = (
    *("float", "complex", "tuple", "dict", "numpy", "scalar", "array", "dtype", "type", "ellipsis"),
    *("value", "partial", "call", "function"),
)


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise _damaged("a list", found)
    return found


def _damaged(what: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"the architecture in the file is damaged: {what} was expected", got=format_short(found)
    )
