"""What a loop keeps when it ends at an awkward moment, or goes wrong twice."""

import itertools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from test_fit import (
    LABELS,
    MODEL,
    STEP,
    TX,
    X,
    as_optax_wants_it,
    batches,
    fit,
    kept,
    loss,
    poisoned,
    same,
    start,
    told,
)

import jlayers as jl
from jlayers import training

__all__ = ["as_optax_wants_it"]


def counted(state, batch):
    """A step over a number, whose metrics are plain."""
    return state + 1, {"loss": batch.sum(), "n": jnp.int32(1)}


def numbers(count=20, bad=None):
    return [np.float32([np.nan if i == bad else i]) for i in range(count)]


def evaluating(*fails):
    """An evaluation that raises once at each of these calls."""
    calls, left = itertools.count(1), list(fails)

    def evaluate(state):
        if next(calls) in left:
            left.clear()
            raise RuntimeError("no")
        return {"loss": 1.0}

    return evaluate


def steps_of(records):
    return [record.step for record in records]


def test_a_signal_at_a_step_where_something_is_due_loses_nothing(tmp_path):
    whole = fit(steps=20)

    def data(epoch):
        for batch, (_, index) in batches().read([epoch, 0], epochs=epoch + 1):
            # Read one ahead: the signal comes before the call that ends at step 10.
            if (epoch, index) == (1, 5) and not sent:
                sent.append(signal.raise_signal(signal.SIGINT))
            yield batch

    sent = []
    options = {"data": data, "prefetch": 0, "checkpoints": kept(tmp_path)}
    first = fit(steps=20, **options)
    assert (first.stopped, first.step) == ("interrupt", 10)
    second = fit(steps=20, **options)
    assert told(second.records) == told(whole.records)
    same(second.state, whole.state)


def test_an_evaluation_that_fails_is_done_when_the_run_goes_on(tmp_path):
    options = {"evaluate_every": 10, "checkpoints": kept(tmp_path)}
    with pytest.raises(RuntimeError, match="no") as caught:
        fit(steps=20, evaluate=evaluating(1), **options)
    assert caught.value.fitted.step == 10
    again = fit(steps=20, evaluate=evaluating(), **options)
    whole = fit(steps=20, evaluate=evaluating(), evaluate_every=10)
    assert told(again.records) == told(whole.records)


def test_a_stack_that_an_end_cut_short_is_no_time_for_a_record(tmp_path):
    options = {"steps_per_call": 3, "log_every": 4}
    whole = fit(steps=14, **options)
    fit(steps=8, checkpoints=kept(tmp_path), **options)
    parts = fit(steps=14, checkpoints=kept(tmp_path), **options)
    assert told(parts.records) == told(whole.records)
    assert steps_of(whole.records) == [6, 9, 12, 14]


def test_a_call_that_fails_took_no_batch(tmp_path):
    data = [(X[:8], LABELS[:8])] * 7 + [(X[:8, :3], LABELS[:8])] + [(X[:8], LABELS[:8])] * 5
    with pytest.raises(jl.LayerError, match="its input has 3 features"):
        fit(data=data, steps=12, checkpoints=kept(tmp_path))
    found = kept(tmp_path).restore(start())
    assert (found.step, found.position) == (7, [0, 7])


def test_a_bad_step_between_two_records_is_left_out_once(tmp_path):
    with pytest.warns(UserWarning, match="of step 1 is not finite") as caught:
        fitted = fit(
            data=poisoned(1),
            steps=9,
            non_finite="skip",
            checkpoints=kept(tmp_path),
            checkpoint_every=3,
        )
    assert fitted.step == 9
    assert len(caught) == 1
    assert sum(record.metrics["skipped"] for record in fitted.records) == 1


def test_counts_end_before_the_bad_step(tmp_path):
    options = {"checkpoints": kept(tmp_path), "log_every": 5}
    with pytest.raises(training.NonFiniteError):
        fit(counted, jnp.zeros(()), numbers(bad=7), steps=10, **options)
    records = fit(counted, jnp.zeros(()), numbers(), steps=10, **options).records
    assert [record.metrics["n"] for record in records] == [5, 5]
    assert records[1].metrics["loss"] == np.mean(range(5, 10))


def test_of_an_iterator_the_batch_within_a_stack_has_its_position(tmp_path):
    with pytest.raises(training.NonFiniteError) as caught:
        fit(data=iter(poisoned(7)), steps=20, steps_per_call=3, checkpoints=kept(tmp_path))
    assert (caught.value.position, caught.value.after) == ([0, 7], [0, 8])
    assert kept(tmp_path).restore(start()).position == [0, 7]


def test_large_batches_of_an_iterator_are_not_all_kept(monkeypatch):
    monkeypatch.setattr("jlayers.data.recent_batches._MEMORY", 3 * X[:8].nbytes)
    with pytest.raises(training.NonFiniteError) as caught:
        fit(data=iter(poisoned(1)), steps=10, log_every=5)
    assert caught.value.batch is None
    assert "a batch that was too large to be kept, and cannot be read again" in str(caught.value)
    same(caught.value.state, fit(data=poisoned(1)[:1], steps=1).state)


def test_rolling_back_waits_for_the_checkpoint_that_is_being_written(tmp_path):
    data = [poisoned(6)[i] for i in range(20)]
    with pytest.warns(UserWarning, match="goes back to step 5"):
        fitted = fit(
            data=data,
            steps=12,
            log_every=1,
            non_finite="roll back",
            checkpoints=kept(tmp_path),
            checkpoint_every=5,
        )
    assert fitted.step == 12
    assert steps_of(fitted.records) == list(range(1, 13))


def test_without_a_checkpoint_to_go_back_to_the_run_before_is_saved(tmp_path):
    with pytest.raises(training.NonFiniteError):
        fit(data=poisoned(7), steps=15, non_finite="roll back", checkpoints=kept(tmp_path))
    assert kept(tmp_path).steps() == [7]


def test_rolling_back_with_no_data_left_makes_no_record(tmp_path):
    with pytest.warns(UserWarning, match="goes back to step 4"):
        fitted = fit(
            counted,
            jnp.zeros(()),
            numbers(8, bad=7),
            epochs=1,
            non_finite="roll back",
            checkpoints=kept(tmp_path),
            checkpoint_every=4,
            log_every=4,
        )
    assert [(record.step, record.metrics["n"]) for record in fitted.records] == [(4, 4)]


def test_an_error_before_a_bad_step_is_known_saves_the_run_before_it(tmp_path):
    def fails(record):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fit(data=poisoned(7), steps=20, checkpoints=kept(tmp_path), hooks=[fails])
    assert kept(tmp_path).steps() == [7]


def test_the_best_is_the_one_that_was_evaluated(tmp_path):
    values = iter([0.1, 0.9, 0.9, 0.9])
    checkpoints = training.CheckpointManager(tmp_path, keep=1, best=1, metric="eval/loss")
    fit(
        steps=30,
        evaluate=lambda state: {"loss": next(values)},
        evaluate_every=10,
        checkpoints=checkpoints,
        checkpoint_every=5,
    )
    assert checkpoints.steps() == [10, 30]


def test_parameters_that_are_not_finite_are_not_kept(tmp_path):
    def steep(y):
        return y[0, 50] * 1e38

    def one_hot(i):
        # Only the gradient of one entry, far from the edges of a large kernel, overflows.
        return (np.eye(100, dtype=np.float32)[[70]] * (1e3 if i == 5 else 0.0),)

    step = training.train_step(jl.Dense(100, bias=False), steep, optax.sgd(1.0))
    params = {"kernel": jnp.zeros((100, 100))}
    state = step.start(jax.random.key(0), jl.spec((1, 100)), params=params, state={})
    with pytest.raises(training.NonFiniteError) as caught:
        fit(step, state, [one_hot(i) for i in range(8)], steps=6, checkpoints=kept(tmp_path))
    assert caught.value.step == 5
    assert kept(tmp_path).steps() == []


def test_sigterm_in_the_last_evaluation_ends_the_process_all_the_same(tmp_path):
    def evaluate(state):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        return {"loss": 1.0}

    with pytest.raises(SystemExit) as caught:
        fit(steps=6, evaluate=evaluate, checkpoints=kept(tmp_path))
    assert caught.value.code == 128 + signal.SIGTERM
    assert kept(tmp_path).steps() == [6]


def test_the_log_holds_each_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.warns(UserWarning, match="goes back"):
        fit(
            data=poisoned(7),
            steps=12,
            log_every=1,
            non_finite="roll back",
            checkpoints=kept(tmp_path / "one"),
            checkpoint_every=5,
            hooks=[training.json_lines(path)],
        )
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == list(range(1, 13))

    def ends(epoch):
        yield from poisoned(99)[:13]
        raise RuntimeError("no")

    path = tmp_path / "other.jsonl"
    options = {"checkpoints": kept(tmp_path / "two"), "steps": 20}
    with pytest.raises(RuntimeError):
        fit(data=ends, hooks=[training.json_lines(path)], **options)
    fit(data=poisoned(99), hooks=[training.json_lines(path)], **options)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [5, 10, 15, 20]


def test_the_last_evaluation_joins_the_last_record():
    fitted = fit(steps=5, evaluate=lambda state: {"loss": 2.0}, evaluate_every=3)
    assert steps_of(fitted.records) == [3, 5]
    assert fitted.records[-1].metrics.keys() == {"loss", "right", "eval/loss"}


def test_a_checkpoint_of_ones_own_is_gone_on_from(tmp_path):
    state = fit(steps=3).state
    with kept(tmp_path) as checkpoints:
        checkpoints.save(3, state)
    fitted = fit(steps=5, checkpoints=kept(tmp_path))
    assert (fitted.step, fitted.position) == (5, [0, 2])


FAR = 2**31 - 8


def far(step=STEP):
    """A state that is eight steps before the end of an int32."""
    return start(step)._replace(step=jnp.asarray(FAR, jnp.int32))


@pytest.mark.parametrize("options", [{}, {"steps_per_call": 3}], ids=str)
def test_steps_go_on_beyond_an_int32(tmp_path, options):
    whole = fit(state=far(), steps=FAR + 30, **options)
    assert whole.records[-1].step == whole.step == FAR + 30
    fit(state=far(), steps=FAR + 15, checkpoints=kept(tmp_path), **options)
    parts = fit(state=start(), steps=FAR + 30, checkpoints=kept(tmp_path), **options)
    same(parts.state, whole.state)
    assert told(parts.records) == told(whole.records)
    # The step of the state has gone on from -2**31.
    more = fit(state=parts.state, steps=FAR + 33, **options)
    assert (more.step, int(more.state.step)) == (FAR + 33, FAR + 33 - 2**32)


def test_a_bad_step_beyond_an_int32_is_found():
    with pytest.raises(training.NonFiniteError) as caught:
        fit(state=far(), data=poisoned(13), steps=FAR + 20)
    assert (caught.value.step, caught.value.position) == (FAR + 13, [0, 13])
    with pytest.warns(UserWarning, match=f"of step {FAR + 13} is not finite"):
        assert fit(state=far(), data=poisoned(13), steps=FAR + 20, non_finite="skip").step


@pytest.mark.parametrize("extra", [{"sums": 3}, {"sums": {}, "looked": "x"}, {"data": 1}])
def test_a_checkpoint_of_ones_own_has_any_entries(tmp_path, extra):
    with kept(tmp_path) as checkpoints:
        checkpoints.save(3, fit(steps=3).state, extra=extra)
    assert fit(steps=5, checkpoints=kept(tmp_path)).step == 5


def test_a_callback_that_cannot_close_does_not_keep_others_open():
    closed = []

    class Callback:
        def __init__(self, error):
            self.error = error

        def __call__(self, record):
            pass

        def close(self):
            closed.append(1)
            if self.error:
                raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fit(steps=5, hooks=[Callback(False), Callback(True), Callback(False)])
    assert len(closed) == 3


def test_long_histories_keep_their_evaluations(monkeypatch):
    from jlayers.training.loop import recovery

    monkeypatch.setattr(recovery, "_RECENT", 2)
    records = [
        training.Record(i, 0, {"loss": 1.0} | ({"eval/loss": 2.0} if i % 3 == 0 else {}), 1.0, 1.0)
        for i in range(1, 8)
    ]
    assert [row[0] for row in recovery.rows_of(records)] == [3, 6, 7]


def test_a_step_that_has_no_hash_is_compiled_too():
    class Own(dict):
        def __call__(self, state, batch):
            return counted(state, batch)

    assert fit(Own(), jnp.zeros(()), numbers(), steps=3).state == 3


def test_scales_beyond_float16_leave_gradients_as_they_are():
    def small(logits, labels):
        return loss(logits.astype(jnp.float32), labels)[0] * 1e-3

    options = {"loss_scale": training.LossScale(initial=2.0**17), "grad_norm": True}
    step = training.train_step(MODEL, small, optax.sgd(0.1), **options)
    params, state = MODEL.init(jax.random.key(0), X)
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)
    state = step.start(jax.random.key(0), X, params=halved, state=state)
    _, metrics = jax.jit(step)(state, (X.astype(np.float16), LABELS))
    assert metrics["skipped"] == 0
    assert 1e-5 < metrics["grad_norm"] < 1e-2


def test_the_average_of_narrow_parameters_moves():
    step = training.train_step(jl.Dense(1), lambda y: y.mean(), optax.sgd(0.1), ema=0.999)
    params, state = jl.Dense(1).init(jax.random.key(0), X)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    state = step.start(jax.random.key(0), X, params=params, state=state)
    assert state.ema["kernel"].dtype == jnp.float32
    new, _ = jax.jit(step)(state, (X,))
    assert (new.ema["bias"] != state.ema["bias"]).all()
    assert training.ema_params(new)["kernel"].dtype == jnp.bfloat16


TWICE = jnp.ones((3,))
ERRORS = [
    (
        lambda: fit(data=iter(poisoned()), non_finite="roll back", checkpoints=_somewhere()),
        "fit: no rolling back with data that can be read once only",
        "a list",
    ),
    (
        lambda: fit(counted, {"a": TWICE, "b": TWICE}, numbers(), steps=3, donate=True),
        "fit: 'a' and 'b' of the state are one array",
        "jnp.copy",
    ),
    (
        lambda: fit(state=used_up(), steps=3),
        "fit: the state is used up: the memory of 'params/*/bias' was donated to an earlier step",
        "the state that the last step, or fit, returned",
        "], deleted",
        "jax.tree.map(jnp.copy, state)",
    ),
    (
        lambda: STEP(used_up(), (X[:8], LABELS[:8])),
        "train_step: the state is used up: the memory of 'params/*/bias' was donated*",
        "state, metrics = step(state, batch)",
    ),
    (
        lambda: fit(data=[X[:8]], steps=1),
        "fit: the batch must be a tuple",
        "(x, *targets)",
    ),
    (
        lambda: training.train_step(MODEL, lambda y, t: (y.mean(), {"skipped": y.mean()}), TX)(
            start(), (X[:8], LABELS[:8])
        ),
        "train_step: the metrics have a 'skipped' already",
    ),
    # By what was called, and not by the function of the loop that found it out.
    (
        lambda: training.fit(
            training.train_step(MODEL, lambda y: y.mean(), TX),
            start(),
            [(X[:8], LABELS[:8])],
            steps=1,
            progress=False,
        ),
        "fit: the loss raised TypeError: *takes 1 positional argument but 2 were given",
    ),
]


def used_up():
    """A state of which one leaf was donated, as a compiled step donates all of them."""
    state = start()
    leaf = next(leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim == 1)
    leaf.delete()
    return state


def _somewhere():
    import tempfile

    return kept(tempfile.mkdtemp())


@each(ERRORS)
def test_errors(case):
    read(case)


def test_the_step_of_the_other_tests_is_one():
    assert isinstance(STEP, training.TrainStep)
