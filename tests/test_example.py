"""The main job, as ``make run`` runs it: train, then predict in a new process."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "digits.py"


def run(command, where):
    # A home of its own, and no screen: the figures go to files.
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(EXAMPLE.parent.parent)}
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), command],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.full
def test_digits_are_learned_saved_loaded_and_read(tmp_path):
    shown = run("train", tmp_path)
    assert re.search(r"concat/rows/lstm .*LSTM\(64.* 18,688", shown)
    assert "100%" in shown
    shown = run("predict", tmp_path)
    accuracy = float(re.search(r"([\d.]+)% of 450 held-out digits", shown).group(1))
    assert accuracy >= 98
    for picture in ("curve.png", "misread.png"):
        assert (tmp_path / "runs/digits" / picture).read_bytes().startswith(b"\x89PNG")
