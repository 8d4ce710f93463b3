"""Combinators: verbs that make one layer of several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import checks
from .compose import Body, Namespace, composite
from .compose import lift_child as _lift_child
from .errors import LayerError
from .layer import Layer, factory, lift
from .naming import name_children
from .specs import PyTree, show, specs_of


def _adopt(layers: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Layer]:
    positional = [_lift_child(f"child {i}", layer) for i, layer in enumerate(layers)]
    return name_children(
        positional, {name: _lift_child(name, layer) for name, layer in named.items()}
    )


def _composite(
    body: Body,
    layers: Sequence[Any],
    named: Mapping[str, Any],
    again: Callable[..., Layer],
) -> Layer:
    """A composite that is rebuilt by calling its maker ``again`` in the way it was called."""
    count = len(layers)

    def rebuild(new: dict[str, Layer]) -> Layer:
        values = list(new.values())
        return again(*values[:count], **dict(list(new.items())[count:]))

    return composite(body, _adopt(layers, named), rebuild=rebuild)


@factory
def serial(*layers: Any, **named: Any) -> Layer:
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

    def body(f: Namespace, x: PyTree) -> PyTree:
        for name in f.children:
            x = f[name](x)
        return x

    return _composite(body, layers, named, serial)


@factory
def parallel(*layers: Any, **named: Any) -> Layer:
    """The i-th layer on the i-th input: a tuple to a tuple, or a dict to a dict.

    Args:
      *layers: at least one layer; the input is a tuple of as many arrays (or trees).
      **named: in the place of ``layers``; the input is a dict with the same keys.

    Raises:
      LayerError: for no layers, for positional and named ones at once, and for an input with
        another number of entries or other keys.

    >>> import jlayers as jl
    >>> two = jl.parallel(jl.Dense(4), jl.Dense(2))
    >>> jl.out_spec(two, (jl.spec((8, 3)), jl.spec((8, 5))))[1].shape
    (8, 2)
    """
    _one_way(layers, named)
    children = list(_adopt(layers, named))

    def body(f: Namespace, x: PyTree) -> PyTree:
        if named:
            if not isinstance(x, dict) or set(x) != set(children):
                raise LayerError(
                    "takes a dict with an input for each layer",
                    expected=f"keys {', '.join(children)}",
                    got=f"keys {', '.join(map(str, x))}"
                    if isinstance(x, dict)
                    else show(specs_of(x)),
                )
            return {name: f[name](x[name]) for name in children}
        if not isinstance(x, tuple | list) or len(x) != len(children):
            raise LayerError(
                "takes a tuple with one input for each layer",
                expected=f"{len(children)} inputs",
                got=f"{len(x)} inputs" if isinstance(x, tuple | list) else show(specs_of(x)),
                mend="branch gives one input to every layer",
            )
        return tuple(f[name](item) for name, item in zip(children, x, strict=True))

    return _composite(body, layers, named, parallel)


@factory
def branch(*layers: Any, **named: Any) -> Layer:
    """One input to every layer: a tuple of outputs, or a dict of them for named layers.

    Raises:
      LayerError: for no layers, and for positional and named ones at once.

    >>> import jax, jlayers as jl
    >>> fork = jl.branch(mean=jl.Dense(3), deviation=jl.serial(jl.Dense(3), jax.nn.softplus))
    >>> jl.out_spec(fork, jl.spec((8, 5)))["mean"].shape
    (8, 3)
    """
    _one_way(layers, named)

    def body(f: Namespace, x: PyTree) -> PyTree:
        if named:
            return {name: f[name](x) for name in f.children}
        return tuple(f[name](x) for name in f.children)

    return _composite(body, layers, named, branch)


def _one_way(layers: Sequence[Any], named: Mapping[str, Any]) -> None:
    if not layers and not named:
        raise LayerError("got no layers", expected="at least one")
    if layers and named:
        raise LayerError(
            "got positional and named layers at once",
            expected="all positional (tuples) or all named (dicts)",
        )


def _outputs(f: Namespace, x: PyTree) -> dict[str, jax.Array]:
    """The output of each child for ``x``; the entries of ``x`` itself where there are none."""
    outputs = {name: f[name](x) for name in f.children}
    if not outputs:
        if not isinstance(x, tuple | list | dict) or not x:
            raise LayerError(
                "without layers takes a tuple or a dict of arrays", got=show(specs_of(x))
            )
        # In the order of the keys, the only one that a dict keeps through jit, remat and vmap.
        entries = {key: x[key] for key in sorted(x)} if isinstance(x, dict) else dict(enumerate(x))
        outputs = {f"input {name}": entry for name, entry in entries.items()}
    _arrays(outputs)
    return outputs


def _arrays(terms: Mapping[str, Any]) -> None:
    for term in terms.values():
        if not hasattr(term, "shape"):
            raise LayerError("merges arrays", got=_shown(terms))


def _shown(terms: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {show(term)}" for name, term in terms.items())


@factory
def concat(*layers: Any, axis: int = -1, **named: Any) -> Layer:
    """Every layer on the one input, the outputs concatenated along ``axis``.

    Without layers it merges a tuple of arrays that comes in, or a dict in the order of its keys.

    Raises:
      LayerError: where the outputs differ in rank, dtype or in a size off the axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.concat(jl.Dense(3), jl.Dense(4)), jl.spec((8, 5))).shape
    (8, 7)
    >>> jl.out_spec(jl.concat(), (jl.spec((8, 2)), jl.spec((8, 3)))).shape
    (8, 5)
    """
    axis = checks.integer("axis", axis)

    def body(f: Namespace, x: PyTree) -> jax.Array:
        named_outputs = _outputs(f, x)
        outputs = list(named_outputs.values())
        rank = outputs[0].ndim
        at = axis + rank if axis < 0 else axis
        if not 0 <= at < rank:
            raise LayerError(f"no axis {axis} in arrays of rank {rank}", got=_shown(named_outputs))
        sides = {(*o.shape[:at], None, *o.shape[at + 1 :]) for o in outputs}
        if len({(o.ndim, o.dtype) for o in outputs}) > 1 or len(sides) > 1:
            raise LayerError(
                f"arrays that do not fit side by side along axis {axis}",
                expected="one dtype, and equal sizes on all other axes",
                got=_shown(named_outputs),
            )
        return jnp.concatenate(outputs, axis)

    return _composite(body, layers, named, lambda *a, **k: concat(*a, axis=axis, **k))


def _merge(
    layers: Sequence[Any],
    named: Mapping[str, Any],
    again: Callable[..., Layer],
    pair: Callable[[jax.Array, jax.Array], jax.Array],
    finish: Callable[[jax.Array, int], jax.Array] = lambda total, count: total,
) -> Layer:
    def body(f: Namespace, x: PyTree) -> jax.Array:
        outputs = _outputs(f, x)
        _same(outputs)
        total = functools.reduce(pair, outputs.values())
        return finish(total, len(outputs))

    return _composite(body, layers, named, again)


def _same(terms: Mapping[str, jax.Array], mend: str | None = None) -> None:
    """No silent broadcast: elementwise merges want one shape and one dtype."""
    if len({(term.shape, term.dtype) for term in terms.values()}) > 1:
        raise LayerError(
            "merges arrays of one shape and dtype",
            got=_shown(terms),
            mend=mend,
        )


@factory
def add(*layers: Any, **named: Any) -> Layer:
    """The sum of every layer's output for the one input; without layers, of a tuple coming in.

    Raises:
      LayerError: where the outputs differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.add(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, add, jnp.add)


@factory
def multiply(*layers: Any, **named: Any) -> Layer:
    """The product of every layer's output, as ``add`` is the sum: gates, for instance.

    >>> import jax, jlayers as jl
    >>> gated = jl.multiply(jl.Dense(3), gate=jl.serial(jl.Dense(3), jax.nn.sigmoid))
    >>> jl.out_spec(gated, jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, multiply, jnp.multiply)


@factory
def average(*layers: Any, **named: Any) -> Layer:
    """The mean of every layer's output, as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.average(), (jl.spec((8, 3)), jl.spec((8, 3)))).shape
    (8, 3)
    """
    return _merge(layers, named, average, jnp.add, lambda total, count: total / count)


@factory
def maximum(*layers: Any, **named: Any) -> Layer:
    """The elementwise maximum of every layer's output (maxout), as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.maximum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, maximum, jnp.maximum)


@factory
def minimum(*layers: Any, **named: Any) -> Layer:
    """The elementwise minimum of every layer's output, as ``add`` is the sum.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.minimum(jl.Dense(3), jl.Dense(3)), jl.spec((8, 5))).shape
    (8, 3)
    """
    return _merge(layers, named, minimum, jnp.minimum)


@factory
def residual(layer: Any, shortcut: Any = None) -> Layer:
    """``x + layer(x)``, or ``shortcut(x) + layer(x)`` (He et al., 2015, arXiv:1512.03385).

    The children are named ``body`` and ``shortcut``.

    Raises:
      LayerError: where the two terms differ in shape or dtype.

    >>> import jlayers as jl
    >>> jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(8)))
    residual(serial(LayerNorm(), Dense(8)))
    """
    children = {"body": _lift_child("body", layer)}
    if shortcut is not None:
        children["shortcut"] = _lift_child("shortcut", shortcut)

    def body(f: Namespace, x: PyTree) -> jax.Array:
        y = f["body"](x)
        shortcut = f["shortcut"](x) if "shortcut" in children else x
        terms = {"shortcut": shortcut, "body": y}
        _arrays(terms)
        mend = "a shortcut to the shape of the body's output"
        if y.ndim and y.dtype == shortcut.dtype and y.shape[:-1] == shortcut.shape[:-1]:
            mend = f"residual(..., shortcut=Dense({y.shape[-1]}))"
        _same(terms, mend)
        total: jax.Array = shortcut + y
        return total

    return composite(body, children, rebuild=lambda new: residual(new["body"], new.get("shortcut")))


@factory
def bidirectional(layer: Any, merge: Any = None, *, backward: Any = None) -> Layer:
    """``layer`` forwards and a second copy backwards in time, merged.

    The backward copy reads the steps in reverse order; its outputs are put back into the order
    of the input. The children are named ``forward`` and ``backward``; an output of rank 2 is the
    last step's, one of rank 3 and up is a sequence (batch, time, ...).

    Args:
      layer: a layer on sequences, (batch, time, ...).
      merge: a layer on the pair (forward, backward); ``concat()`` along the features by default.
        ``serial()`` keeps the pair.
      backward: the layer that reads backwards, where it is not a copy of ``layer``.

    >>> import jlayers as jl
    >>> both = jl.bidirectional(jl.LSTM(16))
    >>> jl.out_spec(both, jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    layer = _lift_child("forward", layer)
    children = {
        "forward": layer,
        "backward": layer if backward is None else _lift_child("backward", backward),
        "merge": concat() if merge is None else _lift_child("merge", merge),
    }

    def body(f: Namespace, x: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(x):
            if jnp.ndim(leaf) < 2:
                raise LayerError(
                    "takes sequences", expected="(batch, time, ...)", got=show(specs_of(x))
                )
        ahead = f["forward"](x)
        behind = f["backward"](jax.tree.map(_reverse_time, x))
        behind = jax.tree.map(lambda y: _reverse_time(y) if y.ndim > 2 else y, behind)
        return f["merge"]((ahead, behind))

    return composite(
        body,
        children,
        rebuild=lambda new: bidirectional(new["forward"], new["merge"], backward=new["backward"]),
    )


def _reverse_time(x: jax.Array) -> jax.Array:
    return jnp.flip(x, 1)


@factory
def each_step(layer: Any) -> Layer:
    """``layer`` on every step of a sequence: (batch, time, ...) to (batch, time, ...).

    The steps are folded into the batch, so that the layer runs once. Transparent: parameters and
    name are the layer's own. Keras calls it ``TimeDistributed``.

    >>> import jlayers as jl
    >>> frames = jl.spec((2, 5, 16, 16, 3))
    >>> jl.out_spec(jl.each_step(jl.Conv(8, 3)), frames).shape
    (2, 5, 14, 14, 8)
    """
    layer = lift(layer)

    def body(f: Namespace, x: PyTree) -> PyTree:
        leads = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x)}
        if len(leads) != 1 or len(next(iter(leads))) != 2:
            raise LayerError(
                "takes sequences",
                expected="(batch, time, ...) with one batch and time for all inputs",
                got=show(specs_of(x)),
            )
        (lead,) = leads
        folded = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)
        y = f[""](folded)
        for leaf in jax.tree.leaves(y):
            if jnp.shape(leaf)[:1] != (lead[0] * lead[1],):
                raise LayerError(
                    "the layer under each_step does not keep its batch axis",
                    expected=f"{lead[0] * lead[1]} rows",
                    got=show(specs_of(y)),
                )
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), y)

    return composite(body, {"": layer}, name=layer.kind, rebuild=lambda new: each_step(new[""]))
