"""Time per layer: each layer's program in a loop, at the inputs that it has in the model.

How to read this file: ``layer_seconds`` is the measurement. ``_calls`` runs the model once and
keeps what each layer without children was called with; ``_looped`` writes the program that runs a
function many times over, and ``_measured`` runs all of them in turns.

A layer takes microseconds, and so does the launch of a program: one program calls it many times. A
call is a branch whose condition depends on the number of the turn, so that XLA computes it in each
turn, and copies nothing for it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.paths import join
from ..base.specs import format_spec, specs_of
from ..base.types import Key, Params, PyTree, State
from ..core.compiler import compiler_options
from ..core.dtypes import is_symbolic

# Seconds of one run of a loop, long beside its launch; how often it is run, at least and at most,
# and how close the fastest three runs have to be.
_SECONDS, _MOST_TURNS = 0.005, 100_000
_ROUNDS, _MOST_ROUNDS, _CLOSE = 5, 30, 1.03
# XLA makes one function of a loop over less than 512 bytes; LLVM takes out of it what is the same
# in all turns.
_FILLING = 1024
# XLA moves no data for them.
_LAYOUT_ALONE = frozenset(("reshape", "squeeze", "expand_dims", "stop_gradient"))
# ``run(turns)`` takes so many seconds.
Run = Callable[[int], float]
Function = Callable[[list[Any], list[Any]], PyTree]


class Times(NamedTuple):
    """Seconds of one ``apply``.

    Attributes:
      layers: by path, of each layer without children, all its calls and copies together.
      whole: of the model.
    """

    layers: dict[str, float]
    whole: float


def layer_seconds(model: Layer, params: Params, state: State, x: PyTree, key: jax.Array) -> Times:
    """Measures a model and the layers inside it, in evaluation."""
    runs: dict[str, Run] = {"": _looped(lambda _, x: x, 1, [], [jnp.float32(0)])}
    whole = _Call("", model._apply)
    whole.keep(*whole.leaves(params, state, x))
    program = _run_of(whole, key, runs)
    parts = [
        (call.path, len(call.weights), _run_of(call, key, runs))
        for call in _calls(model, params, state, x, key)
    ]
    taken = _measured(runs)

    def seconds(program: str) -> float:
        return max(taken[program] - taken[""], 0.0)

    layers: dict[str, float] = {}
    for path, copies, own in parts:
        layers[path] = layers.get(path, 0.0) + copies * seconds(own)
    return Times(layers, seconds(program))


def sample(x: PyTree) -> PyTree:
    """The input, with values where it has specs: normal, zeros of integers, True.

    Raises:
      LayerError: for sizes that are symbols, and inside a program that is traced.
    """

    def filled(leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer) or is_symbolic(*leaf.shape):
            raise LayerError(
                "profile=True runs the model",
                expected="an input of known sizes, outside of jit",
                got=format_spec(leaf),
            )
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)
        make = jnp.ones if leaf.dtype == bool else jnp.zeros
        return make(leaf.shape, leaf.dtype)

    return jax.tree.map(filled, x)


@dataclasses.dataclass
class _Call:
    """A call of a layer in the traced program, and the values of its runs.

    Attributes:
      path, apply: of the layer.
      treedef: of its parameters, state and input.
      impls: of each leaf that is a typed key, which is kept as its words; None for the others.
      x: the leaves of the input of the first run.
      weights: the leaves of parameters and state, of each run.
    """

    path: str
    apply: Callable[..., Any]
    treedef: Any = None
    impls: tuple[Any, ...] = ()
    x: list[Any] = dataclasses.field(default_factory=list)
    weights: list[list[Any]] = dataclasses.field(default_factory=list)

    def leaves(self, params: Params, state: State, x: PyTree) -> tuple[list[Any], list[Any]]:
        """The leaves of a call, which describe it from now on: of weights, and of the input."""
        leaves, self.treedef = jax.tree.flatten((params, state, x))
        typed = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        pairs = list(zip(leaves, typed, strict=True))
        self.impls = tuple(jax.random.key_impl(leaf) if key else None for leaf, key in pairs)
        words = [jax.random.key_data(leaf) if key else leaf for leaf, key in pairs]
        count = len(words) - len(jax.tree.leaves(x))
        return words[:count], words[count:]

    def keep(self, weights: list[Any], x: list[Any]) -> None:
        if not self.weights:
            self.x = [np.array(leaf) for leaf in x]
        self.weights.append([np.array(leaf) for leaf in weights])

    def run(self, weights: list[Any], x: list[Any], key: jax.Array) -> PyTree:
        """The output, of leaves that were kept."""
        leaves = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip([*weights, *x], self.impls, strict=True)
        ]
        return self.apply(*jax.tree.unflatten(self.treedef, leaves), key=key, train=False)[0]


def _calls(model: Layer, params: Params, state: State, x: PyTree, key: jax.Array) -> list[_Call]:
    """What each layer without children is called with, in a run of the model."""
    calls: list[_Call] = []
    kept = _keeping(model, "", calls)
    run = jax.jit(lambda params, state, x, key: kept.apply(params, state, x, key)[0])
    jax.block_until_ready(run(params, state, x, key))
    jax.effects_barrier()
    # A body may be traced more often than it is run.
    return [call for call in calls if call.weights]


def _keeping(layer: Layer, path: str, calls: list[_Call]) -> Layer:
    """The same layer; those inside it that have no children keep what they are called with."""
    if layer.children:
        new = {n: _keeping(child, join(path, n), calls) for n, child in layer.children.items()}
        return layer.rebuild(new)

    def keeping(apply: Callable[..., Any]) -> Callable[..., Any]:
        def kept(params: Params, state: State, x: PyTree, *, key: Key, train: bool) -> Any:
            call = _Call(path, apply)
            calls.append(call)
            jax.debug.callback(call.keep, *call.leaves(params, state, x))
            return apply(params, state, x, key=key, train=train)

        return kept

    return layer._replace(
        _apply=keeping(layer._apply), _apply_to_array=keeping(layer._apply_to_array)
    )


def _run_of(call: _Call, key: jax.Array, runs: dict[str, Run]) -> str:
    """The name of the call's loop in ``runs``: that of the empty one where nothing is computed."""

    once = functools.partial(call.run, key=key)
    weights, copies = call.weights[0], 1
    program = jax.make_jaxpr(once)(specs_of(weights), specs_of(call.x))
    if all(equation.primitive.name in _LAYOUT_ALONE for equation in program.jaxpr.eqns):
        return ""
    # Copies of one weight are one: a layer that is shared, or that runs in a loop of a body.
    pairs = [zip(weights, others, strict=True) for others in call.weights[1:]]
    if not all(np.array_equal(a, b, equal_nan=_floating(a)) for pair in pairs for a, b in pair):
        weights = [np.stack(leaves) for leaves in zip(*call.weights, strict=True)]
        copies = len(call.weights)
    # Layers of one program take one time.
    name = f"{copies} of {program}"
    if name not in runs:
        runs[name] = _looped(once, copies, weights, call.x)
    return name


def _floating(a: Any) -> bool:
    return bool(jnp.issubdtype(a.dtype, jnp.floating))


def _looped(function: Function, copies: int, weights: list[Any], x: list[Any]) -> Run:
    def loop(turns: Any, first: Any, weights: list[Any], x: list[Any]) -> PyTree:
        def once(i: Any) -> PyTree:
            own = weights
            # As in the scan of repeat, whose copies are not in the cache from the turn before.
            if copies > 1:
                at = lax.rem(i, jnp.int32(copies))
                own = [lax.dynamic_index_in_dim(leaf, at, keepdims=False) for leaf in weights]
            return function(own, x), jnp.full(_FILLING, i)

        def zeros(i: Any) -> PyTree:
            out = jax.eval_shape(once, i)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out)

        def turn(i: Any, _: PyTree) -> PyTree:
            return lax.cond(i >= first, once, zeros, i)

        return lax.fori_loop(0, turns, turn, zeros(jnp.int32(0)))

    args = jax.device_put((weights, x))
    program = jax.jit(loop, compiler_options=compiler_options())
    compiled = program.lower(jnp.int32(1), jnp.int32(0), *args).compile()

    def run(turns: int) -> float:
        given = jnp.int32(turns), jnp.int32(0)
        start = time.perf_counter()
        jax.block_until_ready(compiled(*given, *args))
        return time.perf_counter() - start

    return run


def _measured(runs: dict[str, Run]) -> dict[str, float]:
    """Seconds of a turn of each loop: of the fastest run, as others on the machine only add.

    In turns, until the fastest three runs of a loop agree.
    """
    turns = {name: _turns(run) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_MOST_ROUNDS):
        for name, run in runs.items():
            if number < _ROUNDS or taken[name][2] > _CLOSE * taken[name][0]:
                taken[name] = sorted((*taken[name], run(turns[name]) / turns[name]))
    return {name: each[0] for name, each in taken.items()}


def _turns(run: Run) -> int:
    """How many turns of a loop take about ``_SECONDS``."""
    run(1)
    count = 1
    # Of three runs: one that something else delayed would end the search at once.
    while (taken := min(run(count) for _ in range(3))) < _SECONDS / 2 and count < _MOST_TURNS:
        more = count * _SECONDS / max(taken, 1e-6)
        count = min(_MOST_TURNS, 10 * count, max(2 * count, int(more)))
    return count
