"""Reading the texts of errors: a case is what goes wrong, the first line, parts of later lines."""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import pytest

import jlayers as jl

KEY = jax.random.key(0)
F32 = jl.spec((8, 5))
IMAGE = jl.spec((2, 8, 8, 3))
SEQUENCE = jl.spec((4, 10, 6))
X = jnp.ones((8, 5))
MODEL = jl.serial(jl.Dense(4), jax.nn.relu, jl.Dense(3))
PARAMS, STATE = MODEL.init(KEY, F32)

Case = tuple[Callable[[], object], str, *tuple[str, ...]]


def init(layer, x=F32):
    return layer.init(KEY, x)


def each(*tables: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrises a test with every ``case`` of the tables."""
    cases = [case for table in tables for case in table]
    ids = [f"{i}-{case[1][:50]}".replace(" ", "_") for i, case in enumerate(cases)]
    return pytest.mark.parametrize("case", cases, ids=ids)


def read(case: Case) -> None:
    """The wrong thing raises the error with the expected text, in the form of all our texts.

    A ``*`` in the expected first line stands for JAX's own words and for line numbers.
    """
    wrong, first, *later = case
    with pytest.raises((jl.JlayersError, TypeError, AttributeError)) as caught:
        wrong()
    text = str(caught.value)
    head, *lines = text.splitlines()
    assert re.fullmatch(".*".join(map(re.escape, first.split("*"))), head), text
    for part in later:
        assert any(part in line for line in lines), text
    for line in lines:
        assert re.match(r"  (layer|expected|got|hint|before):| {4,}\S", line), text
        assert line == line.rstrip(), text
        assert not line.startswith("  layer:") or re.search(r"  \(/.*\.py:\d+\)$", line), text
