"""Marks on layers, by which the converter finds them again in the traced program.

A layer for which there may be operators is called through ``jax.jit`` under a name of its own:
the jaxpr then has one equation for the call. The converter asks the layer's emitter, and looks
into the equation where that gives None.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from ....base.layer import Layer
from ....base.types import Key, Params, PyTree, State
from ....layers.conv.conv import Conv
from ....layers.conv.conv_transpose import ConvTranspose
from ..call import Call, Emitted
from ..converter import Operator
from ..values import Value


@dataclass(frozen=True)
class Operand:
    """An array that a layer was given.

    Attributes:
      value: what it is in the graph.
      aval: its spec.
    """

    value: Value
    aval: Any

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.aval.shape)


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer.

    Attributes:
      call: the equation, with the graph.
      options: the arguments that the layer was built with, defaults included.
      params, state: operands by name.
      x: the input's tree, of operands.
      children: of the layer.
      opset: the version of ONNX's operators.
    """

    call: Call
    options: Mapping[str, Any]
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    x: Any
    children: Mapping[str, Layer]
    opset: int


LayerEmitter = Callable[[LayerCall], Emitted | None]
# By the factory that built the layer, so that a user's own ``LSTM`` is not taken for ours.
LAYERS: dict[Callable[..., Layer], LayerEmitter] = {}
# Layers whose primitive is an operator, unless another algorithm is faster in XLA.
_METHODS = {Conv: "direct", ConvTranspose: "direct"}


def writes(*factories: Callable[..., Layer]) -> Callable[[LayerEmitter], LayerEmitter]:
    """Registers an emitter for the layers of factories."""

    def register(emitter: LayerEmitter) -> LayerEmitter:
        LAYERS.update(dict.fromkeys(factories, emitter))
        return emitter

    return register


class Marks:
    """The calls of one model's layers.

    Args:
      opset: the version of ONNX's operators.

    Attributes:
      operators: by the names of the calls.
    """

    def __init__(self, opset: int):
        self.opset = opset
        self.operators: dict[str, Operator] = {}

    def mark(self, layer: Layer) -> Layer:
        """The same layer, with those inside it marked."""
        children = {name: self.mark(child) for name, child in layer.children.items()}
        if any(children[name] is not child for name, child in layer.children.items()):
            layer = layer.rebuild(children)._replace(_call=layer._call)
        factory: Any = layer._call.make
        given = layer._call.checked
        if factory in _METHODS:
            plain: Layer = factory(**{**given, "method": _METHODS[factory]})
            return plain._replace(kind=layer.kind, site=layer.site)
        emitter = LAYERS.get(factory)
        return layer if emitter is None else self._marked(layer, factory, given, emitter)

    def _marked(self, layer: Layer, factory: Any, given: Any, emitter: LayerEmitter) -> Layer:
        bound = inspect.signature(factory).bind_partial()
        bound.apply_defaults()
        options = bound.arguments | given

        def wrap(function: Callable[..., tuple[PyTree, State]]) -> Any:
            def apply(
                params: Params, state: State, x: PyTree, *, key: Key, train: bool
            ) -> tuple[PyTree, State]:
                leaves, treedef = jax.tree.flatten((params, state, x))

                def run(*leaves: jax.Array) -> PyTree:
                    args = jax.tree.unflatten(treedef, leaves)
                    return function(*args, key=key, train=train)[0]

                run.__name__ = f"jlayers_{layer.kind}_{len(self.operators)}"
                shapes = [tuple(leaf.shape) for leaf in leaves]
                self.operators[run.__name__] = functools.partial(
                    self._write, emitter, layer, options, treedef, shapes
                )
                return jax.jit(run)(*leaves), state

            return apply

        return layer._replace(
            _apply=wrap(layer._apply), _apply_to_array=wrap(layer._apply_to_array)
        )

    def _write(
        self,
        emitter: LayerEmitter,
        layer: Layer,
        options: Mapping[str, Any],
        treedef: Any,
        shapes: list[tuple[Any, ...]],
        call: Call,
    ) -> Emitted | None:
        # Constants of the function may come before its arguments.
        first = len(call.values) - len(shapes)
        if first < 0 or [call.shape(first + i) for i in range(len(shapes))] != shapes:
            # Under vmap the call has axes of which the layer knows nothing.
            return None
        operands = [
            Operand(value, aval)
            for value, aval in zip(call.values[first:], call.avals[first:], strict=True)
        ]
        params, state, x = jax.tree.unflatten(treedef, operands)
        return emitter(LayerCall(call, options, params, state, x, layer.children, self.opset))
