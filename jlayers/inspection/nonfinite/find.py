"""Which layer produced the first non-finite value, and in which rows of the batch.

How to read this file: ``find_non_finite`` is the public function. It runs the model once, forward
and backward, with a probe around each layer (``probes``), which measures what passes through
(``measure``). ``_verdict`` reads the measurements in the order in which a step computes: layers
forward, the loss, layers backward (``localize``), then sums over them; ``report`` writes the text.
"""

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
from ...base.paths import check_each_fits, fits, flatten
from ...base.specs import format_short, specs_of
from ...base.tracing import trace
from ...base.types import Params, PyTree, State
from ..training_loss import Batch, LossFunction, Metrics, training_loss
from .localize import Call, first_backward, first_forward, is_finite
from .measure import measured
from .probes import Node, nodes_of, probed, probes_of, with_probes, without_probes
from .report import NonFinite, Rows, of_backward, of_forward, of_leaf, of_loss, of_norm, of_sum


class _Pass(NamedTuple):
    """What one pass forward and backward gave.

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
    loss: LossFunction,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
    *,
    frozen: tuple[str, ...] = (),
    accumulate: int = 1,
    loss_scale: jax.Array | None = None,
) -> NonFinite | None:
    """The first layer whose output or gradient is not finite, in one training step that is re-run.

    The model runs forward and backward once, with a probe around each layer. That compiles slowly:
    it is meant for a step that is already known to have failed, not for every step.

    Args:
      model: the layer that is trained.
      loss: ``loss(y, *targets)``, a floating scalar, or this and a dict of metrics.
      params, state: as they were before the step.
      key: the step's own.
      batch: ``(x, *targets)``, the step's.
      frozen: patterns over the paths of parameters whose gradients do not count.
      accumulate: into how many equal parts the step splits its batch. Each part has the key with
        its number folded in.
      loss_scale: float32 (), what the step multiplies the loss by.

    Returns:
      What went wrong first; None where the loss, the gradient, its norm and the new state are all
      finite. The program differs from the step's in its rounding, so a borderline overflow of the
      step may not show here.

    Raises:
      LayerError: where the batch is not a tuple or does not fit the model.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> from jlayers import inspection
    >>> model = jl.serial(jl.Dense(3), jax.nn.relu, jnp.log)
    >>> key, x = jax.random.key(0), jnp.ones((8, 4))
    >>> params, state = model.init(key, x)
    >>> found = inspection.find_non_finite(model, lambda y: y.mean(), params, state, key, (x,))
    >>> found.kind, found.path
    ('forward', 'log')
    """
    if not isinstance(model, Layer):
        raise LayerError("model must be a Layer", got=format_short(model), hint="jl.lift(model)")
    accumulate = arguments.positive("accumulate", accumulate)
    if not isinstance(batch, tuple | list) or not batch:
        raise LayerError(
            "the batch must be a tuple", expected="(x, *targets)", got=format_short(batch)
        )
    batch = jax.tree.map(jnp.asarray, tuple(batch))
    rows = _rows(batch)
    if accumulate > 1 and (not rows or rows % accumulate):
        raise LayerError(
            f"the batch cannot be split into {accumulate} equal parts",
            expected=f"the first axis of every array is a multiple of accumulate={accumulate}",
            got=format_short(specs_of(batch)),
        )
    check_each_fits(frozen, list(flatten(params)), negated=True)
    rows //= accumulate
    parts, keys = [batch], [key]
    if accumulate > 1:
        cut = lambda leaf, i: leaf[i * rows : (i + 1) * rows] if leaf.ndim else leaf  # noqa: E731
        parts = [jax.tree.map(functools.partial(cut, i=i), batch) for i in range(accumulate)]
        keys = [jax.random.fold_in(key, i) for i in range(accumulate)]
    # What fails without probes is the caller's to fix: it is raised here, without them.
    given = (params, state, key, parts[0], loss_scale)
    jax.eval_shape(functools.partial(_gradient, model, loss), *given)
    look = _looking(model, loss, frozen, specs_of(parts[0][0]), rows)
    next_state = state
    for i, (part, own_key) in enumerate(zip(parts, keys, strict=True)):
        root, seen = look(params, next_state, own_key, part, loss_scale)
        next_state = seen.next_state
        measurements = jax.tree.leaves((seen.gradient, seen.state))
        finite = np.isfinite([seen.loss, seen.norm]).all() and all(map(is_finite, measurements))
        # Before the probes are read: of what was bad before the step every layer is innocent.
        if not finite:
            for kind, tree in (("batch", batch), ("params", params), ("state", state)):
                if (leaf := of_leaf(kind, tree)) is not None:
                    return leaf
            # In one transfer: there are measurements for every call of every layer.
            call = Call(root, 0, (), 1, *jax.device_get((seen.forward, seen.backward)))
            return _verdict(call, seen, loss, Rows(rows, i * rows, rows * accumulate), part[1:])
    return None


def _gradient(
    model: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
    scale: jax.Array | None,
) -> tuple[PyTree, tuple[State, Metrics]]:
    # By all parameters, the frozen ones too: probes are parameters of every layer.
    function = functools.partial(training_loss, model, loss)
    gradient = jax.grad(function, has_aux=True)
    return gradient(params, state, key, batch, scale)  # type: ignore[no-any-return]


def _verdict(call: Call, seen: _Pass, loss: LossFunction, rows: Rows, targets: PyTree) -> NonFinite:
    # In the order of the computation: of all that is not finite, the first is the cause.
    if not call.finite("forward", "output"):
        return of_forward(first_forward(call), rows)
    if not np.isfinite(seen.loss):
        return of_loss(loss, seen.loss, call, rows, targets)
    if not call.finite("backward", "output"):
        return of_loss(loss, None, call, rows, targets)
    if not call.gradient_finite():
        # The gradient of the model's own input is measured and not used: it may be anything.
        return of_backward(first_backward(call, needed=False), rows)
    for kind, tree in (("gradient", seen.gradient), ("new state", seen.state)):
        for path, measurement in flatten(tree).items():
            if not is_finite(measurement):
                return of_sum(kind, path, measurement)
    return of_norm(flatten(seen.gradient))


def _norm(gradient: PyTree) -> jax.Array:
    """As the step computes it, in float32: the squares of float16 overflow in float16."""
    wide = [jnp.abs(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in wide), jnp.zeros((), jnp.float32)))


def _rows(batch: Any) -> int:
    """The batch size, 0 where the arrays of the input do not share one."""
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch[0]) if leaf.ndim}
    return sizes.pop() if len(sizes) == 1 else 0


def _looking(
    model: Layer, loss: LossFunction, frozen: tuple[str, ...], x: PyTree, rows: int
) -> Callable[..., tuple[Node, _Pass]]:
    """One pass over the model with probes, compiled."""

    def look_with(root: Node) -> Callable[..., _Pass]:
        around = probed(root, rows, frozen)

        @jax.jit
        def look(params: PyTree, state: PyTree, key: jax.Array, batch: Any, scale: Any) -> _Pass:
            found = trace(around, x)
            given = with_probes(params, found.params), with_probes(state, found.state)
            gradient, (new, metrics) = _gradient(around, loss, *given, key, batch, scale)
            new_state, own = without_probes(new), without_probes(gradient)
            if frozen:
                own = {p: leaf for p, leaf in flatten(own).items() if not fits(p, frozen)}
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
        nonlocal look
        try:
            return root, look(*given)
        except Exception:
            # A layer inside does what a probe cannot follow, forward mode for example: then the
            # model is one layer to us.
            root.children = {}
            look = look_with(root)
            return root, look(*given)

    return look_once
