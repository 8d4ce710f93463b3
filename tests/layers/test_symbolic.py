"""Sizes that have no number yet: exported programs, ``out_spec`` and ``summary``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tables.instances import IMAGE, STEPS
from tables.tiers import full, named

import jlayers as jl

# layer, real input, and the axes that are symbolic
CASES = {
    "strided conv of any size": (jl.Conv(3, 3, strides=2, padding="SAME"), IMAGE, (0, 1, 2)),
    "strided conv, patches": (jl.Conv(3, 3, strides=2), IMAGE, (0,)),
    "conv with more padding than kernel": (jl.Conv(3, 2, padding=4), IMAGE, (0, 1, 2)),
    "circular conv": (jl.Conv(3, 3, padding=("CIRCULAR", "REFLECT")), IMAGE, (0, 1, 2)),
    "conv with its edges again": (
        jl.Conv(3, 2, strides=2, padding=2, padding_mode="replicate"),
        IMAGE,
        (0, 1),
    ),
    "dilated input": (jl.Conv(3, 3, input_dilation=2, strides=3, padding=1), STEPS, (0, 1)),
    "circular transposed conv": (jl.ConvTranspose(3, 4, padding="CIRCULAR"), STEPS, (0, 1)),
    "patches of any size": (jl.serial(jl.Unfold(3), jl.Fold(3)), IMAGE, (0, 1, 2)),
    "deformable": (
        jl.serial(
            jl.branch(jl.serial(), jl.Conv(6, 3, padding="SAME")),
            jl.DeformableConv(3, 3, padding=((1, 1),)),
        ),
        STEPS,
        (0, 1),
    ),
    "conv of steps, strides": (jl.Conv(3, 3, strides=2, padding="SAME"), STEPS, (0, 1)),
    "depthwise conv": (jl.Conv(4, 3, groups=4), IMAGE, (0, 1, 2)),
    "grouped conv": (jl.Conv(4, 3, groups=2), IMAGE, (0, 1, 2)),
    "transposed conv": (jl.ConvTranspose(3, 2), STEPS, (0, 1)),
    "transposed conv, direct": (
        jl.ConvTranspose(3, 4, strides=2, padding="SAME", method="direct"),
        IMAGE,
        (0, 1, 2),
    ),
    "transposed conv, overlapping": (jl.ConvTranspose(8, 3, strides=2), IMAGE, (0, 1, 2)),
    "transposed conv, groups": (jl.ConvTranspose(4, 3, strides=2, groups=2), IMAGE, (0, 1, 2)),
    "transposed conv, small kernel": (jl.ConvTranspose(3, 2, strides=3), IMAGE, (0, 1)),
    "max pool": (jl.MaxPool(2), IMAGE, (0, 1, 2)),
    "average pool": (jl.AvgPool(3, strides=2, padding="SAME"), IMAGE, (0, 1, 2)),
    "max pool to the last pixel": (
        jl.MaxPool(3, strides=2, padding=1, ceil_mode=True),
        IMAGE,
        (0, 1, 2),
    ),
    "average pool, wide strides, to the last pixel": (
        jl.AvgPool(2, strides=4, padding=1, ceil_mode=True, count_include_pad=True),
        IMAGE,
        (0, 1, 2),
    ),
    "average pool, dilated": (jl.AvgPool(2, strides=1, dilation=2), IMAGE, (0, 1, 2)),
    "adaptive pools": (
        jl.concat(jl.AdaptiveAvgPool((None, 1)), jl.AdaptiveMaxPool((None, 1))),
        IMAGE,
        (0, 1, 2),
    ),
    "adaptive pools of a batch": (
        jl.concat(jl.AdaptiveAvgPool(4), jl.AdaptiveMaxPool(4)),
        IMAGE,
        (0,),
    ),
    "global pools": (jl.concat(jl.GlobalMaxPool(), jl.GlobalAvgPool()), IMAGE, (0, 1, 2)),
    "norms": (jl.serial(jl.BatchNorm(), jl.GroupNorm(2), jl.LayerNorm()), IMAGE, (0, 1, 2)),
    "frames": (jl.Frame(3, strides=2, padding="CENTER"), STEPS, (0, 1)),
    "spectra": (
        jl.serial(
            jl.STFT(4, strides=2, padding="CAUSAL"), jl.InverseSTFT(4, strides=2, padding="CENTER")
        ),
        STEPS,
        (0, 1),
    ),
    "filters": (
        jl.serial(
            jl.FIRFilter([0.3, 0.2], padding="SAME"),
            jl.IIRFilter([0.3], [1.0, -0.5]),
            jl.Resample(3, 2),
            jl.Delay(2),
        ),
        STEPS,
        (0, 1),
    ),
    "repeat": (jl.repeat(jl.residual(jl.SelfAttention(2, causal=True)), 2), STEPS, (0, 1)),
    "recurrent": (jl.bidirectional(jl.LSTM(3, method="recompute")), STEPS, (0, 1)),
    "a part of a size": (jl.serial(jl.Conv(3, 2), jl.GRU(2), jl.AvgPool(2)), STEPS, (1,)),
}


def _symbolic(shape, axes):
    text = ", ".join(f"n{i}" if i in axes else str(n) for i, n in enumerate(shape))
    # With less there would be windows that fit nowhere.
    constraints = [f"n{i} >= 4" for i in axes]
    return export.symbolic_shape(text, constraints=constraints)


@pytest.mark.parametrize(
    "name",
    named(
        CASES,
        "strided conv of any size",
        "conv with more padding than kernel",
        "transposed conv, direct",
        "max pool",
        "a part of a size",
    ),
)
def test_an_exported_program_takes_every_size(name, key):
    layer, spec, axes = CASES[name]
    params, state = layer.init(key, spec)
    x = jax.ShapeDtypeStruct(_symbolic(spec.shape, axes), jnp.float32)

    def run(x):
        return layer.apply(params, state, x)[0]

    exported = export.export(jax.jit(run))(x)
    # The dialect of the other sizes is the one of these: one larger than the table's.
    real = [n + 3 * (i in axes) for i, n in enumerate(spec.shape)]
    values = jax.random.normal(key, real)
    expected = run(values)
    np.testing.assert_allclose(exported.call(values), expected, rtol=1e-4, atol=1e-5)
    assert len(jl.out_spec(layer, x).shape) == expected.ndim


@pytest.mark.parametrize(
    "layer",
    [
        jl.Conv(3, 3, strides=2, padding="SAME"),
        jl.Conv(3, 2, padding=3),
        *(
            pytest.param(layer, marks=pytest.mark.full)
            for layer in (
                jl.Conv(3, 2, dilation=2, padding="CAUSAL"),
                jl.ConvTranspose(3, 3, dilation=2),
                jl.AvgPool(2, padding=1),
                jl.bidirectional(jl.GRU(3)),
                jl.MinGRU(3),
                jl.SelfAttention(2, causal=True, rope=10.0),
            )
        ),
    ],
    ids=repr,
)
def test_masks_of_every_size(layer, key):
    params, state = layer.init(key, STEPS)
    batch, steps = export.symbolic_shape("batch, steps")
    x = jl.Sequence(
        jax.ShapeDtypeStruct((batch, steps, 4), jnp.float32),
        jax.ShapeDtypeStruct((batch, steps), bool),
    )

    def run(x):
        y, _ = layer.apply(params, state, x)
        return y.values, y.mask

    exported = export.export(jax.jit(run))(x)
    real = jl.Sequence.from_lengths(jax.random.normal(key, (3, 7, 4)), np.array([7, 2, 5]))
    (y, mask), (wanted, wanted_mask) = exported.call(real), run(real)
    np.testing.assert_array_equal(mask, wanted_mask)
    shown = np.asarray(mask)
    np.testing.assert_allclose(y[shown], wanted[shown], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [jl.CrossAttention(2), *full(jl.AdditiveAttention(3))], ids=repr)
def test_two_numbers_of_steps(layer, key):
    batch, time, steps = export.symbolic_shape("batch, time, steps")
    real = tuple(jax.random.normal(key, (3, n, 4)) for n in (5, 2))
    params, state = layer.init(key, real)
    free = tuple(jax.ShapeDtypeStruct((batch, n, 4), jnp.float32) for n in (time, steps))
    exported = export.export(jax.jit(lambda x: layer.apply(params, state, x)[0]))(free)
    wanted, _ = layer.apply(params, state, real)
    np.testing.assert_allclose(exported.call(real), wanted, rtol=1e-5, atol=1e-6)


def test_summary_counts_in_symbols():
    (batch,) = export.symbolic_shape("batch")
    model = jl.serial(jl.Dense(3), jnp.tanh)
    found = jl.summary(model, jax.ShapeDtypeStruct((batch, 4), jnp.float32))
    assert found.parameters == 15
    assert found.flops == 30 * batch  # 24 of the product, 3 of the bias, 3 of tanh
    assert "30*batch" in str(found)
    assert "float32[batch, 3]" in str(found)


def test_blocks_of_attention_need_a_number_of_steps(key):
    layer = jl.SelfAttention(2, method="blocks")
    x = jax.ShapeDtypeStruct(export.symbolic_shape("2, steps, 4"), jnp.float32)
    with pytest.raises(jl.LayerError, match="no method 'blocks' for these arguments, but 'direct'"):
        jl.out_spec(layer, x)
