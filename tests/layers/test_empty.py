"""Batches without rows, steps or valid steps: results of the right shape, and nothing is NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import IMAGE, INSTANCES, STEPS, VECTOR
from tables.tiers import named, rows

import jlayers as jl
from jlayers.testing.trees import floats_of

KEEPS_COUNT = {"compose with state", "spectral_norm"}  # their states count calls, not rows
REFUSALS = ("takes no empty axis", "is larger than", "the mask does not fit the steps")


def _empty(x, axis):
    """Zeros like the specs, of size 0 on one axis."""
    return jax.tree.map(
        lambda spec: jnp.zeros((*spec.shape[:axis], 0, *spec.shape[axis + 1 :]), spec.dtype), x
    )


def _check(layer, spec, x, key, state_is_kept=True):
    """Output, state and gradients of one program in training; the shapes of the other mode."""
    params, state = layer.init(key, spec)
    differentiable = all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(x))

    def loss(params, x):
        y, after = layer.apply(params, state, x, key=key, train=True)
        total = sum(map(jnp.sum, floats_of(y)), jnp.zeros(()))
        return total, (y, after)

    gradient = jax.grad(loss, argnums=(0, 1) if differentiable else 0, has_aux=True)
    gradients, (y, after) = jax.jit(gradient)(params, x)
    assert jax.tree.map(jnp.shape, y) == jax.tree.map(jnp.shape, jl.out_spec(layer, x))
    for leaf in jax.tree.leaves((gradients, y)):
        assert not np.any(leaf), leaf
    if state_is_kept:
        jax.tree.map(np.testing.assert_array_equal, after, state)


# "with_losses" has a loss of its own, the mean of no rows; the other takes two rows.
@pytest.mark.parametrize("name", rows(INSTANCES, without=("with_losses", "ensemble of inputs")))
def test_no_rows(name, key):
    layer, x = INSTANCES[name].layer, INSTANCES[name].x
    _check(layer, x, _empty(x, 0), key, name not in KEEPS_COUNT)
    jax.eval_shape(layer.init, key, _empty(x, 0))


STEPPED = [
    name
    for name, row in INSTANCES.items()
    if all(len(leaf.shape) >= 3 for leaf in jax.tree.leaves(row.x))
]


@pytest.mark.parametrize(
    "name", named(STEPPED, "batch norm", "group norm", "self-attention", "transposed conv")
)
def test_no_steps(name, key):
    layer, x = INSTANCES[name].layer, INSTANCES[name].x
    empty = _empty(x, 1)
    try:
        jl.out_spec(layer, empty)
    except jl.LayerError as error:
        assert any(text in error.problem for text in REFUSALS), error  # noqa: PT017
        return
    _check(layer, x, empty, key, name not in KEEPS_COUNT)


CONVOLUTIONS = {
    "one output of no rows": ((0, 5, 6), (5,), 1, None),
    "strides over no pixels": ((2, 0, 6), (1,), 1, None),
    "patches": ((0, 5, 5, 6), (3, 3), 1, "patches"),
    "shifted": ((0, 5, 6), (3,), 6, "shifted"),
    "blocks": ((2, 0, 6), (1,), 3, "blocks"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_of_nothing_has_gradients(name):
    """Their types; there are no numbers."""
    shape, size, groups, method = CONVOLUTIONS[name]
    axes = len(size)

    def total(x, kernel):
        how = {"strides": (2,) * axes, "padding": "SAME", "dilation": (1,) * axes}
        if "one output" in name:
            how["padding"] = "VALID"
        return jnp.sum(jl.core.conv(x, kernel, **how, groups=groups, method=method))

    x, kernel = jl.spec(shape), jl.spec((*size, 6 // groups, 6))
    dx, dkernel = jax.eval_shape(jax.grad(total, (0, 1)), x, kernel)
    assert (dx.shape, dkernel.shape) == (x.shape, kernel.shape)


NORMS = {
    "batch norm": (jl.BatchNorm(), IMAGE),
    "batch norm of vectors": (jl.BatchNorm(scale=False), VECTOR),
    "batch norm in a model": (jl.serial(jl.Dense(3), jl.BatchNorm(), jnp.tanh), VECTOR),
}


@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_after_a_batch_without_rows_are_those_before(name, key):
    layer, spec = NORMS[name]
    params, start = layer.init(key, spec)
    x = jax.random.normal(key, spec.shape)
    _, state = layer.apply(params, start, x, train=True)
    _, after = layer.apply(params, state, x[:0], train=True)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, state, start)


@pytest.mark.parametrize("layer", [jl.BatchNorm(), jl.GroupNorm(2), jl.LayerNorm()], ids=repr)
def test_norm_of_nothing_but_padding(layer, key):
    x = jl.Sequence(jnp.full(STEPS.shape, jnp.nan), jnp.zeros(STEPS.shape[:2], bool))
    params, state = layer.init(key, STEPS)

    def loss(params, values):
        y, after = layer.apply(params, state, jl.Sequence(values, x.mask), train=True)
        return jnp.sum(jnp.where(y.mask[..., None], y.values, 0)), after

    gradients, after = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x.values)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    for leaf in jax.tree.leaves(gradients):
        assert not np.any(leaf), leaf
