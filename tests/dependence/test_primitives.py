"""Every public primitive of this JAX has a rule, or is left unknown on purpose."""

import pytest

from jlayers.base.dependence.walk import REFERENCES, RULES

primitives = pytest.importorskip("jax.extend.core.primitives")

# Unknown on purpose: collectives and tokens, what holds Python, and what is too rare to be worth a
# rule. They count as mixing steps and rows.
_UNKNOWN = """
after_all all_gather all_to_all axis_index create_token pmax pmin ppermute psum ragged_all_to_all
custom_lin eval_jaxpr
select_and_scatter tridiagonal_solve
"""
UNKNOWN = set(_UNKNOWN.split())


def _names():
    found = (getattr(primitives, name) for name in dir(primitives) if name.endswith("_p"))
    return {primitive.name for primitive in found}


def test_every_public_primitive_is_classified():
    assert _names() - set(RULES) - REFERENCES - UNKNOWN == set()


def test_none_is_both():
    assert UNKNOWN & set(RULES) == set()
