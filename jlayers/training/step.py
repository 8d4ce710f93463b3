"""The training step, a pure function built from a model, a loss and an optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.layer import Layer
from ..base.specs import PyTree, format_short
from .finite import (
    finite,
    finite_at_the_edges,
    if_sound,
    keep_if,
)
from .gradient import LossFunction, Metrics, accumulated, gradient_of
from .loss_scale import LossScale, check_loss_scale
from .state import (
    Optimizer,
    TrainState,
    check_model,
    check_transformation,
    train_state,
    widened,
)
from .trainable import merge, patterns, split
from .validation import check_batch, check_between

Step = Callable[[Any, Any], tuple[Any, Metrics]]
Schedule = Callable[[jax.Array], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """A step with its options, made by ``train_step``.

    Called with (run, batch) it is the pure function. ``start`` makes the run that it begins with.
    """

    model: Layer
    loss: LossFunction
    tx: Optimizer
    steps: int = 1
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    loss_scale: LossScale | None = None
    frozen: tuple[str, ...] = ()
    learning_rate: Schedule | None = None
    grad_norm: bool = False
    non_finite: Literal["apply", "skip"] = "apply"

    def start(self, key: jax.Array, x: PyTree, **begin: Any) -> TrainState:
        """``train_state`` with the options of the step; ``begin`` may hold params and state."""
        begin |= {"frozen": self.frozen, "ema": self.ema is not None}
        return train_state(self.model, self.tx, key, x, loss_scale=self.loss_scale, **begin)

    def __call__(self, run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return self.train_step(run, batch)

    @public_api
    def train_step(self, run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """The step; by this name errors know it."""
        check_batch(batch, self.steps)
        self._check_run(run)
        return self._one(run, batch) if self.steps == 1 else lax.scan(self._one, run, batch)

    @public_api
    def guarded(
        self, run: TrainState, batch: Any, alive: jax.Array | None = None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        """One step that changes nothing where its loss or its gradient is not finite.

        Args:
          run, batch: of one step, whatever ``steps`` is.
          alive: bool (), False for a step that is not to be taken, nor counted. Where it is given,
            a step that is not sound is not counted either: the run stays what it was before it.

        Returns:
          The next run, the metrics, and whether the step was sound, bool ().
        """
        check_batch(batch, 1)
        self._check_run(run)
        return self._guarded(run, batch, alive)

    def _one(self, run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        if self.non_finite == "skip" or self.loss_scale:
            run, metrics, _ = self._guarded(run, batch, None)
            return run, metrics
        gradient, state, metrics = self._gradient(run, batch)
        new = self._update(run, gradient, state)
        return new._replace(step=run.step + 1), metrics | self._rate(new)

    def _guarded(
        self, run: TrainState, batch: Any, alive: jax.Array | None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        gradient, state, metrics = self._gradient(run, batch)
        sound = jnp.isfinite(metrics["loss"])
        # What reads all of the gradient anyway tells more than its edges.
        if "grad_norm" in metrics:
            usable = sound & jnp.isfinite(metrics["grad_norm"])
        else:
            look = finite if self.loss_scale else finite_at_the_edges
            usable = sound & look(gradient)
        taken = usable if alive is None else usable & alive
        new = if_sound(taken, self._update, run, gradient, state)
        if self.loss_scale and run.loss_scale:
            scale = self.loss_scale.next(run.loss_scale, usable)
            # An overflow is what scales are for, as long as there is a smaller one.
            sound = usable | (sound & (run.loss_scale.scale > self.loss_scale.least))
            if alive is not None:
                scale = keep_if(sound & alive, scale, run.loss_scale)
            new = new._replace(loss_scale=scale)
        else:
            sound = usable
        counts = jnp.int32(1) if alive is None else (sound & alive).astype(jnp.int32)
        if alive is None:
            metrics["skipped"] = (~usable).astype(jnp.int32)
        return new._replace(step=run.step + counts), metrics | self._rate(new), sound

    def _gradient(self, run: TrainState, batch: Any) -> tuple[PyTree, PyTree, Metrics]:
        key = jax.random.fold_in(run.key, run.step)
        scale = run.loss_scale.scale if run.loss_scale else None

        def one(state: PyTree, key: jax.Array, batch: Any) -> tuple[PyTree, PyTree, Metrics]:
            given = (self.frozen, run.params, state, key, batch, scale)
            return gradient_of(self.model, self.loss, *given)

        if self.accumulate == 1:
            gradient, state, metrics = one(run.state, key, batch)
        else:
            gradient, state, metrics = accumulated(self.accumulate, one, run.state, key, batch)
        narrow = gradient
        if scale is not None:
            # In float32: float16 holds neither large scales nor large norms.
            gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / scale, gradient)
            metrics["loss_scale"] = scale
        if self.clip is not None or self.grad_norm:
            metrics["grad_norm"] = optax.tree.norm(gradient)
        if self.clip is not None:
            clip = optax.clip_by_global_norm(self.clip)
            gradient, _ = clip.update(gradient, optax.EmptyState())
        gradient = jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), gradient, narrow)
        return gradient, state, metrics

    def _update(self, run: TrainState, gradient: PyTree, state: PyTree) -> TrainState:
        trained, fixed = split(run.params, self.frozen)
        updates, opt_state = self.tx.update(gradient, run.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        ema = run.ema
        if self.ema is not None:
            ema = optax.incremental_update(widened(trained), ema, 1 - self.ema)
        params = merge(trained, fixed)
        return run._replace(params=params, state=state, opt_state=opt_state, ema=ema)

    def _rate(self, run: TrainState) -> Metrics:
        """The learning rate, where it is told or the optimiser's state holds it."""
        if self.learning_rate is not None:
            return {"learning_rate": jnp.asarray(self.learning_rate(run.step), jnp.float32)}
        found = optax.tree.get_all_with_path(run.opt_state, "learning_rate")
        # Of optax.inject_hyperparams; other states may have such an entry, too.
        rates = [rate for path, rate in found if "hyperparams" in map(_name, path)]
        return {"learning_rate": jnp.asarray(rates[0], jnp.float32)} if len(rates) == 1 else {}

    def _check_run(self, run: Any) -> None:
        if not isinstance(run, TrainState):
            raise TrainingError(
                "the run is no TrainState", got=format_short(run), hint="step.start(key, x)"
            )
        made = "step.start(key, x) makes the run that a step begins with"
        for name, option in (("ema", self.ema), ("loss_scale", self.loss_scale)):
            if (getattr(run, name) is None) != (option is None):
                which = "has no" if option is not None else "has an unused"
                raise TrainingError(f"the run {which} {name}", hint=made)
        trained, _ = split(run.params, self.frozen)
        wanted: Any = jax.tree.structure(jax.eval_shape(self.tx.init, trained))
        got: Any = jax.tree.structure(run.opt_state)
        if wanted != got:
            raise TrainingError(
                "opt_state is not that of this optimiser and these trained parameters",
                expected=format_short(wanted),
                got=format_short(got),
                hint=made,
            )


@public_api
def train_step(
    model: Layer,
    loss: LossFunction,
    tx: Optimizer,
    *,
    steps: int = 1,
    accumulate: int = 1,
    clip: float | None = None,
    ema: float | None = None,
    loss_scale: LossScale | None = None,
    frozen: str | tuple[str, ...] = (),
    learning_rate: Schedule | None = None,
    grad_norm: bool = False,
    non_finite: Literal["apply", "skip"] = "apply",
) -> TrainStep:
    """``step(run, batch) -> (run, metrics)``, pure and not compiled.

    Args:
      model: the layer to train; it is applied with ``train=True`` and a key of the step's own.
      loss: ``loss(y, *targets)``, a floating scalar, or this and a dict of further metrics.
      tx: the optax transformation.
      steps: K steps in one call, through one ``lax.scan``, so that a small model's time goes into
        its steps and not between them.
      accumulate: the batch is taken in so many equal parts, one after the other, and the gradient
        is the mean of theirs: large batches in little memory.
      clip: the largest global norm of a gradient, by ``optax.clip_by_global_norm``.
      ema: the decay of a moving average of the trained parameters, 0.999 say; see ``ema_params``.
      loss_scale: scales the loss of a float16 model; see ``LossScale``.
      frozen: patterns over the paths of parameters that are not trained: they are not
        differentiated, and the optimiser keeps nothing for them.
      learning_rate: the schedule that ``tx`` was built with, step to rate, to have the rate among
        the metrics. Where ``tx`` is an ``optax.inject_hyperparams`` it is there without.
      grad_norm: have the gradient's global norm, before clipping, among the metrics; with ``clip``
        it is. It reads all of the gradient, which a small model's step feels.
      non_finite: "skip" leaves the run as it was, but for its number, after a step whose loss or
        gradient is not finite.

    Args of the result:
      run: a ``TrainState``; ``step.start(key, x)`` makes the first.
      batch: ``(x, *targets)``. With ``steps=K`` > 1 the first axis of every array holds K batches.

    Returns of the result:
      run: the next one.
      metrics: the loss, before the update, as "loss", beside what ``loss`` gave, and "grad_norm",
        "learning_rate", "loss_scale" and "skipped" (int32, 1 for a step that changed nothing) where
        there are such. With ``steps=K`` > 1 the first axis of every array holds the K steps.

    Raises:
      TrainingError: at once where an argument is not what it has to be; from the step, when it is
        traced, where the run, the batch or the loss is not, and where the batch does not fit the
        model.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model, tx = jl.Dense(1), optax.sgd(0.1)
    >>> step = training.train_step(model, lambda y, target: jnp.mean((y - target) ** 2), tx)
    >>> x, target = jnp.ones((8, 4)), jnp.zeros((8, 1))
    >>> run = step.start(jax.random.key(0), x)
    >>> run, metrics = jax.jit(step)(run, (x, target))
    >>> int(run.step), metrics["loss"].shape
    (1, ())
    """
    check_model(model)
    if not callable(loss):
        raise TrainingError(
            "loss is no function", expected="loss(y, *targets)", got=format_short(loss)
        )
    check_transformation(tx)
    if clip is not None:
        check_between("clip", clip, 0, float("inf"))
    if ema is not None:
        check_between("ema", ema, 0, 1)
    if learning_rate is not None and not callable(learning_rate):
        constant = float(learning_rate)
        learning_rate = lambda step: constant  # noqa: E731
    if non_finite not in ("apply", "skip"):
        raise TrainingError(f"unknown non_finite {non_finite!r}", expected="'apply' or 'skip'")
    return TrainStep(
        model,
        loss,
        tx,
        arguments.positive("steps", steps),
        arguments.positive("accumulate", accumulate),
        clip,
        ema,
        check_loss_scale(loss_scale),
        patterns(frozen),
        learning_rate,
        grad_norm,
        non_finite,
    )


def compiled(step: Step) -> Any:
    """``jax.jit`` of a step, with the run donated: the next one takes its place in memory.

    The run that goes in cannot be used again. What comes back is what ``jax.jit`` returns.
    """
    return jax.jit(step, donate_argnums=0)


def _name(key: Any) -> Any:
    return getattr(key, "name", None)
