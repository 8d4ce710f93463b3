"""The laws over the table, and the table, the docs and ``__all__`` held against one another."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from tables.instances import INSTANCES, VECTOR

import jlayers as jl
from jlayers.testing import check_layer

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
# The laws are mathematics, and compiling is what their tests cost. That XLA's optimisations change
# nothing is seen on these, and in the tests of the algorithms.
OPTIMISED = {"dense", "conv 2-D", "max pool", "batch norm", "self-attention", "lstm", "repeat"}


@pytest.mark.parametrize("name", INSTANCES)
def test_laws(name, request):
    instance = INSTANCES[name]
    if name not in OPTIMISED:
        request.getfixturevalue("quick_to_compile")
    check_layer(
        instance.layer,
        instance.x,
        batch_axis=instance.batch_axis,
        same_dtype=instance.same_dtype,
    )


def _public_factories():
    return {name for name in jl.__all__ if getattr(getattr(jl, name), "__jlayers_factory__", False)}


def test_the_optimised_ones_are_there():
    assert set(INSTANCES) >= OPTIMISED


def test_every_public_layer_has_a_row():
    rows = {layer.maker for instance in INSTANCES.values() for _, layer in jl.walk(instance.layer)}
    assert _public_factories() - rows == set()


def test_every_public_name_has_a_page():
    pages = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    words = set(re.findall(r"\w+", pages))
    assert set(jl.__all__) - words == set()


# A check that cannot fail checks nothing: one broken layer for each law.


def _pair(init=None, apply=None, **more):
    return jl.Layer(
        init or (lambda key, x: ({}, {})),
        apply or (lambda params, state, x, *, key, train: (x, state)),
        name="broken",
        **more,
    )


def _drops_a_jump(x):
    return x + jax.lax.stop_gradient(jnp.sin(3 * x))


def _drawn_without_key(params, state, x, *, key, train):
    key = jax.random.key(0) if key is None else key
    return x + jax.random.normal(key, x.shape, x.dtype), state


def _custom_vjp_alone():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
    return square


def _counting():
    calls = []

    def apply(params, state, x, *, key, train):
        calls.append(1)
        return x * len(calls), state

    return apply


def _init_that_counts():
    calls = []

    def init(key, x):
        calls.append(1)
        return {"w": jnp.full(2, float(len(calls)))}, {}

    return init


BROKEN = {
    "law 1: .* init of specs": _pair(init=_init_that_counts()),
    "law 2: .* empty entry": _pair(init=lambda key, x: ({"dense": {}}, {})),
    "the new state does not fit": _pair(
        init=lambda key, x: ({}, {"seen": jnp.zeros(1)}),
        apply=lambda p, s, x, *, key, train: (x, {"seen": jnp.zeros(2)} if train else s),
    ),
    "law 3: .* state out of training": _pair(
        init=lambda key, x: ({}, {"seen": jnp.zeros(1)}),
        apply=lambda p, s, x, *, key, train: (x, {"seen": s["seen"] + 1}),
    ),
    "law 4: .* jit of apply": _pair(apply=_counting()),
    "law 6: .* against differences": jl.lift(_drops_a_jump),
    "law 7: .* uses a key": _pair(apply=_drawn_without_key),
    "law 9: .* bfloat16 output": jl.lift(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    ),
    "law 10: .* garbage": jl.lift(lambda x: x - jnp.mean(x, 0, keepdims=True)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_check_layer_finds_the_law_that_is_broken(message):
    with pytest.raises((AssertionError, jl.LayerError), match=message):
        check_layer(BROKEN[message], VECTOR)


def test_law_5_refuses_a_rule_for_reverse_mode_alone():
    with pytest.raises(Exception, match="custom_vjp"):
        check_layer(jl.lift(_custom_vjp_alone()), VECTOR)
