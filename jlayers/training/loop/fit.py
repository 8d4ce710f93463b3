"""The loop: steps without a pause, and all that is to be known of them, read late."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax

from ...base import arguments
from ...base.errors import TrainingError, public_api
from ...base.specs import format_short
from ...checkpoint import CheckpointManager
from ...data import Position, as_source
from ..record import Record
from ..step import Step, TrainStep
from ..writers.progress import Progress
from .arguments import Arguments
from .early_stopping import EarlyStopping
from .ledger import Ledger
from .loop import Loop

Callback = Callable[[Record], Any]
Evaluate = Callable[[Any], dict[str, Any]]
NonFinitePolicy = Literal["stop", "skip", "roll back", "ignore"]
_POLICIES = ("stop", "skip", "roll back", "ignore")


class FitResult(NamedTuple):
    """What ``fit`` gives back.

    Attributes:
      run: the run after the last step.
      records: all records, those before a resumption included.
      step: the number of steps taken in all.
      position: in the data, after the last batch that was used.
      stopped: why it ended: "steps", "data" (no more of it), "early stopping", "callback" or
        "interrupt" (Ctrl-C).
    """

    run: Any
    records: list[Record]
    step: int
    position: Position
    stopped: str


@public_api
def fit(
    step: Step,
    run: Any,
    data: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    steps_per_call: int = 1,
    log_every: int = 100,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    callbacks: Iterable[Callback] = (),
    early_stopping: EarlyStopping | None = None,
    checkpoints: CheckpointManager | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: bool | Progress = True,
    non_finite: NonFinitePolicy = "stop",
    max_compiles: int | None = None,
    prefetch: int | None = None,
    device: Any = None,
) -> FitResult:
    """Takes steps until it is told to stop, and never waits for the device between two of them.

    The step is compiled with the run donated: **the run that is given is used up**, as by
    ``compiled``. What a step measures is summed up on the device. At each multiple of ``log_every``
    the sums before are read, when the steps after them have been sent off already. So the
    device does not wait for Python, nor Python for the device.

    Args:
      step: a pure function ``(run, batch) -> (run, metrics)``: what ``train_step`` makes, or your
        own over any pytree. Metrics are scalars by name; floats are averaged over the steps of a
        record, ints summed (in int32).
      run: a ``TrainState``, or the pytree of your own step.
      data: batches; see ``as_source`` for all that serves.
      steps: the number of steps in all, those before a resumption included.
      epochs: the number of epochs in all. Of ``steps`` and ``epochs`` what comes first ends the
        loop; of an iterator, which is read once, the end does.
      steps_per_call: K steps in one call, through one ``lax.scan``: a small model's step takes less
        time than Python takes to ask for it. What is due at a step happens after its call.
      log_every: steps from one record to the next.
      evaluate: ``evaluate(run)`` gives metrics, which are recorded as "eval/...". It is called
        every ``evaluate_every`` steps, and after the last. ``make_evaluator`` makes one.
      evaluate_every: steps; ten times ``log_every`` where it is not said.
      callbacks: called with each ``Record``, in order. One that returns True ends the loop. What
        has a ``close`` is closed at the end.
      early_stopping: ends the loop when a metric no longer gets better.
      checkpoints: where the run, the position in the data and the records (of long runs the last
        10,000, and those with evaluations) are kept. The loop saves
        every ``checkpoint_every`` steps, at its end, on SIGTERM (then it exits, with status 143),
        on Ctrl-C and on an error.
      checkpoint_every: steps; ten times ``log_every`` where it is not said.
      resume: go on from the newest checkpoint there is, if there is one.
      progress: a bar on a terminal, now and then a line elsewhere. False for none.
      non_finite: what happens after a loss or a gradient that is not finite. It is noticed on the
        device at once, and read with the metrics. "stop" raises ``NonFiniteError``, which says in
        which layer it began and for which batch, and holds the run as it was before. "skip" leaves
        the step out and warns. "roll back" goes back to the newest checkpoint, and goes on with the
        data after the batch. "ignore" goes on.
      max_compiles: a further compilation of the step than so many is an error. Without, it is a
        warning; both say what changed.
      prefetch: how many calls' batches are read ahead on a thread, and put on the device; 0 reads
        them between the steps. Two, but none on a CPU with one step in a call: to wake a thread
        takes longer there than to make a batch of arrays. Data that is slow to read wants it.
      device: a device or a sharding to put batches on: ``NamedSharding(mesh, P("data"))`` for a run
        that was put on the mesh. With ``steps_per_call`` their first axis is that of the steps.

    Returns:
      The run with the records. Where the loop ends by an error, the error has the same as its
      attribute ``fitted``.

    Raises:
      TrainingError: where an argument is not what it has to be, and see above.
      CheckpointError: where a checkpoint does not fit.

    >>> import jax, jax.numpy as jnp, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> batches = training.Batches((x, 3 * x + 1), 16, key=0)
    >>> loss = lambda y, target: jnp.mean((y - target) ** 2)
    >>> step = training.train_step(jl.Dense(1), loss, optax.sgd(0.1))
    >>> run = step.start(jax.random.key(0), x[:16])
    >>> fitted = training.fit(step, run, batches, steps=200, progress=False)
    >>> fitted.stopped, [record.step for record in fitted.records]
    ('steps', [100, 200])
    >>> print(fitted.run.params["kernel"].round(2), fitted.run.params["bias"].round(2))
    [[3.]] [1.]
    """
    if not callable(step):
        raise TrainingError(
            "step is no function", expected="step(run, batch)", got=format_short(step)
        )
    if isinstance(step, TrainStep) and step.steps != 1:
        raise TrainingError(
            f"the step takes {step.steps} steps itself",
            hint="train_step(...) without steps=, and fit(..., steps_per_call=...)",
        )
    if non_finite not in _POLICIES:
        raise TrainingError(f"unknown non_finite {non_finite!r}", expected=f"one of {_POLICIES}")
    if non_finite == "roll back" and checkpoints is None:
        raise TrainingError(
            "nothing to roll back to",
            hint="fit(..., checkpoints=training.CheckpointManager(folder))",
        )
    for callback in (callbacks := tuple(callbacks)):
        arguments.function("callbacks", callback, "record")
    if evaluate is not None:
        arguments.function("evaluate", evaluate, "run")
    for name, value, kind in (
        ("checkpoints", checkpoints, CheckpointManager),
        ("early_stopping", early_stopping, EarlyStopping),
    ):
        if value is not None and not isinstance(value, kind):
            raise TrainingError(f"{name} is no training.{kind.__name__}", got=format_short(value))
    if (
        early_stopping is not None
        and evaluate is None
        and early_stopping.metric.startswith("eval/")
    ):
        raise TrainingError(
            f"early_stopping waits for {early_stopping.metric!r}, and nothing is evaluated",
            hint="fit(..., evaluate=training.make_evaluator(model, measure, data))",
        )
    batches = as_source(data)
    log_every = arguments.positive("log_every", log_every)
    plan = Arguments(
        step=step,
        source=batches,
        steps=_positive("steps", steps),
        epochs=_positive("epochs", epochs),
        steps_per_call=arguments.positive("steps_per_call", steps_per_call),
        log_every=log_every,
        evaluate=evaluate,
        evaluate_every=_positive("evaluate_every", evaluate_every) or 10 * log_every,
        checkpoints=checkpoints,
        checkpoint_every=_positive("checkpoint_every", checkpoint_every) or 10 * log_every,
        non_finite=non_finite,
        max_compiles=_positive("max_compiles", max_compiles),
        prefetch=arguments.integer("prefetch", _ahead(steps_per_call, prefetch), 0),
        device=device,
    )
    if non_finite == "roll back" and not batches.rereads:
        raise TrainingError(
            "no rolling back with data that can be read once only",
            hint="a list, or a function of the epoch that gives a new iterator",
        )
    if steps is None and epochs is None and batches.rereads:
        raise TrainingError(
            "nothing says where to end, and the data has no end",
            expected="steps= or epochs=",
        )
    if progress is True:
        progress = Progress(plan.steps)
    ledger = Ledger(callbacks, early_stopping, progress or None)
    loop = Loop(plan, run, ledger, progress or None)
    with contextlib.ExitStack() as closing:
        for callback in callbacks:
            if callable(close := getattr(callback, "close", None)):
                closing.callback(close)
        try:
            stopped = loop.run_to_end(resume)
        except Exception as error:
            error.fitted = _fitted(loop, "error")  # type: ignore[attr-defined]
            raise
    if stopped == "SIGTERM":
        raise SystemExit(128 + signal.SIGTERM)
    return _fitted(loop, stopped)


def _fitted(loop: Loop, stopped: str) -> FitResult:
    return FitResult(loop.run, loop.ledger.records, loop.step, loop.position, stopped)


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else arguments.positive(name, value)


def _ahead(steps_per_call: int, prefetch: int | None) -> int:
    if prefetch is not None:
        return prefetch
    return 0 if jax.default_backend() == "cpu" and steps_per_call == 1 else 2
