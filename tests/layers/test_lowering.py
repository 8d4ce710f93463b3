"""Every row of the table is traced and lowered: what a newer JAX is asked instead of the laws."""

import jax
import jax.numpy as jnp
import pytest
from tables.instances import INSTANCES

import jlayers as jl
from jlayers.testing.trees import floats_of

pytestmark = [pytest.mark.full, pytest.mark.newest]


@pytest.mark.parametrize("train", [False, True], ids=["out of training", "in training"])
@pytest.mark.parametrize("name", INSTANCES)
def test_a_row_is_traced_and_lowered(name, train, key):
    """``init``, ``apply`` and the gradient, without compiling them."""
    layer, x = INSTANCES[name].layer, INSTANCES[name].x
    params, state = jax.eval_shape(layer.init, key, x)
    jax.jit(layer.init).lower(key, x)

    def apply(params, state, x):
        return layer.apply(params, state, x, key=key, train=train)

    def loss(params, state, x):
        y, _ = apply(params, state, x)
        return sum(map(jnp.sum, floats_of(y)), jnp.zeros(()))

    y, after = jax.jit(apply).lower(params, state, x).out_info
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (y, after)) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), (jl.out_spec(layer, x), state)
    )
    jax.jit(jax.grad(loss)).lower(params, state, x)
