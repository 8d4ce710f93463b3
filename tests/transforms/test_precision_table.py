"""Every public layer under rules of precision, and under the transforms of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES
from tables.tiers import named

import jlayers as jl
from jlayers import transforms
from jlayers.transforms import Precision

KEY = jax.random.key(3)
# A layer that mixes steps, one with a state, one of others in a loop, one with integers.
names = pytest.mark.parametrize(
    "name", named(INSTANCES, "gru", "batch norm", "repeat", "embedding")
)
# A carry has to come in the dtype of the arithmetic, as the model gave it: that is an error.
CARRIED = ("carried",)


def given(x):
    """Values for the specs of an input: small integers, and floats around 0."""
    key = iter(jax.random.split(KEY, 20))

    def draw(spec):
        if jnp.issubdtype(spec.dtype, jnp.floating):
            return jax.random.normal(next(key), spec.shape).astype(spec.dtype)
        return jnp.ones(spec.shape, spec.dtype)

    return jax.tree.map(draw, x)


def same(a, b, tolerance=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@names
def test_float32_and_unreached_bounds_change_nothing(name):
    layer, spec = INSTANCES[name][:2]
    wrapped = transforms.precision(layer, "float32")
    wrapped = transforms.clip_gradients(transforms.gradient_checkpoint(wrapped), "**", norm=1e9)
    x = given(spec)
    trees = layer.init(KEY, x)
    same(wrapped.init(KEY, x), trees)

    def run(layer, train):
        return jax.jit(lambda p, s, x: layer.apply(p, s, x, key=KEY, train=train))(*trees, x)

    for train in (False, True):
        # Two programs, which XLA may fuse differently.
        same(run(wrapped, train), run(layer, train), 1e-5)


@names
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_what_is_stored(name, dtype):
    layer, spec = INSTANCES[name][:2]
    rule = Precision(params="float32", compute=dtype)
    mixed = transforms.precision(layer, rule)
    found = jax.eval_shape(lambda x: mixed.init(KEY, x), spec)
    assert found == jax.eval_shape(lambda x: layer.init(KEY, x), spec)
    if name in CARRIED:
        return
    out, plain = jl.out_spec(mixed, spec), jl.out_spec(layer, spec)
    assert [leaf.shape for leaf in jax.tree.leaves(out)] == [
        leaf.shape for leaf in jax.tree.leaves(plain)
    ]
    if INSTANCES[name].same_dtype:
        floats = {leaf.dtype for leaf in jax.tree.leaves(spec) if is_floating(leaf)}
        made = {leaf.dtype for leaf in jax.tree.leaves(out) if is_floating(leaf)}
        assert not floats or made <= floats | {jnp.dtype(dtype)}

    def loss(params, state, x):
        y, state = mixed.apply(params, state, x, key=KEY, train=True)
        return sum(jnp.sum(leaf.astype("float32")) for leaf in floats_of(y)), state

    def step(params, state, x):
        return jax.grad(loss, has_aux=True)(params, state, x)

    params, state = found
    grads, after = jax.eval_shape(step, params, state, spec)
    assert jax.tree.map(lambda leaf: leaf.dtype, grads) == dtypes(params)
    assert dtypes(after) == dtypes(state)


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def is_floating(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def floats_of(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if is_floating(leaf)]
