"""``fit``: its arguments checked, and turned into hooks of the loop.

How to read this file: ``fit`` checks what concerns the loop into a ``Plan`` and makes a hook of
everything else; ``Loop`` runs them. What checks need more than a line for is at the end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax

from ...base import arguments, processes
from ...base.errors import TrainingError, public_api
from ...base.layer import Layer
from ...base.specs import format_short
from ...checkpoint import CheckpointManager
from ...core.compiler import compiler_options as default_compiler_options
from ...data import Source, as_source
from ...records.progress import Progress
from ...records.record import Record
from ..sharded import batch_placer, check_placed
from ..step import Step, TrainStep
from . import several
from .early_stopping import EarlyStopping, StopEarly
from .hooks import Evaluate, Evaluation, FitResult, Hook, ProgressBar, as_hook
from .loop import Loop, Plan
from .recovery import Checkpointing

_POLICIES = ("stop", "skip", "roll back", "ignore")


@public_api
def fit(
    step: Step,
    state: Any,
    data: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    steps_per_call: int = 1,
    log_every: int = 100,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    hooks: Iterable[Hook | Callable[[Record], object]] = (),
    early_stopping: EarlyStopping | None = None,
    checkpoints: CheckpointManager | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: bool | Progress = True,
    non_finite: Literal["stop", "skip", "roll back", "ignore"] = "stop",
    max_compiles: int | None = None,
    prefetch: int | None = None,
    device: jax.Device | jax.sharding.Sharding | None = None,
    donate: bool = False,
    compiler_options: Mapping[str, bool | str] | None = None,
) -> FitResult:
    """Takes steps, and never waits for the device between two of them.

    The step is compiled with the state donated, so that there is one in memory. The state that is
    passed in is copied first, and stays as it is; ``donate=True`` saves its memory. Metrics are
    summed up on the device. At each multiple of ``log_every`` the sums
    are read that were due one multiple earlier, after the steps since then have been launched. So
    the device does not wait for Python, nor Python for the device.

    Args:
      step: a pure function ``(state, batch) -> (state, metrics)``: what ``train_step`` makes, or
        your own over any pytree. Metrics are scalars by name; floats are averaged over the steps of
        a record, ints summed (in int32).
      state: a ``TrainState``, or the pytree of your own step.
      data: batches; see ``as_source`` for all that is accepted.
      steps: the number of steps in total, those before a resumption included.
      epochs: the number of epochs in total. The loop ends at the first of ``steps`` and ``epochs``;
        an iterator, which is read once, also ends it.
      steps_per_call: K steps in one call, as by ``train_step(steps=)``. What is due at a step
        happens after its call.
      log_every: steps from one record to the next.
      evaluate: ``evaluate(state)`` gives metrics, which are recorded as "eval/...". It is called
        every ``evaluate_every`` steps, and after the last. ``make_evaluator`` makes one.
      evaluate_every: steps; ten times ``log_every`` by default.
      hooks: ``Hook`` objects, or functions that are called with each ``Record``, in order. One that
        returns True ends the loop. A function with a ``close`` is closed at the end, and one with
        an ``on_start`` is told where the loop starts, as a ``Hook`` is.
      early_stopping: ends the loop when a metric no longer improves; with ``restore_best`` the
        state that is returned is the best one, not the last.
      checkpoints: where the state, the position in the data and the records (of long runs the last
        10,000, and those with evaluations) are saved: every ``checkpoint_every`` steps, at the end,
        on SIGTERM (then it exits, with status 143), on Ctrl-C and on an error.
      checkpoint_every: steps; ten times ``log_every`` by default.
      resume: continue from the newest checkpoint, if there is one.
      progress: a bar on a terminal, now and then a line elsewhere. False for none.
      non_finite: what happens after a loss or a gradient that is not finite. The device notes it in
        the step, and the host reads it with the metrics. "stop" raises ``NonFiniteError``, which
        names the layer and the batch, and holds the state before the step. "skip" skips the step
        and warns. "roll back" returns to the newest checkpoint, and continues with the data after
        the batch. "ignore" goes on.
      max_compiles: one more compilation of the step than this is an error. Without it, each after
        the first is a warning; both say what changed.
      prefetch: how many calls' batches are read ahead on a thread, and put on the device; 0 reads
        them between the steps. The default is 2, but 0 on a CPU with one step in a call: waking a
        thread takes longer there than making a batch of arrays. Slow data needs it.
      donate: use up the state that is passed in: its memory holds the next one, and nothing is
        copied. The arrays are deleted, whoever else has them.
      compiler_options: of XLA, for the step; what ``jl.compiler_options`` gives by default, and
        none for ``{}``.
      device: a device or a sharding to put batches on: ``NamedSharding(mesh, P("data"))`` for a
        state on that mesh. With ``steps_per_call`` their first axis is that of the steps. A step
        that has a mesh of its own has batches put there.

    Returns:
      The state with the records. An error that ends the loop has the same as its attribute
      ``fitted``.

    Raises:
      TrainingError: for an invalid argument, and see above.
      CheckpointError: where a checkpoint does not fit.

    >>> import jax, jax.numpy as jnp, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> batches = training.Batches((x, 3 * x + 1), 16, key=0)
    >>> loss = lambda y, target: jnp.mean((y - target) ** 2)
    >>> step = training.train_step(jl.Dense(1), loss, optax.sgd(0.1))
    >>> state = step.start(jax.random.key(0), x[:16])
    >>> fitted = training.fit(step, state, batches, steps=200, progress=False)
    >>> fitted.stopped, [record.step for record in fitted.records]
    ('steps', [100, 200])
    >>> print(fitted.state.params["kernel"].round(2), fitted.state.params["bias"].round(2))
    [[3.]] [1.]
    """
    step = _checked_step(step)
    several.check_mesh(step, state)
    source = as_source(data)
    log_every = arguments.positive("log_every", log_every)
    plan = Plan(
        step=step,
        source=source,
        reads=several.own_rows(source, step),
        steps=_positive("steps", steps),
        epochs=_positive("epochs", epochs),
        steps_per_call=arguments.positive("steps_per_call", steps_per_call),
        log_every=log_every,
        non_finite=_checked_policy(non_finite, checkpoints, source),
        max_compiles=_positive("max_compiles", max_compiles),
        prefetch=arguments.integer("prefetch", _ahead(steps_per_call, prefetch), 0),
        device=device,
        manager=_instance("checkpoints", checkpoints, CheckpointManager),
        donate=arguments.flag("donate", donate),
        compiler_options=_checked_options(compiler_options),
        put=None,
    )
    own = plan.reads is not source
    plan = plan._replace(put=_put_on_mesh(step, state, device, steps_per_call, own))
    # Ten records to one of these: both wait for the device, which a record does not.
    evaluate_every = _positive("evaluate_every", evaluate_every) or 10 * log_every
    checkpoint_every = _positive("checkpoint_every", checkpoint_every) or 10 * log_every
    # In the order in which they get a record. The last one that ends the loop names the reason.
    made: list[Hook] = []
    bar: Progress | None = None
    if evaluate is not None:
        arguments.function("evaluate", evaluate, "state")
        made.append(Evaluation(evaluate, evaluate_every))
    if progress and processes.index() == 0:
        bar = _instance(
            "progress", Progress(plan.steps) if progress is True else progress, Progress
        )
        made.append(ProgressBar(bar))
    if isinstance(hooks, Hook) or callable(hooks):
        raise TrainingError("hooks must be a list", got=format_short(hooks), hint="hooks=[hook]")
    made += (as_hook(hook) for hook in hooks if several.is_called_here(hook))
    if checkpoints is not None:
        made.append(Checkpointing(checkpoints, checkpoint_every, step, source))
    early: StopEarly | None = None
    if early_stopping is not None:
        _instance("early_stopping", early_stopping, EarlyStopping)
        if evaluate is None and early_stopping.metric.startswith("eval/"):
            raise TrainingError(
                f"early_stopping waits for {early_stopping.metric!r}, but evaluate= is missing",
                hint="fit(..., evaluate=training.make_evaluator(model, measure, data))",
            )
        early = StopEarly(early_stopping, evaluate_every)
        made.append(early)
    if steps is None and epochs is None and source.rereads:
        raise TrainingError(
            "neither steps nor epochs is given, and the data has no end",
            expected="steps= or epochs=",
        )
    several.check_alike(
        step,
        state,
        source,
        {
            "steps": steps,
            "epochs": epochs,
            "steps_per_call": steps_per_call,
            "log_every": log_every,
            "non_finite": non_finite,
            "evaluate": None if evaluate is None else evaluate_every,
            "checkpoints": None if checkpoints is None else checkpoint_every,
            "resume": resume,
            "early_stopping": early_stopping,
        },
    )
    loop = Loop(plan, state, tuple(made))
    stopped = "error"

    def result() -> FitResult:
        return FitResult(loop.state, loop.history.records, loop.step, loop.position, stopped)

    def end(hook: Hook) -> None:
        hook.on_end(result())

    # A stack, so that a hook whose ``on_end`` raises does not keep the others open.
    with contextlib.ExitStack() as ending:
        for hook in made:
            ending.callback(end, hook)
        try:
            stopped = loop.run(resume)
        except Exception as error:
            # So that a notebook keeps the state of a loop that failed.
            error.fitted = result()  # type: ignore[attr-defined]
            if (gone := several.lost(error, checkpoints)) is not None:
                raise gone from error
            raise
    # As a process that SIGTERM kills: schedulers tell it from a failure by the status.
    if stopped == "SIGTERM":
        raise SystemExit(128 + signal.SIGTERM)
    if loop.resumed == loop.step:
        of = "" if steps is None else f" of {steps}"
        text = f"resumed at step {loop.step}{of}, nothing to do"
        processes.warn_once(text) if bar is None else bar.note(text)
    ended = result()
    if early is None or not early_stopping or not early_stopping.restore_best:
        return ended
    return ended._replace(state=early.best_state(ended.state, ended.records, checkpoints))


def _put_on_mesh(
    step: Step, state: Any, device: object, steps_per_call: int, own: bool
) -> Callable[[Any], Any] | None:
    """What puts batches on the mesh of a step, if it has one."""
    if not isinstance(step, TrainStep) or step.mesh is None or step.rules is None:
        return None
    if device is not None:
        raise TrainingError(
            "the step has a mesh, which says where batches go",
            expected="fit(...) without device=",
            got=format_short(device),
        )
    check_placed(state, step.mesh)
    return batch_placer(step.mesh, step.rules, steps_per_call > 1, own)


def _checked_options(options: Mapping[str, bool | str] | None) -> Mapping[str, bool | str]:
    if options is None:
        return default_compiler_options()
    if not isinstance(options, Mapping) or not all(
        isinstance(name, str) and isinstance(value, bool | int | float | str)
        for name, value in options.items()
    ):
        raise TrainingError(
            "compiler_options must be a dict of XLA's options by name",
            got=format_short(options),
            hint="compiler_options={} for none, or {**jl.compiler_options(), name: value}",
        )
    return options


def _checked_step(step: Step) -> Step:
    # fit(model, x, y), as it is written elsewhere.
    if isinstance(step, Layer):
        raise TrainingError(
            "step must be a step of training, got a layer",
            expected="fit(step, state, data, steps=...)",
            got=format_short(step),
            hint="step = training.train_step(model, loss, tx); state = step.start(key, x); "
            "data = training.Batches((x, y), 32, key=0)",
        )
    if not callable(step):
        raise TrainingError(
            "step must be a function", expected="step(state, batch)", got=format_short(step)
        )
    # The loop counts steps by its calls, and would count such a call as one.
    if isinstance(step, TrainStep) and step.steps != 1:
        raise TrainingError(
            f"the step takes {step.steps} steps itself",
            hint="train_step(...) without steps=, and fit(..., steps_per_call=...)",
        )
    return step


def _checked_policy(policy: str, checkpoints: object, source: Source) -> str:
    if policy not in _POLICIES:
        raise TrainingError(f"unknown non_finite {policy!r}", expected=f"one of {_POLICIES}")
    if policy == "roll back" and checkpoints is None:
        raise TrainingError(
            "nothing to roll back to",
            hint="fit(..., checkpoints=training.CheckpointManager(folder))",
        )
    # The batches since the checkpoint, but for the bad one, are taken a second time.
    if policy == "roll back" and not source.rereads:
        raise TrainingError(
            "no rolling back with data that can be read once only",
            hint="a list, or a function of the epoch that gives a new iterator",
        )
    return policy


def _instance(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TrainingError(
            f"{name} must be a training.{kind.__name__}",
            got=format_short(value),
            hint=f"training.{kind.__name__}({value!r})" if isinstance(value, str) else None,
        )
    return value


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else arguments.positive(name, value)


def _ahead(steps_per_call: int, prefetch: int | None) -> int:
    if prefetch is not None:
        return prefetch
    return 0 if jax.default_backend() == "cpu" and steps_per_call == 1 else 2
