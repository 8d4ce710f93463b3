"""The whole steps of the benchmark: in every framework the same model, trained the same way."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from bench.models.sizes import LanguageModel, MobileNet, Perceptron, ResNet, Transformer
from bench.steps import deep_transformer, depthwise, lstm_lm, mlp, resnet50, transformer
from bench.steps.step import Step, Unavailable
from bench.steps.weights import by_name, draw, fill, plain

pytestmark = pytest.mark.full

TINY = {
    mlp: Perceptron(4, 6, (5, 7), 3),
    resnet50: ResNet(4, 32, 5, 4, (2, 1)),
    depthwise: MobileNet(4, 16, 5, 4, ((1, 4, 1, 1), (2, 6, 2, 2)), 8, 0.01),
    lstm_lm: LanguageModel(2, 4, 11, 6, 5, 2),
    transformer: Transformer(2, 8, 11, 8, 2, 2),
}


def row(steps, name):
    """The large ones are compiled for long: ``make conformance`` has them."""
    large = steps in (resnet50, depthwise) or name.endswith("scan")
    label = f"{steps.__name__.rpartition('.')[2]}-{name}".replace(" ", "-")
    return pytest.param(steps, name, id=label, marks=[pytest.mark.conformance] * large)


ROWS = [row(steps, name) for steps, size in TINY.items() for name in steps.contenders(size)]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other libraries promote as they please; and what is compiled here runs a few times only."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def build(steps, name) -> Step:
    try:
        return steps.contenders(TINY[steps])[name]()
    except Unavailable as reason:
        pytest.skip(str(reason))


@functools.cache
def ours(steps) -> Step:
    return build(steps, "jlayers")


@pytest.mark.parametrize(("steps", "name"), ROWS)
def test_the_first_losses_are_those_of_jlayers(steps, name):
    step = ours(steps) if name == "jlayers" else build(steps, name)
    assert step.parameters == ours(steps).parameters
    assert step.first_losses == pytest.approx(ours(steps).first_losses, rel=2e-4)
    # Trained, and by more than the tolerance: what the optimiser did is compared too.
    first, *_, last = step.first_losses
    assert first - last > 1e-3 * first


def test_weights_that_do_not_fit_are_reported():
    weights = {"head": {"kernel": draw("lstm_lm", TINY[lstm_lm])["head"]["kernel"]}}
    with pytest.raises(ValueError, match=r"no weights for \['tail_kernel'\]"):
        fill(
            weights,
            lambda part, arrays: {f"{part}/kernel": arrays["kernel"]},
            {"tail/kernel": (5, 11)},
        )


def test_blocks_are_stacked_in_the_order_of_their_numbers():
    weights = {f"blocks_{i}_up": {"bias": np.full(2, i)} for i in reversed(range(11))}
    stacked = fill(weights, by_name(), {"blocks/up/bias": (11, 2)})["blocks/up/bias"]
    np.testing.assert_array_equal(stacked[:, 0], range(11))


def test_names_of_parts_are_the_same_up_to_separators():
    assert plain("blocks.0.up.weight") == plain(".blocks[0].up.weight") == "blocks_0_up_weight"


@pytest.mark.parametrize("name", ["jlayers", "linen"])
def test_a_first_step_imports_one_framework(name):
    program = (
        "import sys\n"
        "from bench.models.sizes import Transformer\n"
        "from bench.steps.deep_transformer import first_step\n"
        f"loss = first_step({name!r}, Transformer(2, 8, 11, 8, 2, 2))\n"
        "print(0 < loss < 10, [m for m in ('jlayers', 'flax', 'torch') if m in sys.modules])\n"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    own = {"jlayers": "jlayers", "linen": "flax"}[name]
    assert done.stdout.strip() == f"True ['{own}']", done.stderr


def test_the_deep_model_has_the_variants_of_the_other():
    assert deep_transformer.contenders().keys() == transformer.contenders().keys()
