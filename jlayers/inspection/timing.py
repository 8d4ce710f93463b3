"""Time per layer: each layer's program in a loop, at the inputs that it has in the model.

How to read this file: ``layer_seconds`` is the measurement. ``_calls`` runs the model once and
keeps what each layer without children was called with; ``_looped`` writes the program that runs a
function many times over, and ``_measured`` runs all of them in turns.

A layer alone is a few microseconds, and so is the launch of a program. So one program calls it
many times: a run of the loop differs from the next in one number of each input, which depends on
the output before. XLA can neither leave a turn out nor compute it once for all.
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

from ..base.layer import Layer
from ..base.paths import join
from ..base.specs import specs_of
from ..base.types import Key, Params, PyTree, State
from ..core.compiler import compiler_options

# Seconds of one run of a loop, long beside its launch; how often it is run, at least and at most,
# and how close the two fastest runs have to be.
_SECONDS, _MOST_TURNS = 0.005, 100_000
_ROUNDS, _MOST_ROUNDS, _AGREE = 5, 40, 0.03
# XLA moves no data for them.
_LAYOUT_ALONE = frozenset(("reshape", "squeeze", "expand_dims", "stop_gradient", "copy"))
# ``run(turns) -> seconds``.
Run = Callable[[int], float]


class Times(NamedTuple):
    """Seconds of one ``apply``, medians.

    Attributes:
      layers: by path, of each layer without children, all its calls and copies together.
      whole: of the model.
    """

    layers: dict[str, float]
    whole: float


@dataclasses.dataclass
class _Call:
    """A call of a layer in the traced program.

    Attributes:
      path, apply: of the layer.
      keyed: whether it got a key.
      given: the leaves of its parameters, state and input in each run of the call; those of later
        copies without the input.
    """

    path: str
    apply: Callable[..., Any]
    keyed: bool
    treedef: Any = None
    inputs: int = 0
    given: list[list[Any]] = dataclasses.field(default_factory=list)

    def keep(self, *leaves: Any) -> None:
        own = leaves if not self.given else leaves[: len(leaves) - self.inputs]
        self.given.append([np.array(leaf) for leaf in own])


def layer_seconds(
    model: Layer, params: Params, state: State, x: PyTree, key: jax.Array | None
) -> Times:
    """Measures a model and the layers inside it, in evaluation."""
    runs: dict[str, Run] = {"": _looped(lambda held, x: x, 1, [], jnp.float32(0))}
    weights = [jax.tree.leaves((params, state))]
    whole = _run_of(model._apply, weights, (params, state, x), key, runs)
    programs = [
        (
            call.path,
            len(call.given),
            _run_of(
                call.apply,
                call.given,
                jax.tree.unflatten(call.treedef, call.given[0]),
                key if call.keyed else None,
                runs,
            ),
        )
        for call in _calls(model, params, state, x, key)
    ]
    medians = _measured(runs)

    def seconds(program: str) -> float:
        return max(medians[program] - medians[""], 0.0)

    layers: dict[str, float] = {}
    for path, copies, program in programs:
        layers[path] = layers.get(path, 0.0) + copies * seconds(program)
    return Times(layers, seconds(whole))


def _calls(
    model: Layer, params: Params, state: State, x: PyTree, key: jax.Array | None
) -> list[_Call]:
    """What each layer without children is called with, in a run of the model."""
    calls: list[_Call] = []
    kept = _keeping(model, "", calls)
    run = jax.jit(lambda params, state, x, key: kept.apply(params, state, x, key)[0])
    jax.block_until_ready(run(params, state, x, key))
    jax.effects_barrier()
    # A body may be traced more often than it is run.
    return [call for call in calls if call.given]


def _keeping(layer: Layer, path: str, calls: list[_Call]) -> Layer:
    if layer.children:
        new = {name: _keeping(child, join(path, name), calls) for name, child in layer.children.items()}
        return layer.rebuild(new)

    def keeping(apply: Callable[..., Any]) -> Callable[..., Any]:
        def kept(params: Params, state: State, x: PyTree, *, key: Key, train: bool) -> Any:
            call = _Call(path, apply, key is not None)
            leaves, call.treedef = jax.tree.flatten((params, state, x))
            call.inputs = len(jax.tree.leaves(x))
            calls.append(call)
            jax.debug.callback(call.keep, *leaves)
            return apply(params, state, x, key=key, train=train)

        return kept

    return layer._replace(
        _apply=keeping(layer._apply), _apply_to_array=keeping(layer._apply_to_array)
    )


def _run_of(
    apply: Callable[..., Any],
    weights: list[list[Any]],
    given: tuple[Params, State, PyTree],
    key: jax.Array | None,
    runs: dict[str, Run],
) -> str:
    """The name of the function's run in ``runs``; that of the empty loop where it computes nothing."""
    weights_def = jax.tree.structure(given[:2])
    held, x = jax.tree.leaves(given[:2]), given[2]

    def once(held: list[Any], x: PyTree) -> PyTree:
        own = jax.tree.unflatten(weights_def, held)
        return apply(*own, x, key=key, train=False)[0]

    specs = specs_of(held), specs_of(x)
    text = jax.make_jaxpr(once)(*specs)
    if all(equation.primitive.name in _LAYOUT_ALONE for equation in text.jaxpr.eqns):
        return ""
    stacked = _stacked(weights)
    copies = 1 if stacked is None else len(weights)
    name = f"{copies} of {text}"
    if name not in runs:
        runs[name] = _looped(once, copies, held if stacked is None else stacked, x)
    return name


def _stacked(weights: list[list[Any]]) -> list[Any] | None:
    """The weights of all copies along a first axis; None for one copy, or for equal ones."""
    if len(weights) == 1 or not weights[0]:
        return None
    counted = len(weights[1])
    first = weights[0][:counted]
    if all(np.array_equal(a, b) for other in weights[1:] for a, b in zip(first, other, strict=True)):
        return None
    return [np.stack(leaves) for leaves in zip(first, *weights[1:], strict=True)]


def _looped(
    function: Callable[[list[Any], PyTree], PyTree], copies: int, held: list[Any], x: PyTree
) -> Run:
    def loop(turns: Any, first: Any, held: list[Any], x: PyTree) -> PyTree:
        # As in the scan of repeat.
        def once(i: Any) -> PyTree:
            at = lax.rem(i, jnp.int32(copies))
            pick = functools.partial(lax.dynamic_index_in_dim, index=at, keepdims=False)
            return function(held if copies == 1 else [pick(leaf) for leaf in held], x)

        def never(i: Any) -> PyTree:
            return jax.tree.map(
                lambda out: jnp.zeros(out.shape, out.dtype), jax.eval_shape(once, jnp.int32(0))
            )

        def turn(i: Any, _: PyTree) -> PyTree:
            return lax.cond(i >= first, once, never, i)

        return lax.fori_loop(0, turns, turn, never(0))

    args = jax.device_put((held, x))
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

    In turns, until the two fastest runs of a loop agree.
    """
    turns = {name: _turns(run) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_MOST_ROUNDS):
        for name, run in runs.items():
            if number < _ROUNDS or _differ(taken[name]):
                taken[name] = sorted((*taken[name], run(turns[name]) / turns[name]))
    return {name: each[0] for name, each in taken.items()}


def _differ(taken: list[float]) -> bool:
    return taken[1] > (1 + _AGREE) * taken[0]


def _turns(run: Run) -> int:
    """How many turns of a loop take about ``_SECONDS``."""
    run(1)
    count = 1
    while (taken := run(count)) < _SECONDS / 2 and count < _MOST_TURNS:
        more = count * _SECONDS / max(taken, 1e-6)
        count = min(_MOST_TURNS, 10 * count, max(2 * count, int(more)))
    return count
