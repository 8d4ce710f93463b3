"""Steps of training on a mesh: equal to one device, placed as the rules say, looped by fit."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from oracles.one_device import CASES, OneDevice, doubled
from tables.instances import INSTANCES
from tables.tiers import full, sample, soak

import jlayers as jl
from jlayers import sharding, training

P = PartitionSpec
TX = optax.sgd(0.01, momentum=0.9)
AUTO = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
EXPLICIT = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
BOTH = sharding.tensor_parallel("model") + sharding.fsdp("data", least=0)
MODEL = jl.serial(
    jl.Dense(16), jl.BatchNorm(), jax.nn.gelu, jl.Dropout(0.1), jl.Dense(8), jl.Dense(1)
)
X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
DATA = (X, 2 * X[:, :1])
SHARDED = {name: row for name, row in INSTANCES.items() if row.batch_axis == 0}


def loss(y, target):
    return jnp.mean((y - target) ** 2)


def step_of(mesh=AUTO, rules=BOTH, **options):
    return training.train_step(MODEL, loss, TX, mesh=mesh, rules=rules, **options)


@pytest.mark.parametrize("name", sample(list(SHARDED), *range(0, len(SHARDED), 12)))
def test_layers_on_meshes(name):
    """Every layer on one of the meshes, each in turn; ``make soak`` has them on all meshes."""
    assert_equal_to_one_device(name, *CASES[list(SHARDED).index(name) % len(CASES)])


@pytest.mark.parametrize("name", soak(*SHARDED))
def test_layers_on_all_meshes(name):
    for mesh, kind in CASES:
        assert_equal_to_one_device(name, mesh, kind)


def assert_equal_to_one_device(name, mesh, kind):
    row = INSTANCES[name]
    with jax.enable_x64(True):
        specs = jax.tree.map(
            lambda leaf: jl.spec(leaf.shape, jnp.float64) if leaf.dtype == jnp.float32 else leaf,
            row.x,
        )
        assert OneDevice(row.layer, doubled(specs, 4)).check(mesh, kind) < 1e-10


@pytest.mark.parametrize("mesh", [AUTO, *full(EXPLICIT)])
@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0.1, "ema": 0.9},
        *full(
            {"accumulate": 2},
            {"non_finite": "skip"},
            {"frozen": "dense/**"},
            {"steps": 2},
            {"loss_scale": training.LossScale()},
        ),
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_step(options, mesh):
    """The state after a step is that of one device, and lies where it lay."""
    alone = training.train_step(MODEL, loss, TX, **options)
    step = step_of(mesh, **options)
    many = options.get("steps", 1)
    batch = DATA if many == 1 else jax.tree.map(lambda a: np.stack([a, a[::-1]]), DATA)
    begin = alone.start(jax.random.key(0), X)
    expected, _ = jax.jit(alone)(begin, batch)
    state = step.start(jax.random.key(0), X)
    assert not np.allclose(state.params["dense_1"]["kernel"], 0)
    state = state._replace(params=step.layout(X).shard(begin.params))
    if begin.ema is not None:
        state = state._replace(ema=step.layout(X).shard(begin.ema))
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, _ = jax.jit(step)(state, batch)
    for got, wanted in zip(
        jax.tree.leaves(state._replace(key=None)),
        jax.tree.leaves(expected._replace(key=None)),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    same = jax.tree.map(lambda a, b, leaf: a.is_equivalent_to(b, leaf.ndim), placed, places, state)
    assert all(jax.tree.leaves(same))
    assert state.params["dense"]["kernel"].sharding.spec == P("data", "model")


@pytest.mark.parametrize("mesh", [AUTO, *full(EXPLICIT)])
@pytest.mark.parametrize("steps_per_call", [1, *full(4)])
def test_fit_puts_batches_on_the_mesh(mesh, steps_per_call):
    """With one compilation, and with the records of one device."""
    batches = training.Batches(DATA, 16, key=0)

    def records(step, **more):
        state = step.start(jax.random.key(0), X)
        options = {"steps": 16, "log_every": 8, "progress": False, "max_compiles": 1} | more
        fitted = training.fit(step, state, batches, steps_per_call=steps_per_call, **options)
        return fitted.state, [record.metrics["loss"] for record in fitted.records]

    state, losses = records(step_of(mesh))
    assert state.opt_state[0].trace["dense"]["kernel"].sharding.spec == P("data", "model")
    _, alone = records(training.train_step(MODEL, loss, TX))
    np.testing.assert_allclose(losses, alone, rtol=1e-4)


@pytest.mark.parametrize("mesh", [AUTO, *full(EXPLICIT)])
def test_an_evaluation_on_a_mesh(mesh):
    """Of 42 rows, the last batch of which no two devices divide."""
    data = training.Batches((DATA[0][:41], DATA[1][:41]), 16)

    def measure(y, target):
        return {"loss": loss(y, target)}

    state = step_of(mesh).start(jax.random.key(0), X)
    evaluate = training.make_evaluator(MODEL, measure, data, mesh=mesh, rules=BOTH)
    alone = jax.tree.map(np.asarray, state._replace(key=None))
    expected = training.make_evaluator(MODEL, measure, data)(alone._replace(key=state.key))
    np.testing.assert_allclose(evaluate(state)["loss"], expected["loss"], rtol=1e-5)


def test_text_is_generated_on_a_mesh():
    model = jl.serial(
        jl.Embedding(16, 8),
        jl.repeat(jl.residual(jl.SelfAttention(2, causal=True)), 2),
        jl.Dense(16),
    )
    ids = jnp.arange(8).reshape(4, 2)
    layout = BOTH.layout(model, ids, AUTO)
    params, state = model.init(jax.random.key(0), ids)
    expected = jl.decoding.generate(model, params, state, ids, 6)
    with jax.set_mesh(AUTO):
        got = jl.decoding.generate(model, layout.shard(params), state, ids, 6)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_checkpoint_goes_to_another_mesh(tmp_path):
    """A sharded state is saved as one, and read back into other places, bit by bit."""
    batches, manager = training.Batches(DATA, 16, key=0), training.CheckpointManager(tmp_path)
    step = step_of()
    how = {"progress": False, "checkpoints": manager, "checkpoint_every": 8}
    fitted = training.fit(step, step.start(jax.random.key(0), X), batches, steps=8, **how)
    other = step_of(jax.make_mesh((4,), ("data",)), sharding.fsdp("data", least=0))
    start = other.start(jax.random.key(1), X)
    with pytest.warns(UserWarning, match="resumed at step 8 of 8"):
        again = training.fit(other, start, batches, steps=8, **how)
    kernel = again.state.params["dense"]["kernel"]
    assert kernel.sharding.spec == P(None, "data")
    np.testing.assert_array_equal(kernel, fitted.state.params["dense"]["kernel"])


def test_no_device_makes_a_whole_parameter():
    """What each device needs to make its part of a large kernel is less than the kernel."""
    model, x = jl.Dense(1024), jl.spec((4, 1024))
    mesh = jax.make_mesh((4,), ("data",))
    rules = sharding.fsdp("data")
    step = training.train_step(model, jnp.mean, optax.sgd(0.1), mesh=mesh, rules=rules)
    places = step.layout(x).of(step.spec(x))
    make = jax.jit(lambda key: training.train_state(model, step.tx, key, x), out_shardings=places)
    program = make.lower(jax.random.key(0)).compile()
    assert "[256,1024]" in program.as_text()
    assert "[1024,1024]" not in program.as_text()
    state = step.start(jax.random.key(0), x)
    sizes = {shard.data.shape for shard in state.params["kernel"].addressable_shards}
    assert sizes == {(256, 1024)}


def test_weights_that_are_given_are_divided():
    params, state = MODEL.init(jax.random.key(3), X)
    started = step_of().start(jax.random.key(0), X, params=params, state=state)
    kernel = started.params["dense"]["kernel"]
    np.testing.assert_array_equal(kernel, params["dense"]["kernel"])
    assert kernel.sharding == NamedSharding(AUTO, P("data", "model"))


def test_a_plan_is_what_xla_needs():
    step = step_of(rules=BOTH, ema=0.9)
    plan = sharding.plan(step, DATA, memory="1 MB")
    state = step.start(jax.random.key(0), X)
    program = jax.jit(step, donate_argnums=0).lower(state, DATA).compile()
    own = sum(plan.parts[name] for name in ("parameters", "optimizer", "state", "batch"))
    assert plan.compiled.arguments == pytest.approx(own, abs=64)
    arguments = program.memory_analysis().argument_size_in_bytes
    assert plan.compiled.arguments == arguments
    assert plan.fits
    assert plan.total == plan.compiled.total
    assert plan.compiled.traffic.collectives["all-gather"] > 0
    assert "fits: " in str(plan)


def test_what_xla_refuses_does_not_fit(monkeypatch):
    """As the compiler for TPUs does, which knows their memory."""
    problem = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 24.31G exceed 15.75G.\nLargest: ..."

    def refuse(*_):
        raise jax.errors.JaxRuntimeError(problem)

    module = sys.modules["jlayers.sharding.plan"]
    monkeypatch.setattr(module, "compiled_step", refuse)
    plan = sharding.plan(step_of(), DATA)
    assert plan.fits is False
    assert str(plan).endswith("does not fit: Ran out of memory on HBM, 24.31G exceed 15.75G.")
    problem = "INTERNAL: a fault"
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        sharding.plan(step_of(), DATA)


def test_a_plan_counts_the_steps_of_loops():
    """Four blocks in a scan send and compute what four blocks one after the other do."""
    mesh = jax.make_mesh((4,), ("data",))
    block = jl.serial(jl.Dense(16), jax.nn.tanh)

    def traffic(model):
        rules = sharding.fsdp("data", least=0)
        step = training.train_step(model, jnp.mean, optax.sgd(0.1), mesh=mesh, rules=rules)
        return sharding.plan(step, (jl.spec((8, 16)),)).compiled.traffic

    loop, line = traffic(jl.repeat(block, 4)), traffic(jl.serial(*[block] * 4))
    product = 2 * 2 * 16 * 16
    assert not loop.loops_unknown
    # Three products a block; of the first one the gradient of the input is dropped, in a line.
    assert loop.flops == 12 * product
    assert line.flops == 11 * product


def test_a_tied_head_gathers_its_table_and_not_the_logits():
    mesh = jax.make_mesh((4,), ("data",))
    model = jl.tied(jl.Embedding(256, 8), jl.Dense(8))
    step = training.train_step(
        model, lambda y: jnp.mean(y**2), TX, mesh=mesh, rules=sharding.fsdp("data", least=0)
    )
    found = sharding.plan(step, (jl.spec((8, 64), jnp.int32),)).compiled.traffic.bytes
    logits = 4 * 8 * 64 * 256
    assert "all-to-all" not in found
    assert sum(found.values()) < logits / 4


def test_parts_of_a_batch_stay_split():
    """Each part is computed on all devices; only the batch itself is rearranged, once."""
    mesh = jax.make_mesh((4,), ("data",))
    model = jl.serial(jl.Dense(256), jax.nn.relu, jl.Dense(4))
    batch = (jl.spec((32, 8)), jl.spec((32, 4)))

    def received(parts):
        rules = sharding.data_parallel("data")
        step = training.train_step(model, loss, TX, mesh=mesh, rules=rules, accumulate=parts)
        return sharding.plan(step, batch).compiled.traffic.bytes

    once, twice = received(1), received(2)
    assert set(once) == {"all-reduce"}
    # XLA's CPU compiler sums the gradient of each part over the devices.
    assert twice.pop("all-reduce") <= 2 * once["all-reduce"]
    assert sum(twice.values()) <= 32 * (8 + 4) * 4


@each(
    [
        (
            lambda: training.fit(
                step_of(),
                training.train_state(MODEL, TX, jax.random.key(0), X),
                training.Batches(DATA, 16),
                steps=1,
                progress=False,
            ),
            "fit: the state does not lie on the mesh of the step, at 'step'",
            "expected: arrays on Mesh('data': 2, 'model': 2, axis_types=(Auto, Auto))",
        ),
        (
            lambda: training.fit(
                step_of(),
                step_of().start(jax.random.key(0), X),
                training.Batches(DATA, 15),
                steps=1,
                progress=False,
            ),
            "fit: the batch cannot be divided over the mesh, at '0'",
            "expected: a multiple of 2, the devices along 'data'",
            "got:      an axis of 15 in the shape (15, 4)",
        ),
        (
            lambda: training.fit(
                step_of(),
                step_of().start(jax.random.key(0), X),
                training.Batches(DATA, 16),
                steps=1,
                progress=False,
                device=jax.devices()[0],
            ),
            "fit: the step has a mesh, which says where batches go",
        ),
        (
            lambda: jax.jit(step_of())(
                step_of().start(jax.random.key(0), X), (DATA[0][:15], DATA[1][:15])
            ),
            "train_step: the batch cannot be divided over the mesh, at '0'",
        ),
    ]
)
def test_what_is_refused_with_devices(case):
    read(case)
