"""Mutated checkpoints are refused with a message, or read back exactly; bench/ runs 20,000."""

import json
import signal
import tracemalloc

import numpy as np
import pytest

import jlayers as jl
from bench import checkpoint_fuzz
from jlayers import checkpoint, training
from jlayers.checkpoint import manifest


@pytest.fixture
def alarm():
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def test_mutations(alarm):
    outcomes = checkpoint_fuzz.run(300)
    assert sum(outcomes.values()) == 300
    refused = {name.split(":")[0] for name in outcomes if name.endswith(": refused")}
    assert refused == {"bytes", "json", "signed json", "swapped", "missing", "forged"}
    assert not any(name.endswith("without a word") for name in outcomes)


def test_the_hook_sees_code():
    with checkpoint_fuzz.watched() as seen:
        exec("pass")
    assert seen


def test_sizes_in_a_file_allocate_no_memory(tmp_path, monkeypatch):
    path = training.save_checkpoint(tmp_path, {"x": 1.0, "y": np.zeros(4)}, step=1)
    file = path / "arrays.safetensors"
    whole = file.read_bytes()
    text = (path / "manifest.json").read_text()
    content = json.loads(text)
    content["arrays"]["y"]["shape"] = [1 << 50]
    content.pop("checksum")
    content["checksum"] = manifest._checksum(content)
    (path / "manifest.json").write_text(json.dumps(content))
    tracemalloc.start()
    try:
        with pytest.raises(checkpoint.CorruptCheckpointError, match=r"float64\[1125899906842624\]"):
            checkpoint.read_arrays(path)
        file.write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
        with pytest.raises(checkpoint.CorruptCheckpointError, match="is not a safetensors file"):
            checkpoint.read_arrays(path)
        with pytest.raises(jl.CheckpointError, match="is not a safetensors file"):
            checkpoint.read_safetensors(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
