"""The laws over the table, and the table, the docs and ``__all__`` held against one another."""

import pathlib
import re

import pytest
from instances import INSTANCES

import jlayers as jl
from jlayers.testing import check_layer

DOCS = pathlib.Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", INSTANCES)
def test_laws(name):
    instance = INSTANCES[name]
    check_layer(
        instance.layer,
        instance.x,
        batch_axis=instance.batch_axis,
        same_dtype=instance.same_dtype,
    )


def _public_factories():
    return {name for name in jl.__all__ if getattr(getattr(jl, name), "__jlayers_factory__", False)}


def test_every_public_layer_has_a_row():
    rows = {layer.maker for instance in INSTANCES.values() for _, layer in jl.walk(instance.layer)}
    assert _public_factories() - rows == set()


def test_every_public_name_has_a_page():
    pages = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    words = set(re.findall(r"\w+", pages))
    assert set(jl.__all__) - words == set()
