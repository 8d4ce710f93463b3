"""A batch over two devices, by sharded arrays and by shard_map, gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tables.tiers import full, sample

import jlayers as jl

MODEL = jl.serial(
    jl.bidirectional(jl.LSTM(3)),
    jl.repeat(jl.residual(jl.GRU(6)), 2),
    jl.each_step(jl.Dense(4)),
    jl.LayerNorm(),
    jl.SimpleRNN(5, return_sequences=False),
    jl.BatchNorm(),
)
IMAGES = jl.serial(
    jl.Conv(4, 1),
    jl.Conv(8, 3, groups=4, padding="SAME"),
    jl.MaxPool(3, strides=2, padding="SAME"),
    jl.ConvTranspose(4, 4, strides=2, padding="SAME"),
    jl.Conv(4, 3, groups=2, padding="SAME"),
    jl.AvgPool(2),
    jl.LayerNorm(),
)
OPTIONS = jl.serial(
    jl.LSTM(3, peephole=True, layer_norm=True, trainable_carry=True, zoneout=0.2),
    jl.MinGRU(4),
    jl.Reshape((7, 2, 2)),
    jl.ConvLSTM(2, 2, reverse=True),
)
# A batch for each model.
CASES = {
    "sequences": (MODEL, (4, 7, 3)),
    "images": (IMAGES, (4, 6, 6, 3)),
    "recurrent options": (OPTIONS, (4, 7, 3)),
}


@pytest.mark.parametrize("axis_type", [*full(AxisType.Auto), AxisType.Explicit])
@pytest.mark.parametrize("case", sample([*CASES], 1))
def test_a_sharded_batch(case, axis_type):
    model, shape = CASES[case]
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
    everywhere, split = PartitionSpec(), PartitionSpec("batch")
    x = jax.random.normal(jax.random.key(1), shape)
    params, state = model.init(jax.random.key(0), x)

    def apply(params, state, x):
        return model.apply(params, state, x)[0]

    def slope(params, state, x):
        return jax.grad(lambda p: jnp.sum(apply(p, state, x) ** 2))(params)

    expected, single = (jax.jit(f)(params, state, x) for f in (apply, slope))
    whole = jax.device_put((params, state), NamedSharding(mesh, everywhere))
    parts = jax.device_put(x, NamedSharding(mesh, split))

    # The gradient of a sum over the rows of one device; shard_map sums it over all of them.
    def apply_and_slope(params, state, x):
        return apply(params, state, x), slope(params, state, x)

    mapped = jax.shard_map(
        apply_and_slope,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split),
        out_specs=(split, everywhere),
    )
    out, gradients = jax.jit(mapped)(*whole, parts)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(jax.jit(apply)(*whole, parts), expected, atol=1e-6)
        gradient = jax.jit(slope)(*whole, parts)
    for found in (gradient, gradients):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, single)
