"""20,000 mutated checkpoints, in a process whose memory is limited."""

import pytest

from .checkpoint_fuzz import run_in_process

pytestmark = pytest.mark.soak


def test_mutated_checkpoints_are_refused_or_read_exactly(record_property):
    record_property("figure", run_in_process(20_000))
