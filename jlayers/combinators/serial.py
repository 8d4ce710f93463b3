"""serial, parallel and branch: several layers in sequence or side by side.

How to read this file: each of the three is a body that calls the children, which
``of_layers`` makes a layer of; the merges (``merge.py``) use it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import name_children
from ..base.scope import Body, Scope, composite
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree


def _children_of(
    layers: Sequence[LayerOrFunction], named: Mapping[str, LayerOrFunction]
) -> dict[str, Layer]:
    # By number here: the kind, after which it is named, is known once it is a layer.
    positional = [lift_child(f"child {i}", layer) for i, layer in enumerate(layers)]
    return name_children(
        positional, {name: lift_child(name, layer) for name, layer in named.items()}
    )


def of_layers(
    body: Body,
    layers: Sequence[LayerOrFunction],
    named: Mapping[str, LayerOrFunction],
    again: Callable[..., Layer],
) -> Layer:
    """A composite of positional and named layers; ``again`` is the combinator that rebuilds it."""
    count = len(layers)

    def rebuild(new: dict[str, Layer]) -> Layer:
        # Positional children come first, as ``name_children`` ordered them.
        values = list(new.values())
        return again(*values[:count], **dict(list(new.items())[count:]))

    return composite(body, _children_of(layers, named), rebuild=rebuild)


@factory
def serial(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """Composition, left to right: each layer's output is the next one's input.

    Positional children are named after their kind (``dense``, ``dense_1``, ...), keyword children
    by their keyword and after the positional ones. Functions of one argument are layers too.
    ``serial()`` is the identity. The same layer object twice is two layers.

    Args:
      *layers: layers, or functions of one argument.
      **named: likewise, with names of their own.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(64), jax.nn.relu, head=jl.Dense(10))
    >>> model
    serial(Dense(64), jax.nn.relu, head=Dense(10))
    >>> params, state = model.init(jax.random.key(0), jl.spec((32, 784)))
    >>> jax.tree.map(lambda p: p.shape, params["head"])
    {'bias': (10,), 'kernel': (64, 10)}
    """

    def body(f: Scope, x: PyTree) -> PyTree:
        for name in f.children:
            x = f[name](x)
        return x

    return of_layers(body, layers, named, serial)._replace(_of_children=_serial_of)


def _serial_of(children: Mapping[str, Layer]) -> Layer:
    """A ``serial`` whose children have these names: by position as far as that gives the names."""
    layers = list(children.values())
    derived = list(name_children(layers[:1], {}))
    count = 0
    for i, name in enumerate(children):
        derived = list(name_children(layers[: i + 1], {}))
        if derived[-1] != name:
            break
        count = i + 1
    rest = list(children.items())[count:]
    return serial(*layers[:count], **dict(rest))


@factory
def parallel(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """The i-th layer on the i-th input: a tuple to a tuple, or a dict to a dict.

    Args:
      *layers: at least one; the input is a tuple with an array (or a tree) for each.
      **named: instead of ``layers``; the input is a dict with the same keys.

    Raises:
      LayerError: for no layers, for positional and named ones at once, and for an input with
        another number of entries or other keys.

    >>> import jlayers as jl
    >>> two = jl.parallel(jl.Dense(4), jl.Dense(2))
    >>> jl.out_spec(two, (jl.spec((8, 3)), jl.spec((8, 5))))[1].shape
    (8, 2)
    """
    _check_one_kind(layers, named)
    children = list(_children_of(layers, named))

    def body(f: Scope, x: PyTree) -> PyTree:
        if named:
            # By key and never by order: jit sorts the keys of a dict.
            if not isinstance(x, dict) or set(x) != set(children):
                raise LayerError(
                    "takes a dict with an input for each layer",
                    expected=f"keys {', '.join(children)}",
                    got=f"keys {', '.join(map(str, x))}"
                    if isinstance(x, dict)
                    else format_spec(specs_of(x)),
                )
            # In the order of the children: jit hands a dict over with sorted keys.
            return {name: f[name](x[name]) for name in children}
        if not isinstance(x, tuple | list) or len(x) != len(children):
            raise LayerError(
                "takes a tuple with one input for each layer",
                expected=f"{len(children)} inputs",
                got=f"{len(x)} inputs" if isinstance(x, tuple | list) else format_spec(specs_of(x)),
                hint="branch gives one input to every layer",
            )
        return tuple(f[name](item) for name, item in zip(children, x, strict=True))

    return of_layers(body, layers, named, parallel)


@factory
def branch(*layers: LayerOrFunction, **named: LayerOrFunction) -> Layer:
    """One input to every layer: a tuple of outputs, or a dict of them for named layers.

    Raises:
      LayerError: for no layers, and for positional and named ones at once.

    >>> import jax, jlayers as jl
    >>> fork = jl.branch(mean=jl.Dense(3), deviation=jl.serial(jl.Dense(3), jax.nn.softplus))
    >>> jl.out_spec(fork, jl.spec((8, 5)))["mean"].shape
    (8, 3)
    """
    _check_one_kind(layers, named)

    def body(f: Scope, x: PyTree) -> PyTree:
        if named:
            return {name: f[name](x) for name in f.children}
        return tuple(f[name](x) for name in f.children)

    return of_layers(body, layers, named, branch)


def _check_one_kind(
    layers: Sequence[LayerOrFunction], named: Mapping[str, LayerOrFunction]
) -> None:
    # Unlike serial(): no layers could be the identity or an empty tuple.
    if not layers and not named:
        raise LayerError("got no layers", expected="at least one")
    # The output would have to be a tuple and a dict.
    if layers and named:
        raise LayerError(
            "got positional and named layers at once",
            expected="all positional (tuples) or all named (dicts)",
        )
