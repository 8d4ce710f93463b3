"""A Keras model: the ``call`` of all layers inside it is wrapped for one run.

A sub-model with every layer's output would reach the layers of functional models alone, and none
inside a wrapper or a nested model. A layer with an activation of its own (``Dense(8, "relu")``)
is two here: what it gives to the activation has its name, and its output that of both.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...base.types import PyTree
from .base import Given, Reference, named, needed, outputs

_SEEDS = itertools.count()


def _takes(reference: object) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(reference, keras.Layer)


def _run(model: Any, inputs: PyTree) -> list[Given]:
    keras = needed("keras", "a Keras model")
    given: list[Given] = []
    # What activations of layers took, in the call that runs.
    before: dict[str, list[tuple[str, np.ndarray]]] = {}

    def call_of(name: str, layer: Any) -> Callable[..., Any]:
        call, kind = layer.call, type(layer).__name__

        @functools.wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before.pop(name, None)
            output = call(*args, **kwargs)
            value = _first(output, keras)
            if value is not None:
                inputs = before.pop(name, [])
                if len(inputs) == 1 and inputs[0][1].shape == value.shape:
                    (function, array) = inputs[0]
                    given.append(Given(name, kind, array))
                    given.append(Given(f"{name}:{function}", function, value))
                else:
                    given.append(Given(name, kind, value))
            return output

        return wrapped

    def activation_of(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(x: Any, *args: Any, **kwargs: Any) -> Any:
            if (value := _first(x, keras)) is not None:
                before.setdefault(name, []).append((function.__name__, value))
            return function(x, *args, **kwargs)

        return wrapped

    layers = dict(_layers(model, keras, "", set()))
    functions = {
        name: function
        for name, layer in layers.items()
        if inspect.isfunction(function := layer.__dict__.get("activation"))
        and function is not keras.activations.linear
    }
    # Statistics, counters and the states of random numbers.
    variables = [(v, keras.ops.copy(v.value)) for v in model.non_trainable_variables]
    try:
        # Past Keras's own __setattr__, which tracks what is set.
        for name, layer in layers.items():
            layer.__dict__["call"] = call_of(name, layer)
        for name, function in functions.items():
            layers[name].__dict__["activation"] = activation_of(name, function)
        for variable, kept in variables:
            # Of its random numbers: two runs show whether they are used.
            if variable.name == "seed_generator_state":
                variable.assign(kept + next(_SEEDS))
        as_list = list(inputs) if isinstance(inputs, tuple) else inputs
        output = model(as_list, training=False)
    finally:
        for layer in layers.values():
            layer.__dict__.pop("call", None)
        for name, function in functions.items():
            layers[name].__dict__["activation"] = function
        for variable, kept in variables:
            variable.assign(kept)
    return [*given, *outputs(type(model).__name__, output, lambda each: _array(each, keras))]


def _layers(layer: Any, keras: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All layers inside a layer by their names, those of models and of wrappers too."""
    seen.add(id(layer))
    for child in _inside(layer, keras):
        if id(child) not in seen:
            seen.add(id(child))
            name = f"{path}/{child.name}" if path else child.name
            yield name, child
            yield from _layers(child, keras, name, seen)


def _inside(layer: Any, keras: Any) -> Iterator[Any]:
    if isinstance(layer, keras.Model):
        yield from layer.layers
        return
    for value in vars(layer).values():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, keras.Layer):
                yield each


def _first(output: Any, keras: Any) -> np.ndarray | None:
    return next((array for _, array in named(output, lambda each: _array(each, keras))), None)


def _array(output: Any, keras: Any) -> np.ndarray | None:
    if output is None:
        return None
    try:
        return np.array(keras.ops.convert_to_numpy(output))
    except (TypeError, ValueError, NotImplementedError):
        # Inside a loop over time, where a cell is traced, there are no numbers yet.
        return None


REFERENCE = Reference("a Keras model", _takes, _run)
