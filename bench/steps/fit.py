"""What does a step of a small MLP cost in the loop that each library's users run?

jlayers and Keras have a ``fit``. The loops for Equinox and Flax are those of their documentation,
but for the data, which is the same numpy arrays for all, and for what they print, which goes
nowhere. ``lax`` is a loop written by hand: jitted, donating, its loss read every hundred steps.
"""

import contextlib
import functools
import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jlayers as jl

from ..models.sizes import Perceptron
from .contenders import training
from .optimizers import ADAM
from .step import Step, Unavailable

# Milliseconds of so many steps are microseconds of one.
STEPS = 1000
NAME = f"MLP (784-128-128-10), {STEPS} steps in the loop that users run"
# From one line of metrics to the next, and between two losses that all must agree on.
EVERY, JUDGED = 100, 32


class Data(NamedTuple):
    """Rows, and the same as batches."""

    x: np.ndarray
    labels: np.ndarray
    batches: list[tuple[np.ndarray, np.ndarray]]


# (data, every how many steps to tell of the loss) to the losses that it told of.
Loop = Callable[[Data, int], list[float]]


def contenders(size: Perceptron = Perceptron(), steps: int = STEPS) -> dict[str, Any]:
    loops: dict[str, Callable[[Perceptron], Loop]] = {
        "jlayers": functools.partial(_jlayers, 1),
        "jlayers, 32 steps a call": functools.partial(_jlayers, 32),
        "lax": _by_hand,
        "linen": _linen,
        "nnx": _nnx,
        "equinox": _equinox,
        "keras": functools.partial(_keras, 1),
        "keras, 32 steps a call": functools.partial(_keras, 32),
    }
    return {name: functools.partial(_prepared, make, size, steps) for name, make in loops.items()}


def _prepared(make: Callable[[Perceptron], Loop], size: Perceptron, steps: int) -> Step:
    """Judged by the mean losses of three times 32 steps."""
    loop = make(size)
    first = [float(np.mean(loop(_data(size, JUDGED, seed), 1))) for seed in range(3)]
    data = _data(size, steps, 3)
    loop(data, EVERY)  # what is compiled for so many steps
    parameters = sum(array.size for part in _weights(size).values() for array in part.values())
    return Step(lambda: loop(data, EVERY), tuple(first), None, None, None, parameters)


# All contenders have the same arrays.
@functools.lru_cache(maxsize=4)
def _data(size: Perceptron, steps: int, seed: int) -> Data:
    rng, n = np.random.default_rng(seed), size.batch
    x = rng.standard_normal((steps * n, size.inputs), np.float32)
    labels = rng.integers(0, size.classes, steps * n, np.int32)
    batches = [(x[i : i + n], labels[i : i + n]) for i in range(0, steps * n, n)]
    return Data(x, labels, batches)


def _weights(size: Perceptron) -> Any:
    from .weights import draw

    return draw("mlp", size)


def _begun(name: str, size: Perceptron) -> Any:
    """The framework's own step, for the parameters in it: those that everybody begins with."""
    return training(name, "mlp", size, ADAM, _weights(size))


def _by_steps(
    take: Callable[[Any, Any], Any], loss: Callable[[], Any], wait: Callable[[], Any]
) -> Loop:
    """A loop as one writes it: a step for each batch, and at times its loss is printed.

    Args:
      take: a step.
      loss: that to be printed.
      wait: for all that the steps changed.
    """

    def loop(data: Data, every: int) -> list[float]:
        told = []
        with _nowhere():
            for step, batch in enumerate(data.batches, 1):
                take(*batch)
                if step % every == 0:
                    told.append(loss().item())
                    print(f"{step=}, loss={told[-1]}")
        jax.block_until_ready(wait())
        return told

    return loop


@contextlib.contextmanager
def _nowhere() -> Any:
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _jlayers(steps_per_call: int, size: Perceptron) -> Loop:
    """``fit`` with all it has by itself, the bar as on a terminal."""
    import rich.console

    from jlayers import training

    from ..models.jlayers import MODELS
    from .training.functional import cross_entropy, optax_optimizer

    params = _begun("jlayers", size).carry[0]
    step = training.train_step(MODELS["mlp"](size), cross_entropy, optax_optimizer(ADAM))
    run = step.start(jax.random.key(0), jl.spec((size.batch, size.inputs)), params=params)
    taken = 0

    def loop(data: Data, every: int) -> list[float]:
        nonlocal run, taken
        taken += len(data.batches)
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        progress = training.Progress(taken, console=terminal)
        options: Any = {"steps_per_call": steps_per_call, "log_every": every, "progress": progress}
        fitted = training.fit(step, run, data.batches, steps=taken, **options)
        run = jax.block_until_ready(fitted.state)
        return [record.metrics["loss"] for record in fitted.records]

    return loop


def _by_hand(size: Perceptron) -> Loop:
    made = _begun("lax", size)
    carry, loss = made.carry, None

    def take(x: Any, labels: Any) -> None:
        nonlocal carry, loss
        *changed, loss = made.step(*carry, x, labels)
        carry = tuple(changed)

    return _by_steps(take, lambda: loss, lambda: carry)


def _linen(size: Perceptron) -> Loop:
    """https://flax-linen.readthedocs.io, "Getting started": a ``TrainState``, a jitted step."""
    from flax.training.train_state import TrainState

    from ..models.linen import MODELS
    from .training.functional import cross_entropy, optax_optimizer

    apply, params = MODELS["mlp"](size).apply, _begun("linen", size).carry[0]
    state: Any = TrainState.create(apply_fn=apply, params=params, tx=optax_optimizer(ADAM))
    loss = None

    @jax.jit
    def train_step(state: Any, x: Any, labels: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            return cross_entropy(state.apply_fn({"params": params}, x), labels)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    def take(x: Any, labels: Any) -> None:
        nonlocal state, loss
        state, loss = train_step(state, x, labels)

    return _by_steps(take, lambda: loss, lambda: (state.params, state.opt_state))


def _nnx(size: Perceptron) -> Loop:
    """https://flax.readthedocs.io, "MNIST tutorial": ``nnx.jit`` and an ``nnx.MultiMetric``."""
    from flax import nnx

    from .training.functional import cross_entropy

    model, optimizer, *_ = _begun("nnx", size).data
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    def loss_fn(model: Any, x: Any, labels: Any) -> Any:
        logits = model(x)
        return cross_entropy(logits, labels), logits

    @nnx.jit
    def train_step(model: Any, optimizer: Any, metrics: Any, x: Any, labels: Any) -> None:
        grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
        (loss, logits), grads = grad_fn(model, x, labels)
        metrics.update(loss=loss, logits=logits, labels=labels)
        optimizer.update(model, grads)

    def loss() -> Any:
        values = metrics.compute()
        metrics.reset()
        return values["loss"]

    take = functools.partial(train_step, model, optimizer, metrics)
    return _by_steps(take, loss, lambda: nnx.state(model))


def _equinox(size: Perceptron) -> Loop:
    """https://docs.kidger.site/equinox/examples/mnist: ``filter_jit``, a loss printed at times."""
    import equinox as eqx

    from .training.functional import cross_entropy, optax_optimizer

    (model, state, opt_state), optim = _begun("equinox", size).carry, optax_optimizer(ADAM)
    train_loss = None

    def loss(model: Any, x: Any, labels: Any) -> Any:
        logits, _ = jax.vmap(model, in_axes=(0, None))(x, state)
        return cross_entropy(logits, labels)

    @eqx.filter_jit
    def make_step(model: Any, opt_state: Any, x: Any, labels: Any) -> Any:
        loss_value, grads = eqx.filter_value_and_grad(loss)(model, x, labels)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, loss_value

    def take(x: Any, labels: Any) -> None:
        nonlocal model, opt_state, train_loss
        model, opt_state, train_loss = make_step(model, opt_state, x, labels)

    return _by_steps(take, lambda: train_loss, lambda: eqx.filter(model, eqx.is_array))


def _keras(steps_per_execution: int, size: Perceptron) -> Loop:
    """``compile`` and ``fit`` over arrays, with the bar that it has by itself."""
    from .training.keras import MODELS, keras, layout
    from .weights import fill

    if keras.backend.backend() != "jax":
        raise Unavailable("keras was imported with another backend; set KERAS_BACKEND=jax")
    model = MODELS["mlp"](size)
    own = {variable.path: variable for variable in model.trainable_variables}
    shapes = {path: tuple(variable.shape) for path, variable in own.items()}
    for path, value in fill(_weights(size), layout, shapes).items():
        own[path].assign(value)
    model.compile(
        optimizer=keras.optimizers.Adam(ADAM.learning_rate, **ADAM.options),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )

    def loop(data: Data, every: int) -> list[float]:
        with _nowhere():
            told = model.fit(data.x, data.labels, batch_size=size.batch, shuffle=False)
        return list(map(float, told.history["loss"]))

    return loop
