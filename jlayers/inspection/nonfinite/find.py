"""Which layer was the first to make a number that is not finite, and of which rows of the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.errors import LayerError, public_api
from ...base.layer import Layer
from ...base.paths import flatten
from ...base.specs import PyTree, format_short, specs_of
from ...base.tracing import trace
from ...training.gradient import gradient_of
from ...training.state import TrainState, check_model
from ...training.trainable import patterns, split
from .localize import (
    Call,
    first_backward,
    first_forward,
    is_finite,
)
from .measure import measured
from .probes import (
    Node,
    nodes_of,
    probed,
    probes_of,
    with_probes,
    without_probes,
)
from .report import (
    NonFinite,
    Rows,
    of_backward,
    of_forward,
    of_leaf,
    of_loss,
    of_norm,
    of_sum,
)


class _Pass(NamedTuple):
    """What one pass forward and back gave.

    Attributes:
      loss, norm: scalars; the norm is the gradient's.
      gradient, state: a measurement for each leaf; those of ``state`` are of the new one.
      forward, backward: what the probes measured.
      next_state: the model's.
    """

    loss: jax.Array
    norm: jax.Array
    gradient: PyTree
    state: PyTree
    forward: PyTree
    backward: PyTree
    next_state: PyTree


@public_api
def find_non_finite(
    model: Layer,
    loss: Callable[..., Any],
    run: TrainState,
    batch: Any,
    *,
    frozen: tuple[str, ...] = (),
    accumulate: int = 1,
) -> NonFinite | None:
    """The first layer whose output or gradient is not finite, in one step that is taken again.

    The model runs forward and back once, with a probe round each layer. That is slow to compile,
    and not for every step: it is for the one of which a flag said that it went wrong.

    Args:
      model, loss: of the step.
      run: as it was before the step.
      batch: ``(x, *targets)``, the step's.
      frozen, accumulate: the step's own options.

    Returns:
      What went wrong first; None where the loss, the gradient, its norm and the new state are all
      finite. The program is not the step's to the last bit: what overflows by a hair may not here.

    Raises:
      LayerError: where the batch is none or does not fit the model.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.serial(jl.Dense(3), jax.nn.relu, jnp.log)
    >>> x = jnp.ones((8, 4))
    >>> run = training.train_state(model, optax.sgd(0.1), jax.random.key(0), x)
    >>> found = training.find_non_finite(model, lambda y: jnp.mean(y), run, (x,))
    >>> found.kind, found.path
    ('forward', 'log')
    """
    check_model(model)
    accumulate = arguments.positive("accumulate", accumulate)
    if not isinstance(batch, tuple | list) or not batch:
        raise LayerError("the batch is no tuple", expected="(x, *targets)", got=format_short(batch))
    batch = jax.tree.map(jnp.asarray, tuple(batch))
    key = jax.random.fold_in(run.key, run.step)
    rows = _rows(batch)
    if accumulate > 1 and (not rows or rows % accumulate):
        raise LayerError(
            f"the batch does not fall into {accumulate} equal parts",
            expected=f"the first axis of every array is a multiple of accumulate={accumulate}",
            got=format_short(specs_of(batch)),
        )
    rows //= accumulate
    parts, keys = [batch], [key]
    if accumulate > 1:
        cut = lambda leaf, i: leaf[i * rows : (i + 1) * rows] if leaf.ndim else leaf  # noqa: E731
        parts = [jax.tree.map(functools.partial(cut, i=i), batch) for i in range(accumulate)]
        keys = [jax.random.fold_in(key, i) for i in range(accumulate)]
    given = (run.params, run.state, key, parts[0], _scale(run))
    # What is wrong without probes is the caller's to hint.
    jax.eval_shape(functools.partial(gradient_of, model, loss, ()), *given)
    look = _looking(model, loss, patterns(frozen), specs_of(parts[0][0]), rows)
    state = run.state
    for i, (part, own_key) in enumerate(zip(parts, keys, strict=True)):
        root, seen = look(run.params, state, own_key, part, _scale(run))
        state = seen.next_state
        if not _sound(seen):
            for kind, tree in (("batch", batch), ("params", run.params), ("state", run.state)):
                leaf = of_leaf(kind, tree)
                if leaf is not None:
                    return leaf
            call = Call(root, 0, (), 1, *jax.device_get((seen.forward, seen.backward)))
            return _verdict(call, seen, loss, Rows(rows, i * rows, rows * accumulate))
    return None


def _verdict(call: Call, seen: _Pass, loss: Callable[..., Any], rows: Rows) -> NonFinite:
    if not call.finite("forward", "output"):
        return of_forward(first_forward(call), rows)
    if not np.isfinite(seen.loss):
        return of_loss(loss, seen.loss, call, rows)
    if not call.finite("backward", "output"):
        return of_loss(loss, None, call, rows)
    if not call.gradient_finite():
        return of_backward(first_backward(call, needed=False), rows)
    for kind, tree in (("gradient", seen.gradient), ("new state", seen.state)):
        bad = {path: m for path, m in flatten(tree).items() if not is_finite(m)}
        if bad:
            return of_sum(kind, *next(iter(bad.items())))
    return of_norm(flatten(seen.gradient))


def _sound(seen: _Pass) -> bool:
    measurements = jax.tree.leaves((seen.gradient, seen.state))
    return bool(np.isfinite([seen.loss, seen.norm]).all()) and all(map(is_finite, measurements))


def _norm(gradient: PyTree) -> jax.Array:
    """As optax has it: the squares of float16 overflow in float16."""
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)]
    total = sum((square.astype(jnp.float32) for square in squares), jnp.zeros((), jnp.float32))
    return jnp.sqrt(total)


def _rows(batch: Any) -> int:
    """The size of the batch, 0 where its arrays have none in common."""
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch[0]) if leaf.ndim}
    return sizes.pop() if len(sizes) == 1 else 0


def _scale(run: TrainState) -> jax.Array | None:
    return run.loss_scale.scale if run.loss_scale is not None else None


def _looking(
    model: Layer, loss: Callable[..., Any], frozen: tuple[str, ...], x: PyTree, rows: int
) -> Callable[..., tuple[Node, _Pass]]:
    """One pass over the model with probes, compiled."""

    def look_with(root: Node) -> Callable[..., _Pass]:
        around = probed(root, rows, frozen)

        @jax.jit
        def look(params: PyTree, state: PyTree, key: jax.Array, batch: Any, scale: Any) -> _Pass:
            found = trace(around, x)
            given = with_probes(params, found.params), with_probes(state, found.state)
            gradient, new, metrics = gradient_of(around, loss, (), *given, key, batch, scale)
            new_state, (own, _) = without_probes(new), split(without_probes(gradient), frozen)
            if scale is not None:
                own = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), own)
            norm = _norm(own)
            gradients, states = jax.tree.map(lambda leaf: measured(leaf, 0), (own, new_state))
            forward, backward = probes_of(new), probes_of(gradient)
            return _Pass(metrics["loss"], norm, gradients, states, forward, backward, new_state)

        return look

    root = nodes_of(model, [x])
    look = look_with(root)

    def look_once(*given: Any) -> tuple[Node, _Pass]:
        nonlocal root, look
        try:
            return root, look(*given)
        except Exception:
            # A layer inside does what no probe can follow, forward mode say: the model is looked
            # at as a whole.
            root = nodes_of(model, [x])
            root.children = {}
            look = look_with(root)
            return root, look(*given)

    return look_once
