"""What a layer was built with, and the same layer with other arguments; layers inside a layer.

How to read this file: ``Editable`` has the public methods of every ``Layer``; ``_with_arguments``
calls the factory again, and ``_at``, ``_number`` and ``_part`` find what ``layer[...]`` asks for.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from .description import Call
from .errors import LayerError, error_context, public_api
from .paths import join
from .specs import format_short

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Editable:
    """The part of ``Layer`` that tells its arguments, and gives other layers."""

    __slots__ = ()
    kind: str
    maker: str
    site: str
    children: Mapping[str, Any]
    copies: int
    short: Callable[[], str]
    rebuild: Callable[..., Any]
    _call: Call
    _of_children: Callable[[dict[str, Any]], Any] | None
    _replace: Callable[..., Any]

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments that it was built with, by name: read-only, defaults among them.

        Layers given by position or by keyword are under the names in the signature: ``layers`` and
        ``named`` for ``serial``. A ``Layer(init, apply)`` and a plain function have none.

        >>> import jlayers as jl
        >>> jl.Dropout(0.5).args["rate"], jl.Dense(64).args["bias"]
        (0.5, True)
        """
        bound = _bound(self._call)
        if bound is None:
            return MappingProxyType({})
        bound.apply_defaults()
        return MappingProxyType(
            {
                name: MappingProxyType(value) if _is_keywords(bound, name) else value
                for name, value in bound.arguments.items()
            }
        )

    @public_api
    def replace(self, /, **changes: Any) -> Self:
        """The same layer with other arguments, or with other layers in place of its children.

        It is built again by its factory, which checks the arguments, and keeps its name in the
        parent. A child that was given by position is replaced by its name: ``dense_1=...``.

        Args:
          **changes: arguments by name, as in ``args``, and children by name.

        Raises:
          LayerError: for a name that is neither, and whatever the factory refuses.

        >>> import jlayers as jl
        >>> jl.Dense(64, bias=False).replace(features=128)
        Dense(128, bias=False)
        >>> jl.serial(jl.Dense(64), head=jl.Dense(10)).replace(head=jl.Dense(3))
        serial(Dense(64), head=Dense(3))
        """
        with error_context(self):
            bound = _bound(self._call)
            known = [] if bound is None else _replaceable(bound)
            unknown = [name for name in changes if name not in {*known, *self.children} - {""}]
            if unknown:
                raise _unknown(self, known, unknown, changes)
            layers = {name: changes[name] for name in changes if name in self.children}
            others = {name: value for name, value in changes.items() if name not in layers}
        made: Any = self
        # The arguments first: they may decide which children there are. Without changes too, so
        # that the result is always a layer of its own.
        if bound is not None and (others or not layers):
            made = _with_arguments(self, bound, others)
        if layers:
            with error_context(made):
                # Other arguments may give other children.
                if gone := [name for name in layers if name not in made.children]:
                    raise _unknown(made, known, gone, layers)
                made = made.rebuild({**made.children, **_in_place(made, layers)})
        kind = made.kind if "name" in others else self.kind
        return made._replace(kind=kind)  # type: ignore[no-any-return]

    @public_api
    def __getitem__(self, where: str | int | slice) -> Self:
        """A layer inside: by path (``"encoder/attend"``), by number, or a slice of a ``serial``.

        Names are kept, also in a slice, so that the parameters under these names fit. Of a wrapper
        and the layer inside it, which have one path, it is the wrapper. A slice may go from name to
        name; its end is left out: ``model[:"head"]`` is all before the head.

        Raises:
          LayerError: for what is not there, with what is.

        >>> import jlayers as jl
        >>> model = jl.serial(jl.Dense(64), jl.Dropout(0.5), jl.Dense(64), head=jl.Dense(10))
        >>> model["head"], model[-1], model[:2]
        (Dense(10), Dense(10), serial(Dense(64), Dropout(0.5)))
        >>> model[2:]
        serial(dense_1=Dense(64), head=Dense(10))
        """
        with error_context(self):
            if isinstance(where, str):
                return _at(self, where)  # type: ignore[no-any-return]
            if isinstance(where, slice):
                return _part(self, where)  # type: ignore[no-any-return]
            try:
                number = operator.index(where)
            except TypeError:
                number = None
            if number is None or isinstance(where, bool):
                raise LayerError(
                    "a layer inside is found by a path, a number or a slice",
                    got=format_short(where),
                )
            return _number(self, number)  # type: ignore[no-any-return]

    # Without it Python would look for the path in ``init, apply``, and not find it.
    @public_api
    def __contains__(self, path: object) -> bool:
        """Whether there is a layer at that path: ``"encoder/attend" in model``."""
        with error_context(self):
            if not isinstance(path, str):
                raise LayerError("a layer inside is found by its path", got=format_short(path))
            return path == "" or path in _paths(self)

    if not TYPE_CHECKING:  # mypy shall not take every name for one that exists

        def __getattr__(self, name: str) -> Any:
            text = f"a Layer has no attribute {name!r}"
            # Python and its tools ask for many names of the first kind.
            if not name.startswith("_"):
                from .answers_surgery import OF_A_LAYER

                if name in OF_A_LAYER:
                    raise AttributeError(f"{text}\n  hint:     {OF_A_LAYER[name]}", name=name)
            raise AttributeError(text, name=name, obj=self)


def _bound(call: Call) -> inspect.BoundArguments | None:
    """The call of a factory with its arguments by name; None where it was another function."""
    if not getattr(call.make, "__jlayers_factory__", False):
        return None
    return inspect.signature(call.make).bind(*call.args, **call.kwargs)


def _is_keywords(bound: inspect.BoundArguments, name: str) -> bool:
    return bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD


def _replaceable(bound: inspect.BoundArguments) -> list[str]:
    """The names of all arguments, those given beyond the signature among them."""
    names = list(bound.signature.parameters)
    for name in list(names):
        if _is_keywords(bound, name):
            names += bound.arguments.get(name, {})
    return names


def _with_arguments(layer: Editable, bound: inspect.BoundArguments, changes: dict[str, Any]) -> Any:
    """The layer of the same factory, called with other arguments."""
    arguments = dict(bound.arguments)
    for name, value in changes.items():
        parameter = bound.signature.parameters.get(name)
        if parameter is None:
            keywords = next(one for one in arguments if _is_keywords(bound, one))
            arguments[keywords] = {**arguments[keywords], name: value}
            continue
        several = parameter.kind is _VARIADIC[0] and not isinstance(value, tuple | list)
        if several or (parameter.kind is _VARIADIC[1] and not isinstance(value, Mapping)):
            with error_context(layer):
                raise LayerError(
                    f"{name} must be all of them, {format_short(arguments.get(name, ()))}",
                    got=format_short(value),
                )
        arguments[name] = value
    # In the order of the signature, by which positions are known.
    ordered = {name: arguments[name] for name in bound.signature.parameters if name in arguments}
    call = inspect.BoundArguments(bound.signature, ordered)
    return layer._call.make(*call.args, **call.kwargs)


def _in_place(layer: Editable, layers: dict[str, Any]) -> dict[str, Any]:
    """New children with the kinds of those that they replace."""
    for name, new in layers.items():
        if not isinstance(new, Editable):
            # Lifting functions is for the combinators, which are above this module.
            raise LayerError(
                f"the child {name!r} must be a layer, got {format_short(new)}",
                hint="jl.lift(function)" if callable(new) else None,
            )
    # Keeping the kind keeps the name that the parent derives from it.
    return {name: new._replace(kind=layer.children[name].kind) for name, new in layers.items()}


def _unknown(
    layer: Editable, known: list[str], unknown: list[str], changes: Mapping[str, Any]
) -> LayerError:
    inside = [name for name in layer.children if name and name not in known]
    if not known and not inside:
        return LayerError(
            "was not built by a factory, and has no arguments that could be replaced",
            hint="jl.factory on the function that builds it; jl.rewrite for another layer",
        )
    parts = [("arguments", known), ("children", inside)]
    words = ", ".join(map(repr, unknown))
    return LayerError(
        f"has no argument {words}" + (" and no such child" if inside else ""),
        expected="; ".join(f"{what} {', '.join(names)}" for what, names in parts if names),
        hint=_meant(layer, unknown[0], [*known, *inside], changes),
    )


def _meant(layer: Editable, word: str, names: list[str], changes: Mapping[str, Any]) -> str | None:
    """The name that was meant: a word of another library, or one that is spelt alike."""
    from .unknown import misfit

    bound = _bound(layer._call)
    if bound is not None:
        plain = [p for p in bound.signature.parameters.values() if p.kind not in _VARIADIC]
        found = misfit(layer.maker, inspect.Signature(plain), (), {word: changes[word]})
        if found is not None and found.hint is not None:
            return found.hint
    return _close(word, names)


def _close(word: str, names: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else None


def _named(layer: Any) -> dict[str, Any]:
    """The children that have names, through wrappers, which have none."""
    while list(layer.children) == [""]:
        layer = layer.children[""]
    return {name: child for name, child in layer.children.items() if name}


def _at(layer: Any, path: str) -> Any:
    found, done = layer, ""
    for name in path.split("/") if path else []:
        children = _named(found)
        if name not in children:
            raise LayerError(
                f"has no layer {path!r} inside",
                got=f"{done or 'inside'}: {', '.join(children) or 'no layers'}",
                hint=_elsewhere(layer, path, join(done, name)),
            )
        found, done = children[name], join(done, name)
    return found


def _elsewhere(layer: Any, path: str, missing: str) -> str | None:
    if any(c in path for c in "*?[!"):
        return f"jl.select_layers(model, {path!r}) for a pattern"
    paths = list(_paths(layer))
    last = path.rpartition("/")[2]
    if ends := [one for one in paths if one.rpartition("/")[2] == last]:
        return f"there is {ends[0]!r}"
    return _close(path, paths) or _close(missing, paths)


def _paths(layer: Any, path: str = "") -> Iterable[str]:
    for name, child in _named(layer).items():
        yield join(path, name)
        yield from _paths(child, join(path, name))


def _number(layer: Any, number: int) -> Any:
    children = list(layer.children.values())
    if "" in layer.children:
        raise _wrapped(layer, str(number))
    if not -len(children) <= number < len(children):
        raise LayerError(
            f"has no layer {number}: it has {len(children)}",
            got=", ".join(layer.children) or "no layers inside",
        )
    return children[number]


def _part(layer: Any, where: slice) -> Any:
    names = list(layer.children)
    if layer._of_children is None:
        if "" in names:
            raise _wrapped(layer, ":")
        raise LayerError(
            "cannot be sliced: its layers are not one after the other",
            expected="a serial",
            got=", ".join(names) or "no layers inside",
            hint=f"by its name or its number: layer[{names[0]!r}]" if names else None,
        )
    start, stop = (_place(layer, names, end) for end in (where.start, where.stop))
    try:
        kept = names[slice(start, stop, where.step)]
    except (TypeError, ValueError) as error:
        raise LayerError(f"cannot be sliced: {error}", got=format_short(where)) from None
    return layer._of_children({name: layer.children[name] for name in kept})


def _place(layer: Any, names: list[str], end: Any) -> Any:
    if not isinstance(end, str):
        return end
    if end not in names:
        raise LayerError(
            f"has no layer {end!r} inside", got=", ".join(names), hint=_close(end, names)
        )
    return names.index(end)


def _wrapped(layer: Any, what: str) -> LayerError:
    """The error for a wrapper, of which a part would not be what it is around all."""
    inner = layer.children[""].short()
    if layer.copies > 1:
        return LayerError(
            f"has {layer.copies} copies of one layer, which cannot be taken one by one",
            got=inner,
            hint=f"layer.replace(n=...) for another number; layer.children[''][{what}] inside one",
        )
    return LayerError(
        "wraps a layer, and has no others that could be taken",
        got=inner,
        hint=f"layer.children[''][{what}] for a part of that layer, without the wrapper",
    )
