"""The rows about streaming time steps that give the right outputs. No timing is tested here."""

import pytest

from bench import groups, streaming
from bench.data import default_promotion
from bench.frameworks.sizes import Transformer

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = Transformer(batch=1, steps=4, vocabulary=11, width=8, heads=2, blocks=2)
CASES = {
    "lstm": lambda: streaming.one_step(streaming.lstm(4), 4, 2, 1e9, 1e-9, 3),
    "repeat": lambda: streaming.repeated(1, 1e-9, 9, TINY),
    "temporaries": lambda: streaming.temporaries(
        "three", lambda: streaming.convolutions(4, 2, 65), 1.0, 0, 0
    ),
    "temporaries of ids": lambda: streaming.temporaries(
        "ids", lambda: streaming.decoder(True, 1, TINY), 1e9, 0, 0
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rows_answer(name, monkeypatch):
    monkeypatch.setattr("bench.floors._best", lambda call, **options: (call(), 1e-3)[1])
    with default_promotion():
        answer = CASES[name]()
    assert float(answer.figure.split("x")[0]) > 0
    assert answer.holds or name == "repeat"
    assert (answer.needed is not None) == (name == "lstm")


def test_the_rows_are_found():
    assert groups.choose(["streaming"], groups.entries()) == list(streaming.ROWS)
