"""The metrics of a model over held-out data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base import arguments, processes
from ..base.collecting import collected
from ..base.errors import LayerError, TrainingError, public_api
from ..base.layer import Layer
from ..base.specs import format_short, format_spec, specs_of
from ..data import Batches, Source, as_source
from ..inspection.donation import check_not_donated
from ..inspection.training_loss import Batch, Metrics, call_with_offers
from ..metrics import Metric
from ..sharding import Rules
from ..sharding.batches import put_batch
from .alike import Shapes, text_of_data
from .sharded import check_sharding, on_mesh, one_at_a_time
from .state import TrainState, check_model, ema_params

# The metrics' sums, and beside each number what rounding took from it (Neumaier, 1974).
_Sums = tuple[dict[str, Metric], dict[str, Metric]]
_WEIGHT = "weight"


@public_api
def make_evaluator(
    model: Layer,
    measure: Callable[..., dict[str, jax.typing.ArrayLike]],
    data: Any,
    *,
    ema: bool = False,
    key: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
    rules: Rules | None = None,
) -> Callable[[TrainState], Metrics]:
    """``evaluate(state) -> metrics``, for ``fit`` or to be called alone.

    The model is applied with ``train=False`` to all batches of an epoch, in a compiled program. The
    results are means over the examples, on the device: nothing waits for them. Sums are compensated
    for rounding, however many batches there are. A batch of no rows, or of weight 0, counts for
    nothing, whatever its means are.

    Args:
      model: the layer that is trained.
      measure: ``measure(y, *targets)`` gives by name means over the batch, as scalars, or
        ``metrics.Metric``s, which are exact over all batches whatever their weights. A "weight"
        among them is the batch's share of the whole (the sum of ``valid``, for example, with
        ``Batches(..., last="pad")``); without one it is the number of its examples. It gets what it
        has arguments for by name, as the loss of ``train_step`` does: ``params``, ``state``,
        ``step``, ``key`` and ``added_loss``. Where layers add losses and it does not take that sum,
        it is a metric of its own.
      data: batches ``(x, *targets)`` that can be read again; see ``as_source``. All rows are read:
        ``Batches(..., last="drop")`` gives a last batch with fewer.
      ema: use the moving averages instead of the parameters.
      key: for a model that draws random numbers in evaluation too, such as Monte-Carlo dropout;
        each batch has a key of its own, the same at each evaluation.
      mesh, rules: as for ``train_step``; a batch that the devices do not divide is whole on each.

    Raises:
      TrainingError: for an invalid argument, and for a loader that drops rows; when called, where a
        metric is not a scalar, and where there is no batch with a row.

    >>> import jax, jax.numpy as jnp, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> x, target = np.ones((10, 3), np.float32), np.zeros((10, 1), np.float32)
    >>> error = lambda y, target: {"error": jnp.abs(y - target).mean()}
    >>> evaluate = training.make_evaluator(jl.Dense(1), error, training.Batches((x, target), 4))
    >>> state = training.train_state(jl.Dense(1), optax.sgd(0.1), jax.random.key(0), x)
    >>> sorted(evaluate(state))
    ['error']
    """
    check_model(model)
    if not callable(measure):
        raise TrainingError(
            "measure must be a function", expected="measure(y, *targets)", got=format_short(measure)
        )
    batches = _all_rows(data)
    check_sharding(mesh, rules)
    ema = arguments.flag("ema", ema)
    if key is not None:
        arguments.typed_key(key)
    if not batches.rereads:
        raise TrainingError(
            "the data can be read once only, and each evaluation reads it",
            hint="a list, or a function of the epoch that gives a new iterator",
        )

    def part(state: TrainState, number: jax.Array, batch: Batch) -> dict[str, Metric]:
        x, *targets = batch
        own = None if key is None else jax.random.fold_in(key, number)
        # Of the moving averages, if they are what is evaluated: ``state`` has them by then.
        params, model_state = state.params, state.state
        try:
            (y, _), (losses, _) = collected(lambda: model.apply(params, model_state, x, key=own))
        except LayerError as error:
            if own is None and error.hint and "apply(..., key=key)" in error.hint:
                error.hint = "make_evaluator(..., key=key)"
            raise
        offers = {"params": params, "state": model_state, "step": state.step, "key": own}
        found, added, taken = call_with_offers("measure", measure, y, targets, losses, **offers)
        metrics = _checked(found)
        if added is not None and not taken:
            metrics.setdefault("added_loss", added)
        weight = metrics.pop(_WEIGHT, _rows(batch))
        # By examples and not by batches: a short last batch must not count as much as a full one.
        # float32, whatever the model computes in: sums over an epoch need the digits.
        weight = jnp.asarray(weight, jnp.float32)

        def sums(value: Any) -> Metric:
            if isinstance(value, Metric):
                return value
            # A mean over nothing is NaN, and 0 * NaN is NaN too.
            value = jnp.where(weight == 0, 0, weight * jnp.asarray(value, jnp.float32))
            return Metric({"total": value, "weight": weight}, _divided)

        return {name: sums(value) for name, value in metrics.items()}

    parts = on_mesh(part, mesh, rules)

    @one_at_a_time
    @jax.jit
    def first(state: TrainState, number: jax.Array, batch: Batch) -> _Sums:
        value = parts(state, number, batch)
        return value, jax.tree.map(jnp.zeros_like, value)

    # On the device: nothing is read until the record is.
    @one_at_a_time
    @jax.jit
    def further(sums: _Sums, state: TrainState, number: jax.Array, batch: Batch) -> _Sums:
        own = parts(state, number, batch)
        # A metric that says how its sums go together has no rest.
        merged = {name: sums[0][name] + metric for name, metric in own.items() if metric.merge}
        plain = {name: metric for name, metric in own.items() if name not in merged}
        pairs = jax.tree.map(
            _added, *({name: part[name] for name in plain} for part in sums), plain
        )
        total, rest = (jax.tree.map(lambda _, pair, i=i: pair[i], plain, pairs) for i in range(2))
        return total | merged, rest | {name: sums[1][name] for name in merged}

    @jax.jit
    def finished(sums: _Sums) -> Metrics:
        totals: dict[str, Metric] = jax.tree.map(jnp.add, *sums)
        return {name: metric.value() for name, metric in totals.items()}

    # Whether the processes have compared their data.
    agreed: list[bool] = []

    @public_api
    def evaluate(state: TrainState) -> Metrics:
        if not isinstance(state, TrainState):
            raise TrainingError(
                "state must be a TrainState",
                got=format_short(state),
                hint="step.start(key, x), or fitted.state of what fit returns",
            )
        check_not_donated(state)
        # What the step of training needs alone is not put into the program.
        given = TrainState(
            state.step, ema_params(state) if ema else state.params, state.state, None, state.key
        )
        sums: _Sums | None = None
        if not agreed and processes.count() > 1:
            processes.agree("evaluation", {"the data": text_of_data(batches)})
            agreed.append(True)
        shapes, number = Shapes("evaluation"), -1
        for number, (batch, _) in enumerate(batches.read(None, 1)):
            _check_batch(batch)
            shapes.check(batch)
            if not _rows(batch):
                continue
            if mesh is not None and rules is not None:
                batch = put_batch(mesh, rules.batch, batch, uneven=True)
            index = np.uint32(number % 2**32)
            sums = (
                first(given, index, batch) if sums is None else further(sums, given, index, batch)
            )
        if processes.count() > 1:
            doing = f"at the end of an evaluation of {number + 1} batches"
            count = {"the number of batches": str(number + 1)}
            processes.agree("evaluation", count, doing=doing)
        if sums is None:
            raise TrainingError("the data of the evaluation has no rows")
        return finished(sums)  # type: ignore[no-any-return]

    return evaluate


def _divided(sums: dict[str, jax.Array]) -> jax.Array:
    return sums["total"] / sums["weight"]


def _added(total: jax.Array, rest: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A compensated sum with one more value."""
    new = total + value
    larger, smaller = jnp.where(
        jnp.abs(total) >= jnp.abs(value), jnp.stack([total, value]), jnp.stack([value, total])
    )
    lost = (larger - new) + smaller
    # Infinity minus infinity is not what rounding took.
    return new, rest + jnp.where(jnp.isfinite(new), lost, 0)


def _all_rows(data: Any) -> Source:
    """The data as a source that gives every row."""
    if isinstance(data, Batches):
        return data.with_all_rows()
    # Of PyTorch's loaders, and of whatever says so in the same words.
    if getattr(data, "drop_last", False):
        raise TrainingError(
            "the loader drops the rows that do not fill a batch, and an evaluation is of all",
            got=format_short(data),
            hint="drop_last=False",
        )
    return as_source(data)


def _rows(batch: Batch) -> int:
    return int(jax.tree.leaves(batch)[0].shape[0])


def _check_batch(batch: object) -> None:
    leaves = jax.tree.leaves(batch) if isinstance(batch, tuple | list) else []
    if not leaves or not jnp.shape(leaves[0]):
        raise TrainingError(
            "a batch of the evaluation must be a tuple of arrays",
            expected="(x, *targets)",
            got=format_short(batch),
        )


def _checked(found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TrainingError(
            "measure must return a dict",
            expected='means over the batch by name: {"loss": ...}',
            got=format_short(found),
        )
    for name, value in found.items():
        if isinstance(name, str) and isinstance(value, Metric):
            shape = jax.eval_shape(value.value)
            if getattr(shape, "shape", None) != ():
                raise TrainingError(
                    f"the metric {name!r} must be a scalar",
                    got=format_spec(shape),
                    hint="metric.then(function) makes one of it",
                )
            continue
        if not isinstance(name, str) or not isinstance(
            value, int | float | np.generic | np.ndarray | jax.Array
        ):
            raise TrainingError(
                f"the metric {name!r} must be a number by its name", got=format_short(value)
            )
        if jnp.shape(value):
            raise TrainingError(
                f"the metric {name!r} must be a scalar",
                expected="a mean over the batch",
                got=format_spec(specs_of(value)),
            )
    return dict(found)
