"""compose: any wiring of layers, and custom layers, written once for init and apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..base import arguments
from ..base.constructors import lift_child
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.naming import check_name, child_key, merge_entry
from ..base.parameters import make
from ..base.scope import ApplyScope, InitScope
from ..base.sequence_mode import SequenceMode
from ..base.specs import Params, PyTree, State
from ..base.step_pair import StepPair
from ..base.tracing import Trace, init_child, trace
from ..sequences.array_bodies import taking_sequences
from ..sequences.streaming import Body, stream_of_body

_RESERVED = ("children", "key", "param", "train", "variable")


def composite(
    body: Body,
    children: Mapping[str, Layer],
    *,
    name: str | None = None,
    rebuild: Callable[[dict[str, Layer]], Layer],
    each_step: bool = False,
    unstreamed: str | None = None,
) -> Layer:
    """A layer from a body and its named children: what ``compose`` and the combinators are.

    A single child named ``""`` is transparent: its parameters are the layer's own.

    Args:
      body: a function of the namespace and the input.
      children: by name.
      name: the kind.
      rebuild: the same around other children.
      each_step: whether the steps of a sequence do not meet in it, whatever the children do.
      unstreamed: why it cannot be streamed, if not for its children.
    """
    stream: StepPair | str | None = unstreamed
    if unstreamed is None and not each_step:
        stream = stream_of_body(body, children, lambda: layer)

    def abstract(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        f = InitScope(children, x, key)
        y = body(f, x)
        return f.found(), y

    def init(key: Any, x: PyTree) -> tuple[Params, State]:
        found = trace(layer, x)
        params: Params = {}
        state: State = {}
        for child_name, child in children.items():
            with error_context(child, child_name):
                made = init_child(child, child_key(key, child_name), found.inputs[child_name][0])
            for tree, entry in zip((params, state), made, strict=True):
                if entry:
                    merge_entry(tree, child_name, entry)
        for tree, declared in ((params, found.params_declared), (state, found.state_declared)):
            for own, wanted in declared.items():
                tree[own] = make(key, own, *wanted)
        return params, state

    def apply(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        f = ApplyScope(children, params, state, x, key, train)
        y = body(f, x)
        return y, f.next_state() if train else state

    layer = Layer(
        init,
        apply,
        name=name,
        children=children,
        rebuild=rebuild,
        abstract=abstract,
        by_path=True,
        sequence_mode=SequenceMode.DELEGATE,
        stream=stream,
    )
    return layer


@factory
def compose(body: Body, /, *, name: str | None = None, **children: Any) -> Layer:
    """Any wiring of layers, or a layer of one's own, as one function.

    ``body(f, x)`` serves ``init`` and ``apply``. At init it runs on abstract values, so each
    child's input is known and nothing is computed; Python's ``if`` on shapes is fine, on values
    it is not.

    Args:
      body: a function of the namespace ``f`` and the input ``x``. ``f.child(x)`` calls a child,
        ``f.param(name, init, shape)`` is a parameter, ``f.variable(name, init, shape)`` a value
        in the state, ``f.key()`` a fresh random key, ``f.train`` whether this is training.
      name: what a parent names the layer after; by default ``compose``, or the ``factory``.
      **children: layers, or functions of one argument, by name.

    Returns:
      A ``Layer`` with the children's parameters under their names.

    Raises:
      LayerError: for a child that is no layer or has a name that ``f`` uses itself.

    >>> import jax, jlayers as jl
    >>> def body(f, x):
    ...     hidden = jax.nn.relu(f.encode(x))
    ...     gain = f.param("gain", jax.nn.initializers.ones, ())
    ...     return x + gain * f.decode(hidden)
    >>> layer = jl.compose(body, encode=jl.Dense(8), decode=jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((5, 3)))
    >>> sorted(params)
    ['decode', 'encode', 'gain']
    """
    if isinstance(body, Layer):
        raise LayerError(f"the body must be a function of (f, x), got {body.short()}")
    arguments.function("the body", body, "f, x")
    for child in children:
        if child in _RESERVED or child.startswith("_"):
            raise LayerError(f"no child can be named {child!r}: f.{child} is the namespace's own")
        check_name(child)
    layers = {child: lift_child(child, layer) for child, layer in children.items()}
    whole = taking_sequences(body, layers)
    return composite(whole, layers, name=name, rebuild=lambda new: compose(body, name=name, **new))
