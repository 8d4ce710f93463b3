"""What a step may be asked for beside: each option against the same written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import training

MODEL = jl.serial(body=jl.serial(jl.Dense(16), jax.nn.tanh), head=jl.Dense(3))
TX = optax.adam(1e-2)
X = jax.random.normal(jax.random.key(7), (8, 5))
LABELS = jax.random.randint(jax.random.key(8), (8,), 0, 3)
BATCH = (X, LABELS)
HUGE = (jnp.where(jnp.arange(8)[:, None] == 3, jnp.inf, X), LABELS)


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def step_of(model=MODEL, loss=loss, tx=TX, **options):
    return training.train_step(model, loss, tx, **options)


def gradient_by_hand(params, batch=BATCH):
    x, labels = batch
    return jax.grad(lambda p: loss(MODEL.apply(p, {}, x, train=True)[0], labels))(params)


def taken(step, n=1, batch=BATCH, state=None):
    state = step.start(jax.random.key(0), X) if state is None else state
    jitted, metrics = jax.jit(step), None
    for _ in range(n):
        state, metrics = jitted(state, batch)
    return state, metrics


def assert_close(got, expected, **close):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **(close or {"rtol": 2e-6, "atol": 1e-7}))


def same(got, expected):
    assert_close(got, expected, rtol=0, atol=0)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, at_once = taken(step_of(), 3)
    parts, metrics = taken(step_of(accumulate=4), 3)
    assert_close(parts.params, whole.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], at_once["loss"], rtol=1e-5)


def test_accumulation_passes_state_on_and_sums_counts():
    model = jl.serial(jl.BatchNorm(momentum=0.5), jl.Dense(3))

    def counting(logits, labels):
        return loss(logits, labels), {"right": (logits.argmax(-1) == labels).sum()}

    step = training.train_step(model, counting, TX, accumulate=2)
    state = step.start(jax.random.key(0), X)
    new, metrics = step(state, BATCH)
    model_state = state.state
    for part in (X[:4], X[4:]):
        _, model_state = model.apply(state.params, model_state, part, train=True)
    assert_close(new.state, model_state)
    halves = [
        counting(
            model.apply(state.params, state.state, X[i : i + 4], train=True)[0], LABELS[i : i + 4]
        )
        for i in (0, 4)
    ]
    assert metrics["right"] == sum(own["right"] for _, own in halves)
    assert metrics["right"].dtype == jnp.int32


def test_each_part_draws_from_a_key_of_its_own():
    ones = jnp.ones((4, 50))
    model = jl.serial(jl.Dense(50), jl.Dropout(0.5))

    def spread(y):
        return y.sum(), {"y": y[0]}

    step = training.train_step(model, spread, TX, accumulate=2)
    state = step.start(jax.random.key(0), ones)
    _, metrics = step(state, (ones,))
    drawn = metrics["y"]
    full = np.asarray(ones[0] @ state.params["dense"]["kernel"]) * 2
    # Means over both parts: an entry that was dropped in one of them alone is half of it.
    assert (np.abs(drawn / full - 0.5) < 1e-3).any()


def test_clipping_is_that_of_optax():
    step = step_of(tx=optax.sgd(1.0), clip=0.01)
    state = step.start(jax.random.key(0), X)
    new, metrics = step(state, BATCH)
    gradient = gradient_by_hand(state.params)
    norm = optax.tree.norm(gradient)
    assert norm > 0.01
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(jnp.subtract, state.params, new.params)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.01, rtol=1e-4)


def test_the_moving_average_is_that_of_the_parameters():
    step = step_of(ema=0.9)
    state = step.start(jax.random.key(0), X)
    average = state.params
    jitted = jax.jit(step)
    for _ in range(3):
        state, _ = jitted(state, BATCH)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, state.params)
    assert_close(training.ema_params(state), average, rtol=1e-5)
    plain, _ = taken(step_of(), 3)
    same(state.params, plain.params)


def test_a_run_with_an_average_can_be_donated():
    step = step_of(ema=0.9)
    state, _ = training.compiled(step)(step.start(jax.random.key(0), X), BATCH)
    assert int(state.step) == 1


def test_frozen_parameters_have_no_gradient_and_no_slots():
    step = step_of(frozen="body/**", ema=0.5)
    state = step.start(jax.random.key(0), X)
    assert set(jl.flatten(state.opt_state[0].mu)) == {"head/bias", "head/kernel"}
    assert set(state.ema) == {"head"}
    new, _ = taken(step, 2)
    same(new.params["body"], state.params["body"])
    assert not np.array_equal(new.params["head"]["kernel"], state.params["head"]["kernel"])
    assert training.ema_params(new).keys() == {"body", "head"}
    products = str(jax.make_jaxpr(step)(state, BATCH)).count("dot_general")
    assert products < str(
        jax.make_jaxpr(step_of())(state._replace(ema=None, opt_state=TX.init(state.params)), BATCH)
    ).count("dot_general")


def test_the_rest_moves_as_if_nothing_were_frozen():
    first, _ = taken(step_of(frozen=("body/**",), tx=optax.sgd(0.1)))
    whole, _ = taken(step_of(tx=optax.sgd(0.1)))
    same(first.params["head"], whole.params["head"])


def test_pretrained_parameters_to_begin_with():
    params, _ = MODEL.init(jax.random.key(5), X)
    state = step_of(frozen="body/**").start(jax.random.key(0), X, params=params)
    same(state.params, params)


def test_the_learning_rate_is_among_the_metrics():
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    _, metrics = taken(step_of(tx=optax.sgd(schedule), learning_rate=schedule), 3)
    np.testing.assert_allclose(metrics["learning_rate"], 0.8, rtol=1e-5, atol=1e-6)
    injected = optax.inject_hyperparams(optax.sgd)(schedule)
    _, metrics = taken(step_of(tx=injected), 3)
    np.testing.assert_allclose(metrics["learning_rate"], 0.8, rtol=1e-5, atol=1e-6)
    _, metrics = taken(step_of(learning_rate=0.01))
    np.testing.assert_allclose(metrics["learning_rate"], 0.01)


def test_a_step_that_is_not_finite_changes_nothing_but_its_number():
    step = step_of(non_finite="skip", ema=0.9)
    good, metrics = taken(step)
    assert metrics["skipped"] == 0
    same(good.params, taken(step_of())[0].params)
    after, metrics = taken(step, 1, HUGE, good)
    assert metrics["skipped"] == 1
    same(after._replace(step=good.step, key=None), good._replace(key=None))
    assert int(after.step) == 2


def test_without_a_policy_it_goes_into_the_parameters():
    state, _ = taken(step_of(), 1, HUGE)
    assert not np.isfinite(state.params["head"]["kernel"]).all()


def test_both_ways_of_leaving_a_step_out_agree():
    from jlayers.training.finite import cond_update, select_if

    state = {"a": jnp.arange(3.0), "key": jax.random.key(0)}
    change = lambda state, by: {**state, "a": state["a"] + by}  # noqa: E731
    for sound in (True, False):
        flag = jnp.asarray(sound)
        branch = jax.jit(lambda state, flag=flag: cond_update(flag, change, state, 1.0))(state)
        same(branch["a"], select_if(flag, change(state, 1.0), state)["a"])
        same(branch["a"], jnp.arange(3.0) + sound)


@pytest.mark.parametrize("where", ["column", "row", "small"])
def test_the_edges_of_a_gradient_show_what_spread_over_it(where):
    from jlayers.training.finite import edges_are_finite, is_finite

    x, d = np.ones((4, 100), np.float32), np.ones((4, 90), np.float32)
    if where == "column":
        d[2, 57] = np.nan
    elif where == "row":
        x[1, 33] = np.inf
        d[1, 5] = 0
    with np.errstate(invalid="ignore"):
        product = x.T @ d
    kernel = jnp.asarray(product) if where != "small" else jnp.ones((100, 90))
    bias = jnp.asarray(d.sum(0)).at[7].set(jnp.nan if where == "small" else 1)
    assert not is_finite({"bias": bias, "kernel": kernel})
    assert not edges_are_finite({"bias": bias, "kernel": kernel})
    assert edges_are_finite({"kernel": jnp.ones((100, 90)), "n": jnp.arange(3)})


def test_a_gradient_that_is_not_finite_is_found_behind_a_finite_loss():
    root = jl.serial(jl.Dense(4, bias=False), jnp.abs, jnp.sqrt)
    step = training.train_step(root, lambda y: y.mean(), TX, non_finite="skip")
    zeros = jnp.zeros((2, 3))
    state = step.start(jax.random.key(0), zeros)
    new, metrics = step(state, (zeros,))
    assert np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 1
    same(new.params, state.params)


SCALE = training.LossScale(initial=2.0**15, period=2)


def half_batch(scale=1.0):
    return (X * scale).astype(jnp.float16), LABELS


def test_loss_scaling_keeps_small_gradients_of_float16():
    tiny = lambda logits, labels: loss(logits, labels) * 2.0**-22  # noqa: E731
    plain = step_of(loss=tiny, tx=optax.sgd(0.1 * 2.0**22))
    scaled = step_of(loss=tiny, tx=optax.sgd(0.1 * 2.0**22), loss_scale=SCALE)
    start = plain.start(jax.random.key(0), half_batch()[0])
    lost, _ = taken(plain, 1, half_batch(), start)
    kept, metrics = taken(scaled, 1, half_batch())
    exact = jax.tree.map(
        lambda p, g: p - 0.1 * g, start.params, gradient_by_hand(start.params, BATCH)
    )
    error = lambda state: float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, exact)))  # noqa: E731
    assert error(kept) < 1e-3 < 0.05 < error(lost)
    assert metrics["loss_scale"] == 2.0**15


def test_the_scale_grows_and_shrinks():
    step = step_of(loss_scale=SCALE)
    state = step.start(jax.random.key(0), half_batch()[0])
    jitted, scales = jax.jit(step), []
    for batch in [half_batch()] * 2 + [half_batch(jnp.nan)] + [half_batch()] * 2:
        state, _ = jitted(state, batch)
        scales.append(float(state.loss_scale.scale) / 2**15)
    assert scales == [1, 2, 1, 1, 2]
    assert int(state.step) == 5


def test_the_scale_stays_between_its_ends():
    scale = training.LossScale(initial=2.0, period=1, least=1.0)
    now = scale.start()
    for _ in range(3):
        now = scale.next(now, jnp.asarray(False))
    assert now.scale == 1.0
    for _ in range(200):
        now = scale.next(now, jnp.asarray(True))
    assert np.isfinite(now.scale)


def test_options_work_with_k_steps_at_once():
    options = {"accumulate": 2, "clip": 1.0, "ema": 0.9, "frozen": "body/**"}
    one, _ = taken(step_of(**options), 3)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), BATCH)
    many, metrics = taken(step_of(steps=3, **options), 1, stack)
    assert_close(many.params, one.params, rtol=1e-5, atol=1e-6)
    assert metrics["grad_norm"].shape == (3,)


RUN = lambda **options: step_of(**options).start(jax.random.key(0), X)  # noqa: E731
ERRORS = [
    (lambda: step_of(clip=0), "train_step: clip must be between 0 and inf, got 0"),
    (lambda: step_of(ema=1.0), "train_step: ema must be between 0 and 1, got 1.0"),
    (lambda: step_of(accumulate=0), "train_step: accumulate must be a positive int, got 0"),
    (lambda: step_of(frozen=3), "train_step: frozen must be a pattern or a tuple of patterns", "3"),
    (lambda: step_of(non_finite="stop"), "train_step: unknown non_finite 'stop'", "'skip'"),
    (
        lambda: step_of(loss_scale=1024.0),
        "train_step: loss_scale must be a training.LossScale",
        "1024.0",
        "LossScale()",
    ),
    (
        lambda: step_of(loss_scale=training.LossScale(factor=1.0)),
        "train_step: loss_scale must be a training.LossScale",
        "factor > 1",
    ),
    (lambda: RUN(frozen="nose/**"), "train_state: the pattern 'nose/**' fits no path"),
    (lambda: RUN(frozen="**"), "*nothing is left to train"),
    (
        lambda: step_of(accumulate=3)(RUN(), BATCH),
        "train_step: the batch cannot be split into 3 equal parts",
        "accumulate=3",
        "float32[8, 5]",
    ),
    (
        lambda: step_of(ema=0.9)(RUN(), BATCH),
        "train_step: the state has no ema",
        "step.start(key, x)",
    ),
    (lambda: step_of()(RUN(ema=0.9), BATCH), "train_step: the state has an unused ema"),
    (
        lambda: step_of(frozen="body/**")(RUN(), BATCH),
        "train_step: opt_state is not that of this optimiser and these trained parameters",
    ),
    (lambda: step_of()((1, 2), BATCH), "train_step: state must be a TrainState", "step.start"),
    (
        lambda: training.ema_params(RUN()),
        "ema_params: the state has no moving average",
        "ema=0.999",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)
