"""A model that also reports, for every call of every layer inside it, the values that pass through.

Each layer is wrapped in a probe that passes values on unchanged. Its measurements go forward in the
model's state and backward in the gradient of a parameter that the probe adds. So scans, ``vmap``
and rematerialisation stack the measurements as they stack the layers' own trees, and the copies of
``repeat`` and the members of ``ensemble`` each have theirs.

How to read this file: ``nodes_of`` describes the model as a tree of ``Node``; ``probed`` wraps its
layers; ``with_probes`` and ``without_probes`` add and remove the entries of the probes in trees.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ...base.errors import error_context
from ...base.layer import Layer
from ...base.paths import fits, join
from ...base.sequence import Sequence
from ...base.sequence_mode import SequenceMode
from ...base.specs import path_text
from ...base.tracing import trace
from ...base.types import Params, PyTree, State
from .measure import floating, measured, measured_arrays, wide_dtype


@dataclasses.dataclass(eq=False)
class Node:
    """A layer of the model, and what its probe needs to know.

    Attributes:
      layer: the layer itself, without probes.
      path: its path in the model.
      entry: the name under which its probe writes into params and state.
      inputs, outputs: specs, one for each call.
      params: specs of its parameters, those of the layers inside it among them.
      children: by name.
      spans: for each call, by child: the first and the last but one of the child's calls in it.
    """

    layer: Layer
    path: str
    entry: str
    inputs: list[PyTree]
    outputs: list[PyTree]
    params: Params
    children: dict[str, Node]
    spans: list[dict[str, tuple[int, int]]]


def nodes_of(layer: Layer, inputs: list[PyTree], path: str = "", depth: int = 0) -> Node:
    """The layer and all inside it, for the inputs of each of its calls."""
    found = [trace(layer, x) for x in inputs]
    children, spans = {}, [dict[str, tuple[int, int]]() for _ in inputs]
    for name, child in layer.children.items():
        calls: list[PyTree] = []
        for span, one in zip(spans, found, strict=True):
            span[name] = (len(calls), len(calls) + len(one.inputs[name]))
            calls += one.inputs[name]
        # A transparent child shares its parent's trees: only the depth tells their entries apart.
        children[name] = nodes_of(child, calls, join(path, name), depth + 1)
    outputs = [one.out for one in found]
    entry, params = f"<probe {depth}>", found[0].params
    return Node(layer, path, entry, inputs, outputs, params, children, spans)


def probed(node: Node, rows: int, frozen: tuple[str, ...]) -> Layer:
    """The layer of a node with a probe around it and around each layer inside it.

    Args:
      node: of the model.
      rows: size of the batch, 0 for none.
      frozen: patterns over the paths of parameters whose gradients do not matter.
    """
    # One for all layers: it numbers the calls in the order in which they are traced.
    clock = itertools.count()

    def around(node: Node) -> Layer:
        inner = node.layer
        if node.children:
            inner = inner.rebuild({name: around(child) for name, child in node.children.items()})
            try:
                for x in node.inputs:
                    trace(inner, x)
            except Exception:
                # A pair written by hand that reads its children's trees: it is one layer to us.
                node.children, inner = {}, node.layer
        return _probe(node, inner, rows, frozen, clock)

    return around(node)


def _probe(
    node: Node, inner: Layer, rows: int, frozen: tuple[str, ...], clock: Iterator[int]
) -> Layer:
    calls, size = len(node.inputs), max(rows, 1)

    def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        params, state = inner.init(key, x)
        # As parameters these do nothing; their gradients are the measurements (see ``_mark``).
        slots = jnp.zeros((calls, size, 4), wide_dtype())
        backward = {"input": slots, "output": slots, "params": slots}
        forward = {
            "input": slots,
            "output": slots,
            "order": jnp.zeros(calls, jnp.int32),
            "calls": jnp.zeros((), jnp.int32),
        }
        return params | {node.entry: backward}, state | {node.entry: forward}

    def apply(
        params: Params, state: State, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, State]:
        own, notes = params[node.entry], state[node.entry]
        params, state = (_without(tree, node.entry) for tree in (params, state))
        at, time = notes["calls"], jnp.asarray(next(clock), jnp.int32)
        # A transparent wrapper has its child's parameters, and the child's probe marks them.
        mine = {name: leaf for name, leaf in params.items() if name not in node.children}
        if "" not in node.children:
            params = params | _marked_params(mine, node.path, frozen, own["params"], at)
        seen = measured(x, rows)
        with error_context(node.layer):
            x = _marked(x, own["input"], at)
            y, state = inner._apply(params, state, x, key=key, train=train)
            y = _marked(y, own["output"], at)
        notes = {
            "input": notes["input"].at[at].set(seen, mode="drop"),
            "output": notes["output"].at[at].set(measured(y, rows), mode="drop"),
            "order": notes["order"].at[at].set(time, mode="drop"),
            "calls": at + 1,
        }
        return y, state | {node.entry: notes}

    # Delegating, so that the layer itself meets the Sequence; with the kind and the parameters of
    # the layer inside, so that no path changes.
    return Layer(
        init,
        apply,
        name=node.layer.kind,
        children={"": inner},
        rebuild=lambda new: _probe(node, new[""], rows, frozen, clock),
        sequence_mode=SequenceMode("delegate"),
    )


def with_probes(tree: PyTree, specs: PyTree) -> PyTree:
    """A tree of the model with zeros in the entries of the probes, as ``specs`` has them."""
    if not isinstance(specs, dict):
        return tree
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)  # noqa: E731
    return {
        name: jax.tree.map(zeros, spec)
        if name.startswith("<probe ")
        else with_probes(tree.get(name, {}) if isinstance(spec, dict) else tree[name], spec)
        for name, spec in specs.items()
    }


def without_probes(tree: PyTree) -> PyTree:
    """The inverse of ``with_probes``."""
    if not isinstance(tree, dict):
        return tree
    # What is empty then held a probe alone: trees of a model have no empty entries (law 2).
    kept = {n: without_probes(v) for n, v in tree.items() if not n.startswith("<probe ")}
    return {name: value for name, value in kept.items() if not isinstance(value, dict) or value}


def probes_of(tree: PyTree) -> PyTree:
    """The entries that ``with_probes`` added, alone."""
    return {
        name: value if name.startswith("<probe ") else probes_of(value)
        for name, value in tree.items()
        if isinstance(value, dict)
    }


def _without(tree: dict[str, Any], entry: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != entry}


def _marked(tree: PyTree, slots: jax.Array, at: jax.Array) -> PyTree:
    """The same tree; in the backward pass its measurement is the gradient of ``slots[at]``."""
    chosen, leaves, treedef = floating(tree)
    if not chosen:
        return tree
    arrays = iter(_mark([a for a, _ in chosen], [m for _, m in chosen], slots, at))
    for i, leaf in enumerate(leaves):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact):
            new = next(arrays)
            leaves[i] = leaf._with(new) if isinstance(leaf, Sequence) else new
    return jax.tree.unflatten(treedef, leaves)


def _marked_params(
    params: Params, path: str, frozen: tuple[str, ...], slots: jax.Array, at: jax.Array
) -> Params:
    flat, treedef = jax.tree.flatten_with_path(params)
    leaves = [leaf for _, leaf in flat]
    names = [join(path, path_text(name)) for name, _ in flat]
    kept = [i for i, name in enumerate(names) if not fits(name, frozen)]
    trained = _marked([leaves[i] for i in kept], slots, at)
    for i, leaf in zip(kept, trained, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(treedef, leaves)  # type: ignore[no-any-return]


# Not core's with_custom_gradient: its backward program has to be linear in the cotangent, and a
# measurement is not. So forward mode through a probed model fails; ``find`` then takes no probes.
@jax.custom_vjp
def _mark(arrays: list[Any], masks: list[Any], slots: jax.Array, at: jax.Array) -> list[Any]:
    return arrays


def _mark_forward(arrays: Any, masks: Any, slots: jax.Array, at: jax.Array) -> Any:
    return arrays, (masks, slots, at)


def _mark_backward(kept: Any, cotangents: list[Any]) -> Any:
    masks, slots, at = kept
    seen = measured_arrays(list(zip(cotangents, masks, strict=True)), slots.shape[1])
    return cotangents, None, jnp.zeros_like(slots).at[at].set(seen, mode="drop"), None


_mark.defvjp(_mark_forward, _mark_backward)
