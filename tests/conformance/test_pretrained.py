"""Networks rebuilt in examples/pretrained, beside the runtimes that their files are for."""

import importlib
import pathlib
import sys

import pytest
from oracles.convert import lenient

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT))
RUNNER = importlib.import_module("examples.pretrained.__main__")
MISSING = importlib.import_module("examples.pretrained.wheels").MissingFileError


@pytest.mark.conformance
@pytest.mark.parametrize("network", RUNNER.NETWORKS)
def test_a_network_equals_its_original(network):
    module = importlib.import_module(f"examples.pretrained.{network}")
    try:
        with lenient():
            results = list(module.results())
    except MISSING as missing:
        pytest.skip(str(missing))
    assert results
    for result in results:
        assert result.difference <= RUNNER.LIMIT, result
        assert result.streamed is None or result.streamed <= RUNNER.LIMIT, result
