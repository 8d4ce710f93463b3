"""The training step, a pure function built from a model, a loss and an optax transformation.

How to read this file: ``TrainStep`` holds the options. ``train_step`` (``__call__``) takes one step
or, with ``steps``, scans over several; ``guarded`` is what the loop calls: it also says whether the
step was finite. Both are made of ``_gradient`` (loss, scaling, clipping) and ``_update``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, Never, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ..base import arguments
from ..base.errors import TrainingError, public_api, public_init
from ..base.layer import Layer
from ..base.specs import format_short, specs_of
from ..base.types import Params, PyTree, State
from ..combinators.placed import with_placed_outputs
from ..inspection.training_loss import Batch, LossFunction, Metrics, training_loss
from ..sharding import Layout, Rules
from . import optimizer
from .divided_loss import divided_loss
from .finite import cond_update, edges_are_finite, is_finite, select_if
from .gradient import accumulated, gradient_of
from .loss_scale import LossScale, check_loss_scale
from .optimizer import Optimizer, Schedule
from .sharded import (
    check_sharding,
    first_of,
    kept_activations,
    layout_of,
    on_devices,
    run_on_mesh,
    start_sharded,
)
from .state import (
    TrainState,
    check_model,
    check_patterns,
    check_transformation,
    evaluated,
    join_trained,
    split_trained,
    train_state,
    widened,
)
from .step_checks import check_batch, check_state

T = TypeVar("T")
# Any pure step over any pytree: what ``fit`` takes.
Step: TypeAlias = Callable[[Any, Any], tuple[Any, Metrics]]


# eq=False: ``fit`` finds the compiled program of a step by the step itself, and two losses are the
# same only where they are one object.
@public_init("train_step")
@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """``step(state, batch) -> (state, metrics)``, pure and not compiled.

    ``train_step(model, loss, tx, ...)`` makes one; it is this class under its usual name.

    Args:
      model: the layer to train; it is applied with ``train=True`` and a key of the step's own.
      loss: ``loss(y, *targets)``, a floating scalar, or this and a dict of further metrics. It gets
        what it has arguments for by these names: ``params``, ``state`` (of the model, after the
        forward pass), ``step``, ``key``, and ``added_loss``, the sum of what layers added inside by
        ``f.add_loss``. A loss that does not take that sum has it added.
      tx: the optax transformation.
      steps: K steps in one call, through one ``lax.scan``: a small model's step takes less time
        than Python needs to launch it.
      accumulate: the batch is split into so many equal parts, computed one after the other: large
        batches in little memory. The gradient is that of the undivided batch, whatever the parts
        hold (weights, valid steps, filling); statistics of ``BatchNorm`` and losses that layers
        add are those of each part.
      clip: the largest global norm of a gradient, by ``optax.clip_by_global_norm``.
      ema: the decay of a moving average of the trained parameters, such as 0.999; see
        ``ema_params``.
      loss_scale: scales the loss of a float16 model; see ``LossScale``.
      frozen: patterns over the paths of parameters that are not trained: they are not
        differentiated, and the optimiser keeps no state for them. A layer whose parameters are all
        frozen is in evaluation mode, with all inside it: ``BatchNorm`` keeps its statistics, and
        ``Dropout`` drops nothing. Masks and labels of ``tx`` are those of all parameters.
      learning_rate: the schedule that ``tx`` was built with, step to rate, or the rate, to have it
        among the metrics. With a ``tx`` of ``optax.inject_hyperparams`` it is there anyway.
      grad_norm: have the gradient's global norm, before clipping, among the metrics; with ``clip``
        it always is. It reads all of the gradient, which is noticeable in a small model's step.
      non_finite: "skip" leaves the state as it was, except for its number, after a step whose loss
        or gradient is not finite.
      mesh: the devices to train on, with ``rules``. ``start`` then makes the state in its places,
        the step splits the batch and keeps the state where it is, and ``fit`` puts batches there.
      rules: which part of each array lies where: ``sharding.fsdp("data")``, or ``sharding.rules``.

    Args of the step:
      state: a ``TrainState``; ``step.start(key, x)`` makes the first.
      batch: ``(x, *targets)``. With ``steps=K`` > 1 the first axis of every array, of the metrics
        too, is that of the K steps.

    Returns of the step:
      state: the next one.
      metrics: the loss, before the update, as "loss", those that ``loss`` returned, and
        "added_loss", "grad_norm", "learning_rate", "loss_scale" and "skipped" (int32, 1 for a
        step that changed nothing) where they apply.

    Raises:
      TrainingError: at once for an invalid argument; from the step, when it is traced, for an
        invalid state, batch or loss.
      LayerError: from the step, where the batch does not fit the model.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model, tx = jl.Dense(1), optax.sgd(0.1)
    >>> step = training.train_step(model, lambda y, target: jnp.mean((y - target) ** 2), tx)
    >>> x, target = jnp.ones((8, 4)), jnp.zeros((8, 1))
    >>> state = step.start(jax.random.key(0), x)
    >>> state, metrics = jax.jit(step)(state, (x, target))
    >>> int(state.step), metrics["loss"].shape
    (1, ())
    """

    model: Layer
    loss: LossFunction
    tx: Optimizer
    _: dataclasses.KW_ONLY
    steps: int = 1
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    loss_scale: LossScale | None = None
    frozen: str | tuple[str, ...] = ()
    learning_rate: Schedule | float | None = None
    grad_norm: bool = False
    non_finite: Literal["apply", "skip"] = "apply"
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None
    rules: Rules | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        if not callable(self.loss):
            raise TrainingError(
                "loss must be a function", expected="loss(y, *targets)", got=format_short(self.loss)
            )
        check_transformation(self.tx)
        arguments.positive("steps", self.steps)
        arguments.positive("accumulate", self.accumulate)
        for name, high in (("clip", float("inf")), ("ema", 1)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < high):
                raise TrainingError(f"{name} must be between 0 and {high}, got {value!r}")
        check_loss_scale(self.loss_scale)
        object.__setattr__(self, "frozen", check_patterns(self.frozen))
        if not (self.learning_rate is None or callable(self.learning_rate)):
            arguments.number("learning_rate", float(self.learning_rate))
        if self.non_finite not in ("apply", "skip"):
            raise TrainingError(
                f"unknown non_finite {self.non_finite!r}", expected="'apply' or 'skip'"
            )
        check_sharding(self.mesh, self.rules)

    def layout(self, x: PyTree) -> Layout | None:
        """Where the mesh and the rules place the state, for an input ``x``; None without them."""
        return layout_of(self.model, x, self.mesh, self.rules)

    def spec(self, x: PyTree) -> TrainState:
        """The shapes and dtypes of the state for an input ``x``. Nothing is computed."""
        made: TrainState = jax.eval_shape(self._make(), jax.random.key(0), specs_of(x))
        return made

    def activations(self, state: TrainState, batch: Batch) -> int:
        """Bytes that the backward pass keeps of the forward pass, for one of ``accumulate`` parts.

        As JAX derives it, over all devices together. XLA keeps less where it merges operations.
        """
        return kept_activations(self, state, batch)

    def start(
        self,
        key: jax.Array,
        x: PyTree,
        *,
        params: Params | None = None,
        state: State | None = None,
    ) -> TrainState:
        """The state before the first step: ``train_state`` with the options of this step.

        With a mesh each device draws its own part: no parameter is whole in any memory.
        """
        make, layout = self._make(), self.layout(x)
        if layout is None:
            return make(key, x, params=params, state=state)
        return start_sharded(make, layout, key, x, params, state)

    def _make(self) -> Callable[..., TrainState]:
        more: dict[str, Any] = {"frozen": self.frozen, "loss_scale": self.loss_scale}
        return functools.partial(train_state, self.model, self.tx, ema=self.ema is not None, **more)

    def __call__(self, state: TrainState, batch: Batch, *more: Never) -> tuple[TrainState, Metrics]:
        return self.train_step(state, batch, *more)  # which refuses more by name

    @public_api
    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The step; a method of its own, so that errors name it."""
        check_batch(batch, self.steps)
        check_state(self, state)
        batch = on_devices(batch, self.mesh, self.rules, self.steps > 1)
        x = batch[0] if self.steps == 1 or self.mesh is None else first_of(batch[0])
        return run_on_mesh(self.layout(x), self._steps, 1, state, batch)

    def _steps(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if self.steps == 1:
            return self._one(state, batch)
        new, metrics = lax.scan(self._one, state, batch)
        # What leaves a scan lies where XLA likes.
        return (new if self.mesh is None else self.placed(new, first_of(batch))), metrics

    def guarded(
        self, state: TrainState, batch: Batch, active: jax.Array | None = None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        """One step that changes nothing where its loss or its gradient is not finite.

        Args:
          state, batch: of one step, whatever ``steps`` is.
          active: bool (), False for a step that is to do nothing and not to be counted. Where it is
            given, a non-finite step is not counted either: the state stays as it was before it.

        Returns:
          The next state, the metrics, and whether the step was finite, bool ().
        """
        check_batch(batch, 1)
        check_state(self, state)
        return run_on_mesh(self.layout(batch[0]), self._guarded, 2, state, batch, active)

    def placed(self, tree: T, batch: Batch) -> T:
        """A tree like the state or the gradient, where the rules place it."""
        layout = self.layout(batch[0])
        return tree if layout is None else layout.constrain(tree)

    def _one(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        layout = self.layout(batch[0])
        batch = batch if layout is None else layout.constrain_batch(batch)
        if self.non_finite == "skip" or self.loss_scale:
            state, metrics, _ = self._guarded(state, batch, None)
            return state, metrics
        gradient, model_state, metrics, loss_of = self._gradient(state, batch)
        new = self._update(loss_of, state, gradient, model_state, metrics["loss"])
        new = self.placed(new._replace(step=state.step + 1), batch)
        return new, metrics | self._rate(state, new)

    def _guarded(
        self, state: TrainState, batch: Batch, active: jax.Array | None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        layout = self.layout(batch[0])
        batch = batch if layout is None else layout.constrain_batch(batch)
        gradient, model_state, metrics, loss_of = self._gradient(state, batch)
        finite = jnp.isfinite(metrics["loss"])
        # The norm, where it is computed anyway, reads all of the gradient.
        if "grad_norm" in metrics:
            usable = finite & jnp.isfinite(metrics["grad_norm"])
        else:
            look = is_finite if self.loss_scale else edges_are_finite
            usable = finite & look(gradient)
        # Conditional, and not undone later: when the host learns of a bad step, there has to be a
        # state without NaN to diagnose and to save (docs/notes/0011-training.md).
        applied = usable if active is None else usable & active
        update = functools.partial(self._update, loss_of)
        new = cond_update(applied, update, state, gradient, model_state, metrics["loss"])
        if self.loss_scale and state.loss_scale:
            scale = self.loss_scale.next(state.loss_scale, usable)
            # An overflow is expected with a scale, as long as there is a smaller one.
            finite = usable | (finite & (state.loss_scale.scale > self.loss_scale.least))
            if active is not None:
                scale = select_if(finite & active, scale, state.loss_scale)
            new = new._replace(loss_scale=scale)
        else:
            finite = usable
        # In a loop that stops, a step that is not counted leaves the state as it was before it.
        counts = jnp.int32(1) if active is None else (finite & active).astype(jnp.int32)
        if active is None:
            metrics["skipped"] = (~usable).astype(jnp.int32)
        new = self.placed(new._replace(step=state.step + counts), batch)
        return new, metrics | self._rate(state, new), finite

    def _gradient(
        self, state: TrainState, batch: Batch
    ) -> tuple[PyTree, State, Metrics, Callable[[Params], jax.Array]]:
        """The gradient, the model's new state, the metrics, and the loss as a function."""
        # From the number of the step, not from the last key: a resumed step draws the same.
        key = jax.random.fold_in(state.key, state.step)
        scale = state.loss_scale.scale if state.loss_scale else None
        frozen = check_patterns(self.frozen)
        model = evaluated(self.model, state.params, frozen)
        layout = self.layout(batch[0])
        place: Callable[[PyTree], PyTree] = lambda parts: parts  # noqa: E731
        if layout is not None:
            rows = jax.tree.leaves(batch)[0].shape[0] // self.accumulate
            model = with_placed_outputs(model, layout.keep_rows(rows))
            place = layout.keep_rows(rows, stacked=1)

        def one(
            loss: LossFunction, model_state: State, key: jax.Array, batch: Batch
        ) -> tuple[PyTree, State, Metrics]:
            given = (frozen, scale, state.step, state.params, model_state, key, batch)
            return gradient_of(model, loss, *given)

        def divided() -> LossFunction:
            given = (state.params, state.state, key, batch, state.step)
            return divided_loss(model, self.loss, self.accumulate, *given)

        def loss_of(trained: Params) -> jax.Array:
            if self.accumulate > 1:
                raise TrainingError(
                    "the optimiser asks for the loss at other parameters, of the undivided batch",
                    expected="accumulate=1",
                    got=f"accumulate={self.accumulate}",
                )
            params = join_trained(trained, split_trained(state.params, frozen)[1])
            given = (params, state.state, key, batch, None, state.step)
            return training_loss(model, self.loss, *given)[0]

        if self.accumulate == 1:
            gradient, model_state, metrics = one(self.loss, state.state, key, batch)
        else:
            gradient, model_state, metrics = accumulated(
                self.accumulate, one, divided, state.state, key, batch, place
            )
        narrow = gradient = self.placed(gradient, batch)
        if scale is not None:
            # In float32: float16 holds neither large scales nor large norms.
            gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / scale, gradient)
            metrics["loss_scale"] = scale
        if self.clip is not None or self.grad_norm:
            # So is the norm: the squares of 256 overflow in float16.
            gradient = widened(gradient)
            metrics["grad_norm"] = optax.tree.norm(gradient)
        # Not in a chain with tx: the state of a chain would have another structure than that of tx,
        # and checkpoints are read by it.
        if self.clip is not None:
            clip = optax.clip_by_global_norm(self.clip)
            gradient, _ = clip.update(gradient, optax.EmptyState())
        # As it came: moments that tx.init made in bfloat16 would be promoted by a float32 gradient.
        gradient = jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), gradient, narrow)
        return gradient, model_state, metrics, loss_of

    def _update(
        self,
        loss_of: Callable[[Params], jax.Array],
        state: TrainState,
        gradient: PyTree,
        model_state: State,
        loss: jax.Array,
    ) -> TrainState:
        trained, fixed = split_trained(state.params, check_patterns(self.frozen))
        trained, opt_state = optimizer.update(
            self.tx, gradient, state.opt_state, trained, state.params, loss, loss_of
        )
        ema = state.ema
        if self.ema is not None:
            # In float32 where parameters are narrower, see ``widened``.
            ema = optax.incremental_update(widened(trained), ema, 1 - self.ema)
        params = join_trained(trained, fixed)
        return state._replace(params=params, state=model_state, opt_state=opt_state, ema=ema)

    def _rate(self, before: TrainState, after: TrainState) -> Metrics:
        return optimizer.learning_rate(
            self.learning_rate, before.opt_state, after.opt_state, before.step
        )


# As users write it: a step is made by a function, as a layer is.
train_step = TrainStep


def compiled(step: Step) -> Any:
    """``jax.jit`` of a step, with the state donated: the next one takes its place in memory.

    The state that is passed in cannot be used again: JAX then says that a buffer was deleted or
    donated. Keep the new one, ``state, metrics = step(state, batch)``, or pass
    ``jax.tree.map(jnp.copy, state)``. The result is what ``jax.jit`` returns. XLA is given no
    options, where ``fit`` compiles with ``jl.compiler_options()``.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> make = training.train_step(jl.Dense(1), lambda y: jnp.mean(y**2), optax.sgd(0.1))
    >>> step, x = training.compiled(make), jnp.ones((4, 2))
    >>> state, metrics = step(make.start(jax.random.key(0), x), (x,))
    >>> int(state.step)
    1
    """
    # Not a function around it, which could name the leaf as ``fit`` does: at each call it would
    # cost 0.4 microseconds of the 15 that a small step takes to launch.
    return jax.jit(step, donate_argnums=0)
