"""The quantised models of the benchmark compute what they stand for. No timing is tested here."""

import pytest

from bench import quantized
from bench.data import default_promotion

pytestmark = pytest.mark.filterwarnings("ignore")


def test_each_form_is_checked_and_weighed(monkeypatch):
    with default_promotion():
        cases = quantized.cases(64, 1, 1)
        assert len(cases) == 3
        for title, case in list(cases.items())[:2]:
            made = quantized.programs(case, ["int8", "int4"])
            text = quantized.table(title, made, quantized.timed(made, 0.0))
            assert [row.split(" | ")[0] for row in text.splitlines()[2:]] == [
                "| float32",
                "| int8",
                "| int4",
            ]
            assert made["int4"].bytes < made["int8"].bytes < made["float32"].bytes
        monkeypatch.setitem(quantized.TOLERANCE, None, 0.0)
        with pytest.raises(AssertionError, match="int8: off by"):
            quantized.programs(case, ["int8"])
