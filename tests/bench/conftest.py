"""Benchmarks collect garbage before they time: only their own, where many tests ran before."""

import gc

import pytest


@pytest.fixture(autouse=True)
def only_own_garbage():
    gc.freeze()
    yield
    gc.unfreeze()
