"""What the files of pretrained networks hold, and training that starts from one of them."""

import importlib
import pathlib
import sys

import numpy as np
import pytest
from oracles.convert import lenient

sys.path.append(str(pathlib.Path(__file__).parents[2]))
wheels = importlib.import_module("examples.pretrained.wheels")
pytestmark = pytest.mark.conformance


@pytest.fixture(autouse=True)
def _skipped_without_the_packages():
    for package, file in (("silero_vad", "data/silero_vad.jit"), ("resemblyzer", "pretrained.pt")):
        try:
            wheels.path(package, file)
        except wheels.MissingFileError as missing:
            pytest.skip(str(missing))


def test_the_files_of_silero_vad_hold_three_trainings():
    silero = importlib.import_module("examples.pretrained.silero")
    x = importlib.import_module("examples.pretrained.speech").speech(2)[None, :31744, None]
    found = {}
    for file, rate, _, rules in silero.FILES:
        if rate == 16000:
            model, params, state = silero.load(file, rate, rules)
            found[file] = np.ravel(model.apply(params, state, x)[0])
    script = found.pop("silero_vad.jit")
    for file in ("silero_vad.onnx", "silero_vad_16k_sequence.onnx"):
        np.testing.assert_array_equal(found.pop(file), script)
    half, safetensors = found["silero_vad_half.onnx"], found["silero_vad_16k.safetensors"]
    for one, other in ((script, half), (script, safetensors), (half, safetensors)):
        assert np.abs(one - other).max() > 0.1


def test_fine_tuning_gets_better():
    fine_tune = importlib.import_module("examples.pretrained.fine_tune")
    with lenient():
        (_, head), (_, everything) = fine_tune.stages(epochs=1)
    losses = [record.metrics["loss"] for record in (*head, *everything)]
    assert losses == sorted(losses, reverse=True)
    assert everything[-1].metrics["eval/accuracy"] > 0.8
