"""Mutated checkpoints are refused with a message or read back exactly; ``make soak`` has 20,000."""

import json
import signal
import tracemalloc

import numpy as np
import pytest
from soak import checkpoint_fuzz

import jlayers as jl
from jlayers import checkpoint, training


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
    assert not any(name.endswith("without a message") for name in outcomes)


def test_the_hook_records_code():
    with checkpoint_fuzz.audited() as events:
        exec("pass")
    assert events


def test_sizes_in_a_file_allocate_no_memory(tmp_path, monkeypatch):
    path = training.save_checkpoint(tmp_path, {"x": 1.0, "y": np.zeros(4)}, step=1)
    file = path / "arrays.safetensors"
    whole = file.read_bytes()
    text = (path / "manifest.json").read_text()
    content = json.loads(text)
    content["arrays"]["y"]["shape"] = [1 << 50]
    content.pop("checksum")
    content["checksum"] = checkpoint_fuzz.checksum_of(content)
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
