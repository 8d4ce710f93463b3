"""What the backward pass keeps of the forward pass, and which layer made it.

How to read this file: ``stored_bytes`` looks at a program whose outputs are what a derivative
keeps. Who made an array is in the name stack of its equation, since every layer runs under a scope
of its name; that of an array out of a loop is in the loop's body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ..base.layer import Layer
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State

# JAX has no public types for these.
Jaxpr: TypeAlias = Any
Equation: TypeAlias = Any


def stored_activations(layer: Layer, found: Trace, x: PyTree) -> dict[str, int]:
    """Bytes that the gradient of a training step keeps of a layer's ``apply``, by path.

    Args:
      layer, x: a model and the specs of its input.
      found: its trace.
    """

    def kept(params: Params, state: State, x: PyTree, key: jax.Array) -> list[Any]:
        leaves, treedef = jax.tree.flatten(params)
        trained = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

        def run(floating: list[Any]) -> PyTree:
            given = iter(floating)
            own = [
                next(given) if is_trained else leaf
                for leaf, is_trained in zip(leaves, trained, strict=True)
            ]
            params = jax.tree.unflatten(treedef, own)
            return layer._apply(params, state, x, key=key, train=True)[0]

        floating = [leaf for leaf, is_trained in zip(leaves, trained, strict=True) if is_trained]
        return jax.tree.leaves(jax.vjp(run, floating)[1])

    key = jax.eval_shape(lambda: jax.random.key(0))
    return stored_bytes(jax.make_jaxpr(kept)(found.params, found.state, x, key).jaxpr)


def stored_bytes(program: Jaxpr) -> dict[str, int]:
    """Bytes of the outputs of a program, by the path of the layer that made them.

    What is an argument of the program is counted where it lies, and what occurs twice once.
    """
    own = {id(var): var for var in program.outvars if var not in program.invars}
    total: dict[str, int] = {}
    for var in own.values():
        path = "/".join(_names(program, var))
        total[path] = total.get(path, 0) + math.prod(var.aval.shape) * var.aval.dtype.itemsize
    return total


def _names(jaxpr: Jaxpr, var: Any) -> list[str]:
    """The scopes around the equation that made a value."""
    for equation in jaxpr.eqns:
        for i, out in enumerate(equation.outvars):
            if out is var:
                names = _scopes(equation)
                # A loop, a call or a checkpoint: by its body, which gives as many values.
                for inner in _bodies(equation):
                    return names + _names(inner, inner.outvars[i])
                return names
    return []


def _bodies(equation: Equation) -> list[Jaxpr]:
    inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
    count = len(equation.outvars)
    return [one for one in inner if hasattr(one, "eqns") and len(one.outvars) == count]


def _scopes(equation: Equation) -> list[str]:
    # "jvp(encoder)/dense": what transforms a program is a name around those of its scopes.
    text = re.sub(r"\w+\(|\)", "", str(equation.source_info.name_stack))
    return [name for name in text.split("/") if name]


def by_layer(bytes_of: Mapping[str, int], paths: list[str]) -> dict[str, int]:
    """Bytes by the paths of layers; a layer may have scopes of its own inside."""
    total = dict.fromkeys(paths, 0)
    for path, size in bytes_of.items():
        names = path.split("/")
        for count in range(len(names), -1, -1):
            if (above := "/".join(names[:count])) in total:
                total[above] += size
                break
    return total
