"""The benchmark's models for TPU: whole training steps and a decoding step, on four chips."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import jlayers as jl
from bench.data import default_promotion
from bench.frameworks.jlayers.models import rope_transformer
from bench.sequences import LARGE
from bench.steps.table import STEPS, TRANSFORMER, ModelStep

from .programs import compiled, mesh, nbytes, placed

pytestmark = [pytest.mark.tpu, pytest.mark.optimised]

WHOLE, SPREAD = PartitionSpec(), PartitionSpec("data")
MODELS = {name: step for name, step in STEPS.items() if isinstance(step, ModelStep)}
FRAMEWORKS = [(name, "jlayers") for name in MODELS] + [("step-transformer", "jlayers loop")]
# The carry of `train`: parameters, state and optimiser.
CARRY = (0, 1, 2)
# Statistics of batch norm and the loss are summed over the chips beside the gradients.
BESIDE_GRADIENTS = 1.02


@pytest.fixture(autouse=True)
def as_users_have_it():
    with default_promotion():
        yield


@pytest.mark.parametrize(("name", "framework"), FRAMEWORKS)
def test_training_step(name, framework, report):
    model = MODELS[name]
    built = {}

    def build():
        built["step"] = (training := model.training(framework, None)).step
        return training.carry, training.data

    carry, data = jax.eval_shape(build)  # no array is made

    def step(*arguments):
        return built["step"](*arguments)

    chips = mesh("2x2", data=4)
    written = {TRANSFORMER: ", by repeat", f"{TRANSFORMER} loop": ", by serial"}
    title = model.title + written.get(model.model + framework.removeprefix("jlayers"), "")
    program = compiled(
        title,
        step,
        *placed(chips, carry, WHOLE),
        *placed(chips, data, SPREAD),
        donate_argnums=CARRY,
        out_shardings=jax.sharding.NamedSharding(chips, WHOLE),
    )
    report(program)
    gradients = nbytes(carry[0])
    assert set(program.traffic) == {"all-reduce"}
    assert gradients <= program.traffic["all-reduce"].bytes <= BESIDE_GRADIENTS * gradients


@pytest.mark.parametrize("repeated", [False, True], ids=["serial", "repeat"])
def test_decoding_step(repeated, report):
    chips, batch = mesh("2x2", data=4), 8
    model = rope_transformer(LARGE, repeated)
    ids = jl.spec((batch, 1), jnp.int32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), ids)
    start, step = jl.stream(model, capacity=LARGE.steps)
    carry = jax.eval_shape(start, params, state, ids)
    # Stacked carries have the layers before the batch.
    on_batch = PartitionSpec(None, "data")
    stacked = {"blocks"} if repeated else set()
    specs = {
        name: jax.tree.map(lambda _, name=name: on_batch if name in stacked else SPREAD, child)
        for name, child in carry.items()
    }
    carry = placed(chips, carry, specs)

    def decode(params, carry, ids):
        return step(params, state, carry, ids)

    program = compiled(
        f"decoding step, 12 blocks of 512, by {'repeat' if repeated else 'serial'}",
        decode,
        placed(chips, params, WHOLE),
        carry,
        placed(chips, ids, SPREAD),
        donate_argnums=1,
        out_shardings=(None, jax.tree.map(lambda leaf: leaf.sharding, carry)),
    )
    report(program)
    assert not program.traffic
    assert program.temporaries < nbytes(carry) / program.chips
