"""The loop: the numbers of the bare one, what is due when, going on from a checkpoint, trouble."""

import collections
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from jax.sharding import NamedSharding, PartitionSpec
from tables.tiers import sample

import jlayers as jl
from jlayers import testing, training
from jlayers.inspection.donation import Donation

MODEL = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dropout(0.2), jl.Dense(2))
TX = optax.adam(1e-2)
X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
LABELS = (X.sum(1) > 0).astype(np.int32)
PROGRAMS = pathlib.Path(__file__).parent.parent / "programs"


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(logits, labels):
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"right": (logits.argmax(-1) == labels).sum(dtype=jnp.int32)}


STEP = training.train_step(MODEL, loss, TX)


def start(step=STEP):
    return step.start(jax.random.key(0), X[:8])


def batches(**options):
    return training.Batches((X, LABELS), 8, key=3, **options)


def fit(step=STEP, state=None, data=None, **options):
    options = {"progress": False, "log_every": 5} | options
    state = start(step) if state is None else state
    return training.fit(step, state, batches() if data is None else data, **options)


def by_hand(steps, step=STEP):
    """The bare loop: the state and the metrics of each step."""
    state, jitted, metrics = start(step), jax.jit(step), []
    for batch, _ in itertools.islice(batches().read(), steps):
        state, own = jitted(state, batch)
        metrics.append(own)
    return state, metrics


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def told(records):
    """What of a record does not depend on the clock."""
    return [record[:3] for record in records]


@pytest.mark.parametrize(
    "options", [{}, {"prefetch": 0}, {"steps_per_call": 3}, {"non_finite": "ignore"}], ids=str
)
def test_the_run_is_that_of_the_bare_loop(options):
    expected, metrics = by_hand(12)
    fitted = fit(steps=12, **options)
    same(fitted.state, expected)
    assert (fitted.step, fitted.position, fitted.stopped) == (12, [2, 0], "steps")
    assert fitted.records[-1].step == 12
    rights = sum(int(own["right"]) for own in metrics)
    assert sum(record.metrics["right"] for record in fitted.records) == rights


def test_records_are_means_over_the_steps_since_the_last():
    _, metrics = by_hand(12)
    records = fit(steps=12).records
    assert [record.step for record in records] == [5, 10, 12]
    assert [record.epoch for record in records] == [0, 1, 2]
    losses = np.asarray([own["loss"] for own in metrics])
    for record, own in zip(records, (losses[:5], losses[5:10], losses[10:]), strict=True):
        np.testing.assert_allclose(record.metrics["loss"], own.mean(), rtol=1e-5, atol=1e-6)
    assert all(record.steps_per_second > 0 for record in records)


def test_records_are_read_one_behind_and_never_between(monkeypatch):
    """Nothing else in the loop reads from the device."""
    reads, seen, counts = [], [], []

    def counted(module, name):
        function = getattr(module, name)

        def call(value, *rest, **options):
            if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
                reads.append(name)
            return function(value, *rest, **options)

        monkeypatch.setattr(module, name, call)

    counted(jax, "device_get")
    counted(jax, "block_until_ready")
    counted(np, "asarray")
    counted(np, "array")
    for name in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist"):
        counted(type(jnp.zeros(())), name)

    def data(epoch):
        for i in range(20):
            if i == 3:
                reads.clear()  # those of the first calls, which compile
            counts.append((i, len(seen)))
            yield X[:8], LABELS[:8]

    fit(data=data, steps=20, prefetch=0, hooks=[lambda record: seen.append(record.step)])
    assert seen == [5, 10, 15, 20]
    # Four records, one array each.
    assert reads == ["asarray"] * 4
    # The record of step 5 is read when step 10 has been sent off; data is read one batch ahead.
    assert (dict(counts)[10], dict(counts)[11]) == (0, 1)


def test_what_is_due_is_due_at_its_multiples():
    seen = []

    def evaluate(state):
        seen.append(int(state.step))
        return {"loss": state.step}

    fitted = fit(steps=14, log_every=4, evaluate=evaluate, evaluate_every=6)
    assert seen == [6, 12, 14]
    evaluated = {r.step: r.metrics.get("eval/loss") for r in fitted.records}
    assert evaluated == {4: None, 6: 6.0, 8: None, 12: 12.0, 14: 14.0}


def test_it_ends_after_the_epochs_the_data_or_when_told():
    assert fit(epochs=2)[2:] == (12, [2, 0], "data")
    several = [(X[:8], LABELS[:8])] * 3
    assert fit(data=iter(several))[2:] == (3, [0, 3], "data")
    assert fit(steps=100, hooks=[lambda record: record.step == 10])[2:4] == (15, [2, 3])
    assert fit(steps=100, hooks=[lambda record: True]).stopped == "callback"
    early = training.EarlyStopping("eval/loss", patience=2)
    fitted = fit(
        steps=100, evaluate=lambda state: {"loss": 1.0}, evaluate_every=5, early_stopping=early
    )
    assert (fitted.step, fitted.stopped) == (15, "early stopping")


def test_an_evaluation_is_the_mean_over_all_examples():
    def measure(logits, labels):
        return {"loss": loss(logits, labels)[0], "right": (logits.argmax(-1) == labels).mean()}

    state = start()
    held = training.Batches((X, LABELS), 16, last="keep")
    metrics = training.make_evaluator(MODEL, measure, held)(state)
    logits, _ = MODEL.apply(state.params, state.state, X)
    for name, value in measure(logits, LABELS).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_an_evaluation_takes_averages_and_padding():
    step = training.train_step(MODEL, loss, TX, ema=0.5)
    state = fit(step, steps=5).state
    held = training.Batches((X, LABELS), 16, last="pad")

    def measure(logits, labels, valid):
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return {"loss": (values * valid).sum() / valid.sum(), "weight": valid.sum()}

    metrics = training.make_evaluator(MODEL, measure, held, ema=True)(state)
    logits, _ = MODEL.apply(training.ema_params(state), state.state, X)
    np.testing.assert_allclose(metrics["loss"], loss(logits, LABELS)[0], rtol=1e-5)
    assert metrics.keys() == {"loss"}


def test_any_pure_step_over_any_tree():
    def step(state, batch):
        weights = state["weights"] - 0.1 * (state["weights"] - batch["target"])
        return {"weights": weights}, {"error": jnp.abs(weights - batch["target"]).max()}

    data = [{"target": np.float32([1.0, 2.0])}]
    fitted = fit(step, {"weights": jnp.zeros(2)}, data, steps=100)
    np.testing.assert_allclose(fitted.state["weights"], [1, 2], rtol=1e-3)
    assert fitted.records[-1].metrics["error"] < 1e-3


# Going on.


def kept(folder, **options):
    return training.CheckpointManager(folder, keep=None, **options)


@pytest.mark.parametrize("options", [{}, {"steps_per_call": 3}], ids=str)
def test_a_run_in_two_parts_is_the_run(tmp_path, options):
    options = {"log_every": 4, "checkpoint_every": 6} | options
    whole = fit(steps=14, checkpoints=kept(tmp_path / "whole"), **options)
    fit(steps=7, checkpoints=kept(tmp_path / "parts"), **options)
    fitted = fit(steps=14, checkpoints=kept(tmp_path / "parts"), **options)
    same(fitted.state, whole.state)
    assert told(fitted.records) == told(whole.records)
    assert fitted.position == whole.position
    assert kept(tmp_path / "parts").steps() == [*kept(tmp_path / "whole").steps()[:1], 7, 12, 14]


def test_a_run_that_is_over_is_given_back(tmp_path):
    fitted = fit(steps=7, checkpoints=kept(tmp_path))
    with pytest.warns(UserWarning, match="resumed at step 7 of 7, nothing to do"):
        again = fit(steps=7, checkpoints=kept(tmp_path))
    same(again.state, fitted.state)
    assert again.stopped == "steps"


def test_resume_is_a_choice(tmp_path):
    fit(steps=7, checkpoints=kept(tmp_path))
    with pytest.warns(UserWarning, match="remains the latest"):
        assert fit(steps=3, checkpoints=kept(tmp_path), resume=False).step == 3


def test_another_model_is_not_resumed(tmp_path):
    fit(steps=3, checkpoints=kept(tmp_path))
    other = training.train_step(jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(2)), loss, TX)
    with pytest.raises(jl.CheckpointError, match="params/dense_1"):
        fit(
            training.train_step(jl.serial(jl.Dense(4), jl.Dense(4), jl.Dense(2)), loss, TX),
            steps=6,
            checkpoints=kept(tmp_path),
        )
    # Its parameters have the same shapes: it may be meant.
    with pytest.warns(UserWarning, match=r"(?s)another model.*then: .*Dropout.*now:  serial"):
        assert fit(other, steps=6, checkpoints=kept(tmp_path)).step == 6


def test_other_data_is_noticed(tmp_path):
    fit(steps=3, checkpoints=kept(tmp_path))
    with pytest.warns(UserWarning, match=r"(?s)step 3 is of other data.*rows: \d+ became \d+"):
        fit(steps=4, data=training.Batches((X[:32], LABELS[:32]), 8), checkpoints=kept(tmp_path))


def test_an_error_loses_nothing(tmp_path):
    def fails(record):
        if record.step == 10:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        fit(steps=50, checkpoints=kept(tmp_path), hooks=[fails])
    fitted = caught.value.fitted
    assert fitted.step == 15
    assert kept(tmp_path).steps() == [15]
    again = fit(steps=20, checkpoints=kept(tmp_path))
    same(again.state, fit(steps=20).state)
    assert told(again.records) == told(fit(steps=20).records)


def test_ctrl_c_ends_it_between_two_steps(tmp_path):
    def interrupts(record):
        if record.step == 5:
            signal.raise_signal(signal.SIGINT)

    fitted = fit(steps=50, checkpoints=kept(tmp_path), hooks=[interrupts])
    assert fitted.stopped == "interrupt"
    assert kept(tmp_path).steps() == [fitted.step]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    same(fit(steps=20, checkpoints=kept(tmp_path)).state, fit(steps=20).state)


def run_program(folder, *arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(PROGRAMS.parent.parent)}
    # What it computes is compared with this process, whose programs are optimised for it.
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    command = [sys.executable, str(PROGRAMS / "resumable.py"), str(folder), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_sigterm_leaves_a_resumable_state(tmp_path):
    process = run_program(tmp_path)
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    stopped_at = kept(tmp_path).latest()
    assert stopped_at >= 12
    more = run_program(tmp_path, "--steps", str(stopped_at + 9))
    out, _ = more.communicate(timeout=60)
    assert out.splitlines()[-1] == f"ended {stopped_at + 9} steps"
    sys.path.insert(0, str(PROGRAMS))
    import resumable

    with jax.numpy_dtype_promotion("standard"):
        jax.config.update("jax_disable_most_optimizations", False)
        whole = training.fit(**resumable.exact(), steps=stopped_at + 9, progress=False)
    found = kept(tmp_path).restore(whole.state)
    same(found.tree, whole.state)


# Compilations and donation.


@pytest.mark.cold
def test_the_step_is_compiled_once(tmp_path):
    fitted = fit(
        steps=25,
        max_compiles=1,
        checkpoints=kept(tmp_path),
        checkpoint_every=5,
        evaluate=lambda state: {"step": state.step},
        evaluate_every=5,
    )
    assert fitted.step == 25
    assert fit(steps=30, max_compiles=1, checkpoints=kept(tmp_path)).step == 30


@pytest.mark.cold
def test_the_same_step_is_not_compiled_again_by_the_next_loop():
    traces = []

    def counting(logits, labels):
        traces.append(1)
        return loss(logits, labels)

    step = training.train_step(MODEL, counting, TX)
    fit(step, steps=3)
    first = len(traces)
    fit(step, steps=6, max_compiles=1)
    assert len(traces) == first == 1


@pytest.mark.cold
@pytest.mark.parametrize(
    "options", sample([{"steps_per_call": 2}, {}, {"prefetch": 0}], 0), ids=str
)
def test_a_run_on_two_devices_is_compiled_once_and_resumed(tmp_path, options):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    axes = (None, "data") if "steps_per_call" in options else ("data",)
    options |= {"device": NamedSharding(mesh, PartitionSpec(*axes)), "max_compiles": 1}
    model = jl.serial(jl.Dense(8), jl.BatchNorm(), jax.nn.relu, jl.Dense(2))

    def fitted(steps, step, folder):
        state = jax.device_put(start(step), NamedSharding(mesh, PartitionSpec()))
        return fit(step, state, steps=steps, checkpoints=kept(tmp_path / folder), **options)

    step = training.train_step(model, loss, TX)
    whole = fitted(12, step, "whole")
    fitted(6, step, "parts")
    parts = fitted(12, training.train_step(model, loss, TX), "parts")
    same(parts.state, whole.state)
    assert len(parts.state.params["dense"]["kernel"].sharding.device_set) == 2
    alone = fit(step, start(step), steps=12)
    kernels = [state.params["dense"]["kernel"] for state in (whole.state, alone.state)]
    np.testing.assert_allclose(*map(np.asarray, kernels), rtol=1e-4, atol=1e-5)


def test_a_shorter_last_stack_is_no_news():
    assert fit(steps=11, steps_per_call=4, max_compiles=1).step == 11


def test_a_batch_of_another_shape_is_told():
    with pytest.warns(
        UserWarning, match=r"(?s)compiled again.*batch/0: float32\[8, 6\] became float"
    ):
        fit(data=batches(last="keep"), steps=7)
    with pytest.raises(jl.TrainingError, match=r"(?s)batch/0.*last='drop'") as caught:
        fit(
            training.train_step(MODEL, loss, TX),
            data=batches(last="keep"),
            steps=14,
            max_compiles=1,
        )
    assert "max_compiles=1" in str(caught.value)


def test_donation_that_was_of_no_use_is_told():
    state = {"a": jnp.ones((4, 4)), "b": jnp.ones(3)}
    used = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = used(state)
    donation = Donation(state)
    donation.verify(used(state))
    other = {"a": jnp.ones((4, 4)), "b": state["b"] if not state["b"].is_deleted() else jnp.ones(3)}
    with pytest.warns(UserWarning, match=r"was not used for:\n  a: float32\[4, 4\]"):
        Donation(other).verify({"a": other["a"] + 1, "b": other["b"]})


# What is not finite.


def poisoned(at=7, rows=(2,), count=20):
    """The batches of a list; one holds what is not finite."""
    rng, made = np.random.default_rng(5), []
    for i in range(count):
        x = rng.normal(size=(8, 6)).astype(np.float32)
        if i == at:
            x[list(rows)] = np.inf
        made.append((x, (x.sum(1) > 0).astype(np.int32)))
    return made


def before(at=7):
    state, jitted = start(), jax.jit(STEP)
    for batch in poisoned()[:at]:
        state, _ = jitted(state, batch)
    return state


@pytest.mark.parametrize("options", [{}, {"steps_per_call": 3}], ids=str)
@pytest.mark.parametrize("as_data", sample([list, iter]), ids=["list", "iterator"])
def test_stop_names_the_batch_and_holds_the_run_before_it(tmp_path, options, as_data):
    with pytest.raises(training.NonFiniteError) as caught:
        fit(data=as_data(poisoned()), steps=20, checkpoints=kept(tmp_path), **options)
    error = caught.value
    assert (error.step, error.batch[0].shape) == (7, (8, 6))
    np.testing.assert_array_equal(error.batch[0], poisoned()[7][0])
    if as_data is list:
        assert (error.position, error.after) == ([0, 7], [0, 8])
    same(error.state, before())
    text = str(error)
    assert text.startswith("fit: the loss or the gradient of step 7 is not finite")
    assert "batch" in text
    assert error.fitted.step == 7
    assert kept(tmp_path).latest() == 7
    found = kept(tmp_path).restore(error.state)
    same(found.tree, before())
    assert [record.step for record in error.fitted.records] == [5] * (not options) or [6]


def test_skip_leaves_the_step_out():
    with pytest.warns(UserWarning, match="of step 7 is not finite"):
        fitted = fit(data=poisoned(), steps=20, non_finite="skip")
    state, jitted = start(), jax.jit(training.train_step(MODEL, loss, TX, non_finite="skip"))
    for batch in poisoned():
        state, _ = jitted(state, batch)
    same(fitted.state, state)
    assert sum(record.metrics.get("skipped", 0) for record in fitted.records) == 1
    assert all(np.isfinite(record.metrics["loss"]) for record in fitted.records)


def test_roll_back_goes_on_behind_the_batch(tmp_path):
    with pytest.warns(UserWarning, match=r"of step 7 is not finite(.|\n)*goes back to step 5"):
        fitted = fit(
            data=poisoned(),
            steps=15,
            non_finite="roll back",
            checkpoints=kept(tmp_path),
            checkpoint_every=5,
            max_compiles=1,
        )
    state, jitted = start(), jax.jit(STEP)
    data = poisoned()
    for batch in data[:5] + data[8:18]:
        state, _ = jitted(state, batch)
    same(fitted.state, state)
    assert fitted.position == [0, 18]


def test_roll_back_gives_up(tmp_path):
    with pytest.raises(training.NonFiniteError) as caught:
        fit(data=poisoned(3), steps=15, non_finite="roll back", checkpoints=kept(tmp_path))
    assert "there is no checkpoint yet" in caught.value.__notes__[0]


def test_ignore_goes_on():
    fitted = fit(data=poisoned(), steps=10, non_finite="ignore")
    assert np.isnan(fitted.records[-1].metrics["loss"])


def test_of_a_step_of_ones_own_the_loss_is_known():
    def step(state, batch):
        return state + 1, {"loss": batch.sum() + state}

    data = [np.float32([i]) for i in range(5)] + [np.float32([np.nan])]
    with pytest.raises(training.NonFiniteError) as caught:
        fit(step, jnp.zeros(()), data, steps=6)
    assert caught.value.state == 5
    assert caught.value.report is None


def test_overflows_of_float16_are_no_trouble_while_there_is_a_smaller_scale():
    step = training.train_step(
        MODEL, loss, TX, loss_scale=training.LossScale(initial=2.0**40, least=2.0**-2)
    )
    data = [(X[:8].astype(np.float16), LABELS[:8])]
    state = step.start(jax.random.key(0), data[0][0])
    fitted = fit(step, state, data, steps=60)
    assert fitted.step == 60
    assert fitted.state.loss_scale.scale < 2.0**40
    assert np.isfinite(fitted.records[-1].metrics["loss"])


# Errors.


ERRORS = [
    (lambda: fit(3, start()), "fit: step must be a function", "step(state, batch)"),
    (
        lambda: fit(training.train_step(MODEL, loss, TX, steps=4)),
        "fit: the step takes 4 steps itself",
        "steps_per_call=",
    ),
    (lambda: fit(steps=0), "fit: steps must be a positive int, got 0"),
    (lambda: fit(epochs=0), "fit: epochs must be a positive int, got 0"),
    (lambda: fit(steps_per_call=0), "fit: steps_per_call must be a positive int, got 0"),
    (lambda: fit(log_every=0), "fit: log_every must be a positive int, got 0"),
    (lambda: fit(evaluate_every=0), "fit: evaluate_every must be a positive int, got 0"),
    (lambda: fit(checkpoint_every=0), "fit: checkpoint_every must be a positive int, got 0"),
    (
        lambda: fit(compiler_options="fast"),
        "fit: compiler_options must be a dict of XLA's options by name",
        "compiler_options={} for none",
    ),
    (
        lambda: fit(compiler_options={"xla_cpu_an_option": [1]}),
        "fit: compiler_options must be a dict of XLA's options by name",
        "got:      {xla_cpu_an_option: [1]}",
    ),
    (lambda: fit(prefetch=-1), "fit: prefetch must be an int of at least 0, got -1"),
    (lambda: fit(non_finite="explode"), "fit: unknown non_finite 'explode'", "'roll back'"),
    (
        lambda: fit(non_finite="roll back"),
        "fit: nothing to roll back to",
        "CheckpointManager(folder)",
    ),
    (lambda: fit(hooks=[3]), "fit: hooks must be a function of (record), got 3"),
    (lambda: fit(hooks=print), "fit: hooks must be a list", "hooks=[hook]"),
    (lambda: fit(hooks=training.Hook()), "fit: hooks must be a list", "hooks=[hook]"),
    (lambda: fit(max_compiles=0), "fit: max_compiles must be a positive int, got 0"),
    (lambda: fit(evaluate=3, steps=4), "fit: evaluate must be a function of (state), got 3"),
    (lambda: fit(early_stopping=3), "fit: early_stopping must be a training.EarlyStopping"),
    (
        lambda: fit(early_stopping=training.EarlyStopping("eval/loss", patience=2), steps=3),
        "fit: early_stopping waits for 'eval/loss', but evaluate= is missing",
        "training.make_evaluator(",
    ),
    (
        lambda: fit(),
        "fit: neither steps nor epochs is given, and the data has no end",
        "steps= or epochs=",
    ),
    (lambda: fit(checkpoints="folder"), "fit: checkpoints must be a training.CheckpointManager"),
    (
        lambda: training.fit(jl.Dense(3), X, LABELS, epochs=2),
        "fit: step must be a step of training, got a layer",
        "fit(step, state, data, steps=...)",
        "step = training.train_step(model, loss, tx)",
    ),
    (
        lambda: training.fit(jl.Dense(3), (X, LABELS)),
        "fit: missing a required argument: 'data'",
        "step = training.train_step(model, loss, tx)",
    ),
    (lambda: fit(data=(X, LABELS)), "fit: the data is arrays, not batches of them"),
    (
        lambda: fit(lambda state, batch: (state, {"loss": batch}), 1.0, [X[0]], steps=2),
        "fit: the metric 'loss' must be a real scalar",
        "float32[6]",
    ),
    (
        lambda: training.make_evaluator(MODEL, loss, iter([(X, LABELS)])),
        "make_evaluator: the data can be read once only, and each evaluation reads it",
    ),
    (lambda: training.make_evaluator(MODEL, 3, []), "make_evaluator: measure must be a function"),
    (
        lambda: training.make_evaluator(MODEL, lambda y, labels: {"y": y}, [(X, LABELS)])(start()),
        "evaluate: the metric 'y' must be a scalar",
        "float32[50, 2]",
    ),
]


def given_back(change, **options):
    """What is wrong: a step that gives ``change(state)``."""
    state = {"w": jnp.ones(3)}
    return lambda: fit(lambda state, batch: change(state), state, [X[0]], steps=2, **options)


# Of a user's own step, whether or not it is looked after.
STEPS = [
    case
    for options in ({}, {"non_finite": "ignore"}, {"steps_per_call": 2})
    for case in [
        (
            given_back(lambda state: state, **options),
            "fit: the step must return (state, metrics)",
            "a tuple of two: the next state, a dict of scalars",
            "{w: float32[3]}",
        ),
        (
            given_back(lambda state: (state, 1.0), **options),
            "fit: the step must return (state, metrics)",
        ),
        (
            given_back(lambda state: ({**state, "b": state["w"]}, {}), **options),
            "fit: the step changes 'b' of the state",
            "expected: no such leaf",
            "got:      float32[3]",
        ),
        (
            given_back(lambda state: ({}, {}), **options),
            "fit: the step changes 'w' of the state",
            "got:      no such leaf",
        ),
        (
            given_back(lambda state: ({"w": state["w"][:1]}, {}), **options),
            "fit: the step changes 'w' of the state",
            "expected: float32[3]",
            "got:      float32[1]",
        ),
        (
            given_back(lambda state: (collections.OrderedDict(state), {}), **options),
            "fit: the step changes the structure of the state",
            "PyTreeDef({'w': *})",
        ),
    ]
]


@each(ERRORS, STEPS)
def test_errors(case):
    read(case)


# The proof for users' own programs.


def test_a_resumption_is_proven_or_refuted(monkeypatch):
    # Of the processes that it starts: what they compile is optimised in none of them.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    sys.path.insert(0, str(PROGRAMS))
    import resumable

    proof = testing.check_resume(resumable.exact, 5)
    assert str(proof).startswith("resumed exactly: after 10 steps ")
    assert (proof.steps, proof.batches) == (10, 10)
    with pytest.raises(jl.TrainingError, match="does not resume exactly, after 5 of 10") as e:
        testing.check_resume(resumable.forgetful, 5)
    assert "batch 5 differs" in str(e.value)


def test_what_cannot_be_proven_says_why():
    sys.path.insert(0, str(PROGRAMS))
    import resumable

    with pytest.raises(jl.TrainingError, match="make cannot be found by another process"):
        testing.check_resume(lambda: start(), 5)
    with pytest.raises(jl.TrainingError, match="must return the arguments of fit"):
        testing.check_resume(resumable.wrong, 5)


def test_the_log_of_a_resumed_run_is_that_of_one_run(tmp_path):
    for name, ends in (("whole", [20]), ("parts", [10, 20])):
        for end in ends:
            log = training.json_lines(tmp_path / f"{name}.jsonl")
            fit(steps=end, checkpoints=kept(tmp_path / name), hooks=[log])
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for row in itertools.chain(*rows):
        del row["seconds"], row["steps_per_second"]
    assert rows[0] == rows[1]
