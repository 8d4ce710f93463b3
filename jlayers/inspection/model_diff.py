"""diff: what differs between two models, by path.

How to read this file: ``_differences`` walks both descriptions side by side, ``_arguments``
compares the calls that built two layers, ``_same`` two values; ``_arrays`` compares the tables of
parameters for an input.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import public_api
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import join
from ..base.specs import format_short, format_spec
from ..base.tracing import trace
from ..base.types import PyTree
from .traverse import walk

_MODEL = "(model)"
_ABSENT = object()


class Difference(NamedTuple):
    """One difference between two models.

    Attributes:
      path: of the layer, or of the array; empty for the model itself.
      what: ``"only in a"``, ``"only in b"``, ``"layer"``, ``"order"`` (of its children),
        ``"array"``, or the name of an argument.
      a, b: texts of both sides; None where there is none.
    """

    path: str
    what: str
    a: str | None
    b: str | None

    def __str__(self) -> str:
        sides = [side for side in (self.a, self.b) if side is not None]
        named = self.what not in ("only in a", "only in b", "layer", "array")
        return (f"{self.what} " if named else "") + " -> ".join(sides)


@dataclasses.dataclass(frozen=True, repr=False)
class ModelDiff:
    """The differences between two models; false where there are none.

    Its text has a line for each: ``-`` is only in a, ``+`` only in b, ``~`` differs.

    Attributes:
      rows: in the order of the models, layers before arrays.
    """

    rows: tuple[Difference, ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.rows)

    def __str__(self) -> str:
        marked = [(_mark(row), row.path or _MODEL, str(row)) for row in self.rows]
        width = max((len(path) for _, path, _ in marked), default=0)
        lines = [f"{mark} {path:<{width}}  {text}" for mark, path, text in marked]
        return "\n".join(lines) or "no differences"

    def __repr__(self) -> str:
        return str(self)


def _mark(row: Difference) -> str:
    if row.a is not None and row.b is not None:
        return "~"
    return "-" if row.b is None else "+"


@public_api
def diff(a: LayerOrFunction, b: LayerOrFunction, x: PyTree = None) -> ModelDiff:
    """What differs between two models: layers, arguments, and with ``x`` shapes of arrays.

    Layers are compared by their paths and the calls that built them, functions by their code and
    what they hold. Nothing is computed.

    Args:
      a, b: models.
      x: arrays or specs, an input of both: then the arrays of parameters and state are compared.

    Returns:
      A ``ModelDiff``, false where the models are alike.

    Raises:
      LayerError: where ``x`` does not fit one of the models.

    >>> import jlayers as jl
    >>> old = jl.serial(jl.Dense(64), jl.Dropout(0.1), head=jl.Dense(10))
    >>> new = jl.serial(jl.Dense(128), jl.LayerNorm(), head=jl.Dense(10))
    >>> jl.diff(old, new, jl.spec((8, 4)))
    ~ dense             features 64 -> 128
    - dropout           Dropout(0.1)
    + layer_norm        LayerNorm()
    ~ dense/kernel      float32[4, 64] -> float32[4, 128]
    ~ dense/bias        float32[64] -> float32[128]
    ~ head/kernel       float32[64, 10] -> float32[128, 10]
    + layer_norm/scale  float32[128]
    + layer_norm/bias   float32[128]
    >>> bool(jl.diff(old, old.replace()))
    False
    """
    first, second = lift(a), lift(b)
    rows = list(_differences(first, second))
    if x is not None:
        one, other = trace(first, x), trace(second, x)
        rows += _arrays(one.parameters, other.parameters)
        rows += _arrays(one.variables, other.variables)
    return ModelDiff(tuple(rows))


def _differences(a: Layer, b: Layer) -> Iterator[Difference]:
    ours, theirs = map(_by_path, _walks(a, b))
    done: set[str] = set()
    for path in dict.fromkeys([*ours, *theirs]):
        # What is inside is part of the layer that was shown.
        if any(path.startswith(f"{shown}/") for shown in done):
            continue
        if path not in theirs:
            done.add(path)
            yield Difference(path, "only in a", ours[path][0].short(), None)
        elif path not in ours:
            done.add(path)
            yield Difference(path, "only in b", None, theirs[path][0].short())
        else:
            rows = list(_at_path(path, ours[path], theirs[path]))
            # Of two different layers, one without layers inside, nothing inside can be compared.
            alike = all(layers[-1].children for layers in (ours[path], theirs[path]))
            if not alike and any(row.what == "layer" for row in rows):
                done.add(path)
            yield from rows


def _by_path(layers: Iterable[tuple[str, Layer]]) -> dict[str, list[Layer]]:
    """The layers at each path, wrappers before what is inside them."""
    found: dict[str, list[Layer]] = {}
    for path, layer in layers:
        found.setdefault(path, []).append(layer)
    return found


def _walks(*models: Layer) -> list[list[tuple[str, Layer]]]:
    """The layers of each model by path, as its factories were given them where that is known."""
    walks = [list(_as_given(model, "")) for model in models]
    makers: tuple[set[str], set[str]] = (set(), set())
    for _, layer in itertools.chain(*walks):
        makers[_given_layer(layer) is None].add(layer.maker)
    # One that was edited since has its wrappers alone, and so they are compared.
    return [list(walk(model)) for model in models] if makers[0] & makers[1] else walks


def _as_given(layer: Layer, path: str) -> Iterator[tuple[str, Layer]]:
    """``walk``, but for what a factory put around layers inside the one that it was given."""
    yield path, layer
    given = _given_layer(layer)
    for name, child in (layer.children if given is None else {"": given}).items():
        yield from _as_given(child, join(path, name))


def _given_layer(layer: Layer) -> Layer | None:
    """The layer that a factory such as ``precision`` built again, with wrappers inside."""
    given = layer.args.get("layer") if [*layer.children] == [""] else None
    if not isinstance(given, Layer) or given is layer.children[""]:
        return None
    # Another factory may have put it somewhere else.
    paths = [dict.fromkeys(path for path, _ in walk(each)) for each in (given, layer)]
    return given if paths[0] == paths[1] else None


def _at_path(path: str, ours: list[Layer], theirs: list[Layer]) -> Iterator[Difference]:
    makers = [layer.maker for layer in ours], [layer.maker for layer in theirs]
    matcher = difflib.SequenceMatcher(None, *makers, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            for one, other in zip(ours[i:i_end], theirs[j:j_end], strict=True):
                yield from _arguments(path, one, other)
            continue
        pairs = zip(ours[i:i_end], theirs[j:j_end], strict=False)
        count = min(i_end - i, j_end - j)
        for one, other in pairs:
            yield Difference(path, "layer", one.short(), other.short())
        for one in ours[i + count : i_end]:
            yield Difference(path, "only in a", f"in {_around(one)}", None)
        for other in theirs[j + count : j_end]:
            yield Difference(path, "only in b", None, f"in {_around(other)}")


def _around(layer: Layer) -> str:
    """The text of a wrapper: of one with wrappers inside, its arguments without the layer."""
    if _given_layer(layer) is None:
        return layer.short()
    others = {name: value for name, value in _given(layer).items() if name != "layer"}
    return f"{layer.maker}({', '.join(f'{n}={format_short(v)}' for n, v in others.items())})"


def _arguments(path: str, a: Layer, b: Layer) -> Iterator[Difference]:
    """The arguments in which two layers of one maker differ, children apart."""
    ours, theirs = _given(a), _given(b)
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name, _ABSENT), theirs.get(name, _ABSENT)
        if not _same(one, other):
            yield Difference(path, name, _text(one), _text(other))
    common = [name for name in a.children if name in b.children]
    order = [name for name in b.children if name in a.children]
    if common != order:
        yield Difference(path, "order", ", ".join(common), ", ".join(order))


def _given(layer: Layer) -> dict[str, Any]:
    found = layer.args
    if not found:
        # A plain function, or a layer written by hand: what it was called with.
        names = ("init", "apply") if len(layer._call.args) > 1 else ("function",)
        found = {**dict(zip(names, layer._call.args, strict=False)), **layer._call.kwargs}
    given = _given_layer(layer)
    inside = set() if given is None else {id(given)}
    for child in layer.children.values():
        inside.add(id(child))
        # A function that was lifted is a child, too.
        inside.update(map(id, child._call.args[:1] if not child.args else ()))
    return {name: _without(value, inside) for name, value in found.items() if name != "rebuild"}


def _without(value: Any, inside: set[int]) -> Any:
    if id(value) in inside:
        return None
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_without(item, inside) for item in value if id(item) not in inside)
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if id(item) not in inside}
    return value


def _text(value: Any) -> str:
    return "not given" if value is _ABSENT else format_short(value)


def _same(a: Any, b: Any, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether two arguments are alike: values by value, functions by code and what they hold."""
    if a is b or (id(a), id(b)) in seen:
        return True

    def alike(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
        # A function may hold itself.
        within = seen | {(id(a), id(b))}
        pairs = zip(ours, theirs, strict=True)
        return all(_same(one, other, within) for one, other in pairs)

    if isinstance(a, Layer) and isinstance(b, Layer):
        return next(_differences(a, b), None) is None
    if isinstance(a, np.ndarray | jax.Array) and isinstance(b, np.ndarray | jax.Array):
        return bool(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and alike(a.values(), (b[key] for key in a))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and alike(a, b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isinstance(a, bool) == isinstance(b, bool) and a == b
    if type(a) is not type(b):
        return False
    if inspect.isfunction(a):
        return bool(a.__code__ == b.__code__) and alike(_held(a), _held(b))
    if isinstance(a, functools.partial):
        return alike((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        names = [field.name for field in dataclasses.fields(a)]
        return alike((getattr(a, n) for n in names), (getattr(b, n) for n in names))
    # An object that says nothing of equality is equal only to itself.
    return bool(a == b)


def _held(function: Any) -> tuple[Any, ...]:
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a variable that is not bound yet
            held.append(None)
    return held, function.__defaults__, function.__kwdefaults__


def _arrays(a: Mapping[str, ParamSpec], b: Mapping[str, ParamSpec]) -> Iterator[Difference]:
    for path in dict.fromkeys([*a, *b]):
        one, other = (None if path not in table else format_spec(table[path]) for table in (a, b))
        if one != other:
            yield Difference(path, "array", one, other)
