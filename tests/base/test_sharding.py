"""A batch over two devices, by sharded arrays and by shard_map, gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tables.instances import INSTANCES, Instance
from tables.tiers import full, rows, sample

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


# What is chosen for other sizes than those of the table.
OTHER_SIZES = {
    "a long pool": Instance(jl.AvgPool(40, strides=7), jl.spec((2, 90, 3))),
    "a long self-attention": Instance(jl.SelfAttention(2, causal=True), jl.spec((2, 512, 8))),
    "a large convolution": Instance(jl.Conv(32, 3), jl.spec((2, 48, 48, 32))),
    "an image smaller than the kernel": Instance(
        jl.Conv(8, 3, padding="SAME"), jl.spec((2, 2, 2, 6))
    ),
}
PLACED = {name: row for name, row in (INSTANCES | OTHER_SIZES).items() if row.batch_axis == 0}
# Explicit sharding: this method, which the row asks for, scans over rows and heads.
REFUSED = {"self-attention in blocks, heads that share"}


@pytest.mark.parametrize("name", rows(PLACED))
def test_every_layer_has_gradients_on_two_devices(name):
    """Its types of arrays are right, in training, in a shard_map and for explicit sharding."""
    row = PLACED[name]
    params, state = jax.eval_shape(row.layer.init, jax.random.key(0), row.x)
    x = jax.tree.map(lambda leaf: jl.spec((2 * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), row.x)

    def loss(params, x, state):
        y, _ = row.layer.apply(params, state, x, key=jax.random.key(1), train=True)
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(y))

    slope = jax.grad(loss, (0, 1), allow_int=True)
    everywhere, split = PartitionSpec(), PartitionSpec("batch")
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        if axis_type == AxisType.Explicit and name in REFUSED:
            continue
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
        program = slope
        if axis_type == AxisType.Auto:
            specs = (everywhere, split, everywhere)
            program = jax.shard_map(slope, mesh=mesh, in_specs=specs, out_specs=(everywhere, split))

        def place(tree, spec, mesh=mesh):
            sharding = NamedSharding(mesh, spec)
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
            )

        with jax.set_mesh(mesh):
            jax.eval_shape(
                program, place(params, everywhere), place(x, split), place(state, everywhere)
            )


def of_explicit_rows(layer, *shape):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
    params, state = layer.init(jax.random.key(0), jnp.ones(shape))
    x = jax.device_put(jnp.ones(shape), NamedSharding(mesh, PartitionSpec("batch")))
    with jax.set_mesh(mesh):
        return layer.apply(params, state, x)[0]


def test_axes_are_merged_beside_rows_that_are_split():
    y = of_explicit_rows(jl.Reshape((3, -1)), 4, 2, 6)
    assert y.shape == (4, 3, 4)
    assert jax.typeof(y).sharding.spec == PartitionSpec("batch", None, None)


@each(
    [
        (
            lambda: of_explicit_rows(jl.SelfAttention(2, method="blocks"), 2, 4, 8),
            "SelfAttention: raised ValueError: method 'blocks' takes rows and heads one after the "
            "other, and an explicit axis of a mesh divides them; without method= all scores are "
            "computed at once",
        ),
        (
            lambda: of_explicit_rows(jl.Rearrange("b t c -> t b c"), 2, 4, 8),
            "Rearrange: on explicit axes of a mesh only rows can be split, and they have to stay "
            "in front",
            "expected: the same first axis before and after, got 'b t c -> t b c'",
            "hint:     axis types Auto",
        ),
    ]
)
def test_what_explicit_axes_refuse(case):
    read(case)
