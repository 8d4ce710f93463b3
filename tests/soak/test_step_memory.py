"""A step by ``fit`` takes the memory of a step written by hand."""

import pytest

from .step_memory import step_memory

pytestmark = [pytest.mark.soak, pytest.mark.optimised]


def test_a_step_by_fit_needs_no_more_memory(record_property):
    memory = step_memory()
    record_property("question", memory.question)
    record_property("figure", memory.figure)
    assert memory.holds, memory.figure
