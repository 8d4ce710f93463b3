"""The whole steps of the benchmark: in every framework the same model, trained the same way."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.data import default_promotion
from bench.frameworks import Unavailable
from bench.frameworks.sizes import LanguageModel, Perceptron, Transformer, mobilenet, resnet
from bench.frameworks.step import Step
from bench.frameworks.weights import draw, fill, own_names, plain
from bench.steps.table import DEEP, STEPS

pytestmark = pytest.mark.full

SIZES = {
    "step-mlp": Perceptron(4, 6, (5, 7), 3),
    "step-resnet50": resnet(4, 32, 5, 4, (2, 1)),
    "step-depthwise": mobilenet(4, 16, 5, 4, ((1, 4, 1, 1), (2, 6, 2, 2)), 8),
    "step-lstm-lm": LanguageModel(2, 4, 11, 6, 5, 2),
    "step-transformer": Transformer(2, 8, 11, 8, 2, 2),
}
TINY = {name: STEPS[name]._replace(size=size) for name, size in SIZES.items()}
TINY["step-depthwise"] = TINY["step-depthwise"]._replace(optimizer=STEPS["step-resnet50"].optimizer)


def row(step, name):
    """The large ones take long to compile: ``make conformance`` has them."""
    large = step in ("step-resnet50", "step-depthwise") or name.endswith("scan")
    label = f"{step}-{name}".replace(" ", "-")
    return pytest.param(step, name, id=label, marks=[pytest.mark.conformance] * large)


ROWS = [row(step, name) for step, tiny in TINY.items() for name in tiny.builders()]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other libraries rely on type promotion."""
    with default_promotion():
        yield


def build(step, name) -> Step:
    try:
        return TINY[step].builders()[name]()
    except Unavailable as reason:
        pytest.skip(str(reason))


@functools.cache
def ours(step) -> Step:
    return build(step, "jlayers")


@pytest.mark.parametrize(("step", "name"), ROWS)
def test_the_first_losses_are_those_of_jlayers(step, name):
    made = ours(step) if name == "jlayers" else build(step, name)
    assert made.parameters == ours(step).parameters
    assert made.first_losses == pytest.approx(ours(step).first_losses, rel=2e-4)
    # Trained, and by more than the tolerance: what the optimiser did is compared too.
    first, *_, last = made.first_losses
    assert first - last > 1e-3 * first


def test_what_a_step_needs():
    flops, moved = TINY["step-mlp"].needs()
    products = 2 * 4 * (6 * 5 + 5 * 7 + 7 * 3)
    # ReLU and the biases come on top of the products.
    assert 3 * products < flops < 3 * (products + 4 * 4 * (5 + 7 + 3))
    numbers = 6 * 5 + 5 + 5 * 7 + 7 + 7 * 3 + 3
    # The parameters and Adam's two moments, with its count, are read and written.
    assert moved == 2 * 4 * (3 * numbers + 1)


def test_weights_of_another_model_are_reported():
    weights = {"head": {"kernel": draw("lstm_lm", SIZES["step-lstm-lm"])["head"]["kernel"]}}
    with pytest.raises(ValueError, match=r"no weights for \['tail_kernel'\]"):
        fill(weights, own_names, {"tail/kernel": (5, 11)})


def test_blocks_are_stacked_in_the_order_of_their_numbers():
    weights = {f"blocks_{i}_up": {"bias": np.full(2, i)} for i in reversed(range(11))}
    stacked = fill(weights, own_names, {"blocks/up/bias": (11, 2)})["blocks/up/bias"]
    np.testing.assert_array_equal(stacked[:, 0], range(11))


def test_names_of_parts_are_the_same_up_to_separators():
    assert plain("blocks.0.up.weight") == plain(".blocks[0].up.weight") == "blocks_0_up_weight"


@pytest.mark.parametrize("name", ["jlayers", "linen"])
def test_a_first_step_imports_one_framework(name):
    program = (
        "import sys\n"
        "from bench.frameworks.sizes import Transformer\n"
        "from bench.steps.table import DEEP, first_step\n"
        f"loss = first_step({name!r}, DEEP._replace(size=Transformer(2, 8, 11, 8, 2, 2)))\n"
        "print(0 < loss < 10, [m for m in ('jlayers', 'flax', 'torch') if m in sys.modules])\n"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    own = {"jlayers": "jlayers", "linen": "flax"}[name]
    assert done.stdout.strip() == f"True ['{own}']", done.stderr


def test_the_deep_model_has_the_variants_of_the_other():
    assert DEEP.builders().keys() == STEPS["step-transformer"].builders().keys()
