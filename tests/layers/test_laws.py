"""The laws over the table, and the table, the docs and ``__all__`` held against one another."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES, VECTOR
from tables.tiers import rows

import jlayers as jl
from jlayers.testing import check_layer

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
# The laws are mathematics, and compiling is what their tests cost. That XLA's optimisations change
# nothing is seen on these, and in the tests of the algorithms.
OPTIMISED = {"dense", "conv 2-D", "max pool", "batch norm", "self-attention", "lstm", "repeat"}


@pytest.mark.parametrize("name", rows(INSTANCES, OPTIMISED))
def test_laws(name):
    instance = INSTANCES[name]
    check_layer(
        instance.layer,
        instance.x,
        batch_axis=instance.batch_axis,
        same_dtype=instance.same_dtype,
        symbolic_axes=instance.axes_without_size(),
        differences=instance.differences,
    )


def _public_factories():
    return {name for name in jl.__all__ if getattr(getattr(jl, name), "__jlayers_factory__", False)}


def test_the_optimised_ones_are_there():
    assert {name for name, row in INSTANCES.items() if not row.full} >= OPTIMISED


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


def _init_by_dtype(key, x):
    return {"scale": jnp.ones(4, x.dtype)}, {}


def _looks_at_tracers(x):
    return x if isinstance(x, jax.core.Tracer) else 2 * x


def _asks_for_the_size(x):
    return x if x.shape[0] > 2 else 2 * x


def _looks_at_sizes(x):
    return x if isinstance(x.shape[0], int) else 2 * x


def _hidden_array():
    """What it adds is another array at each trace, of one shape and dtype."""
    offsets = iter(range(100))
    return lambda x: x + jnp.asarray(np.full(x.shape, next(offsets), x.dtype))


@jax.custom_batching.custom_vmap
def _alone(x):
    return 2 * x


@_alone.def_vmap
def _(axis_size, in_batched, x):
    return 3 * x, True


@jax.custom_batching.custom_vmap
def _slope_alone(x):
    return jnp.cos(x)


@_slope_alone.def_vmap
def _(axis_size, in_batched, x):
    return 2 * jnp.cos(x), True


@jax.custom_jvp
def _batched_slope(x):
    return jnp.sin(x)


@_batched_slope.defjvp
def _(primals, tangents):
    """The value may be batched, and its slope may not."""
    (x,), (dx,) = primals, tangents
    return jnp.sin(x), dx * _slope_alone(x)


@jax.custom_jvp
def _crooked(x):
    return x


@_crooked.defjvp
def _(primals, tangents):
    """No function has this Jacobian: its own derivatives do not commute."""
    (x,), (dx,) = primals, tangents
    return x, dx * jnp.roll(x, 1, -1)


@jax.custom_jvp
def _flat(x):
    return jnp.sin(x)


@_flat.defjvp
def _(primals, tangents):
    """The slope is right, and its own slope is lost."""
    (x,), (dx,) = primals, tangents
    return jnp.sin(x), dx * jax.lax.stop_gradient(jnp.cos(x))


def _refuses(params, state, x, *, key, train):
    if key is None:
        raise jl.LayerError("is tired")
    return x, state


def _with_a_key_of_its_own(children):
    """Its child's values are drawn by the parent's key."""
    dense = children["dense"]
    return _pair(
        init=lambda key, x: ({"dense": dense.init(key, x)[0]}, {}),
        apply=lambda p, s, x, *, key, train: (dense.apply(p["dense"], {}, x)[0], s),
        children=children,
        rebuild=_with_a_key_of_its_own,
    )


BROKEN = {
    "law 1: .* init of specs": _pair(init=_init_that_counts()),
    "init must return an array for 'w' in params": _pair(init=lambda key, x: ({"w": 1.0}, {})),
    "law 2: .* empty entry": _pair(init=lambda key, x: ({"dense": {}}, {})),
    "init returned params with the key 0": _pair(init=lambda key, x: ({0: jnp.ones(1)}, {})),
    "the new state does not fit": _pair(
        init=lambda key, x: ({}, {"seen": jnp.zeros(1)}),
        apply=lambda p, s, x, *, key, train: (x, {"seen": jnp.zeros(2)} if train else s),
    ),
    "law 3: .* state out of training": _pair(
        init=lambda key, x: ({}, {"seen": jnp.zeros(1)}),
        apply=lambda p, s, x, *, key, train: (x, {"seen": s["seen"] + 1}),
    ),
    "law 4: .* second trace": _pair(apply=_counting()),
    "law 4: .* second trace of apply": jl.lift(_hidden_array()),
    "law 11: .* apply without jit": jl.lift(_looks_at_tracers),
    "law 11: .* cannot be exported with symbolic sizes": jl.lift(_asks_for_the_size),
    "law 11: .* the exported program": jl.lift(_looks_at_sizes),
    "law 4: .* vmap of apply": jl.lift(_alone),
    "law 5: .* vmap of grad": jl.lift(_batched_slope),
    "law 5: .* symmetry of the Hessian": jl.lift(_crooked),
    "law 6: .* gradient against differences": jl.lift(_drops_a_jump),
    "law 6: .* Hessian against differences": jl.lift(_flat),
    "law 7: .* uses a key": _pair(apply=_drawn_without_key),
    "law 7: .* is tired": _pair(apply=_refuses),
    "law 8: .* child 'dense'": _with_a_key_of_its_own({"dense": jl.Dense(2)}),
    "law 9: .* parameters for bfloat16": _pair(init=_init_by_dtype),
    "law 9: .* bfloat16 output": jl.lift(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    ),
    "law 10: .* garbage": jl.lift(lambda x: x - jnp.mean(x, 0, keepdims=True)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_check_layer_finds_the_law_that_is_broken(message):
    with pytest.raises((AssertionError, jl.LayerError), match=message):
        check_layer(BROKEN[message], VECTOR)


def test_every_law_has_a_layer_that_breaks_it():
    named = {int(number) for message in BROKEN for number in re.findall(r"law (\d+)", message)}
    laws = re.findall(r"^    (\d+)\. ", check_layer.__doc__, re.M)
    assert named == set(map(int, laws)) == set(range(1, 12))


def test_law_5_refuses_a_rule_for_reverse_mode_alone():
    with pytest.raises(Exception, match="custom_vjp"):
        check_layer(jl.lift(_custom_vjp_alone()), VECTOR)
