"""Quantised weights against NumPy in float64: the format, the products, and their derivatives."""

import itertools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jlayers import core
from jlayers.core import quantized
from jlayers.core.dispatch import recording

RNG = np.random.default_rng(0)
LARGEST = {"int8": 127, "int4": 7, "float8_e4m3fn": 448}


def drawn(*shape):
    return RNG.normal(size=shape)


def by_hand(weight, dtype, axis, group_size):
    """The rounded numbers and the scales, channels first, one group after the other."""
    first = np.moveaxis(weight, axis, 0)
    size = first.shape[-1]
    values, groups = np.zeros(first.shape), group_size or size
    scales = np.ones((*first.shape[:-1], size // groups))
    if group_size is None:
        scales = np.ones(len(first))
    for channel in range(len(first)):
        whole = [(channel,)]
        if group_size is not None:
            others = itertools.product(*map(range, first.shape[1:-1]))
            starts = range(0, size, groups)
            whole = [
                (channel, *at, slice(start, start + groups)) for at in others for start in starts
            ]
        for where in whole:
            largest = np.abs(first[where]).max()
            scale = largest / LARGEST[dtype] if largest else 1.0
            ratio = first[where] / scale
            if dtype == "float8_e4m3fn":
                values[where] = ratio.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
            else:
                values[where] = np.rint(ratio)
            at = where if group_size is None else (*where[:-1], where[-1].start // groups)
            scales[at] = scale
    return values, scales


def numbers(q, dtype):
    """What is stored, as numbers."""
    q = np.asarray(q)
    if dtype == "int8":
        return q.astype(np.float64)
    if dtype == "float8_e4m3fn":
        return q.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    four = np.concatenate([q & 15, q >> 4], -1).astype(np.float64)
    return np.where(four > 7, four - 16, four)


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize(
    ("shape", "axis", "group_size"),
    [
        ((6, 5), -1, None),
        ((6, 5), -1, 2),
        ((5, 6), 0, 3),
        ((3, 2, 4, 5), -1, 2),
        ((2, 4, 3), 2, None),
    ],
)
def test_the_format(dtype, shape, axis, group_size):
    weight = drawn(*shape)
    weight[(slice(None),) * (axis % len(shape)) + (1,)] = 0
    with jax.enable_x64(True):
        q, scale = core.quantize(jnp.asarray(weight), dtype, axis=axis, group_size=group_size)
        values, scales = by_hand(weight, dtype, axis, group_size)
        np.testing.assert_array_equal(numbers(q, dtype), values)
        np.testing.assert_allclose(scale, scales, rtol=1e-12)
        back = core.dequantize(q, scale, dtype, axis=axis)
    step = scales if group_size is None else np.repeat(scales, group_size, -1)
    step = step.reshape(step.shape + (1,) * (len(shape) - step.ndim))
    np.testing.assert_allclose(np.moveaxis(back, axis, 0), values * step, rtol=1e-12)
    assert q.nbytes == weight.size / (2 if dtype == "int4" else 1)
    if dtype != "float8_e4m3fn":
        off = np.abs(np.moveaxis(np.asarray(back) - weight, axis, 0))
        assert (off <= step / 2 * (1 + 1e-12)).all()
        assert np.abs(values).max() == LARGEST[dtype]


def test_halves_are_rounded_to_even_numbers():
    column = jnp.array([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])[:, None]
    q, scale = core.quantize(column)
    assert q.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert scale.tolist() == [1.0]


def test_every_number_of_float8():
    bits = np.array([b for b in range(256) if b & 127 != 127], np.uint8)
    expected = bits.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    got = core.dequantize(jnp.asarray(bits)[None], jnp.ones(1), "float8_e4m3fn", axis=0)[0]
    np.testing.assert_array_equal(got, expected)


# More channels than are made wide at once, and not a multiple of them.
FAR = quantized._BLOCK + 130


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("group_size", [None, 8])
def test_products(dtype, group_size):
    weight, x = drawn(24, FAR).astype(np.float32), drawn(2, 3, 24).astype(np.float32)
    x[1, 1] *= 1e4
    x[0, 0] = 0
    q, scale = core.quantize(weight, dtype, group_size=group_size)
    exact = np.asarray(core.dequantize(q, scale, dtype), np.float64)
    expected = x.astype(np.float64) @ exact
    # Each row by itself: what is large in one must not cost another its digits.
    size = np.abs(x).max(-1, keepdims=True) * np.abs(exact).sum(0)
    whole = group_size is None and dtype != "float8_e4m3fn"
    for method in (None, *quantized.METHODS[0 if whole else 1 :]):
        y = core.quantized_dense(x, q, scale, dtype, method=method)
        assert y.shape == expected.shape
        assert (np.abs(y - expected) <= 4e-7 * size).all(), method
    one = core.quantized_dense(x[0, 1], q, scale, dtype)
    np.testing.assert_allclose(one, expected[0, 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("rows", [1, 3])
def test_activations_of_8_bits(dtype, rows):
    weight, x = drawn(24, 5).astype(np.float32), drawn(rows, 24).astype(np.float32)
    q, scale = core.quantize(weight, dtype)
    unit = np.abs(x).max(1, keepdims=True) / np.float32(127)
    rounded = np.rint(x / unit).astype(np.float64)
    expected = rounded @ numbers(q, dtype).T * unit * np.asarray(scale)
    y = core.quantized_dense(x, q, scale, dtype, activations="int8")
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activations", [None, "int8"])
def test_no_rows(activations):
    q, scale = core.quantize(jnp.asarray(drawn(4, 3), jnp.float32))
    y = core.quantized_dense(jnp.ones((2, 0, 4)), q, scale, activations=activations)
    assert y.shape == (2, 0, 3)


def test_half_precision():
    weight, x = drawn(24, 5).astype(np.float32), jnp.asarray(drawn(2, 24), jnp.bfloat16)
    q, scale = core.quantize(weight)
    expected = np.asarray(x, np.float64) @ np.asarray(core.dequantize(q, scale), np.float64)
    for method in ("digits", "dequantize"):
        y = core.quantized_dense(x, q, scale, method=method)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("dtype", "group_size", "activations"),
    [
        ("int8", None, None),
        ("int8", None, "int8"),
        ("int4", 4, None),
        ("float8_e4m3fn", None, None),
    ],
)
def test_derivatives(dtype, group_size, activations):
    """Those of the product with the dequantised weight, forwards, backwards and twice."""
    weight, x = drawn(8, 3).astype(np.float32), drawn(2, 8).astype(np.float32)
    q, scale = core.quantize(weight, dtype, group_size=group_size)
    exact = np.asarray(core.dequantize(q, scale, dtype))

    def product(x, scale):
        return core.quantized_dense(x, q, scale, dtype, activations=activations)

    ct = drawn(2, 3).astype(np.float32)
    _, pull = jax.vjp(product, x, scale)
    of_x, of_scale = pull(ct)
    np.testing.assert_allclose(of_x, ct @ exact.T, rtol=1e-5, atol=1e-5)
    ones = core.dequantize(q, jnp.ones_like(scale), dtype, axis=0)
    of_weight = np.asarray(ones) * (x.T @ ct).T
    if group_size:
        of_weight = of_weight.reshape(*scale.shape, group_size)
    np.testing.assert_allclose(of_scale, of_weight.sum(-1), rtol=1e-4, atol=1e-4)
    tangent = drawn(2, 8).astype(np.float32)
    _, pushed = jax.jvp(lambda x: product(x, scale), (x,), (tangent,))
    np.testing.assert_allclose(pushed, tangent @ exact, rtol=1e-5, atol=1e-5)
    hessian = jax.hessian(lambda row: jnp.sum(product(row[None], scale) ** 2))(x[0])
    np.testing.assert_allclose(hessian, 2 * exact @ exact.T, rtol=1e-4, atol=1e-4)


def test_a_batch_of_weights():
    weight, x = drawn(3, 8, 4).astype(np.float32), drawn(3, 2, 8).astype(np.float32)
    q, scale = jax.vmap(core.quantize)(weight)
    together = jax.vmap(core.quantized_dense)(x, q, scale)
    for i in range(3):
        one = core.quantized_dense(x[i], q[i], scale[i])
        np.testing.assert_allclose(together[i], one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_row_does_not_change_another(bad):
    # As large as where XLA's maximum is another one, which leaves NaN out.
    weight, x = drawn(1024, 4).astype(np.float32), drawn(4, 1024).astype(np.float32)
    q, scale = core.quantize(weight)
    clean = core.quantized_dense(x, q, scale, method="digits")
    x[1, 0] = bad
    spoiled = core.quantized_dense(x, q, scale, method="digits")
    np.testing.assert_array_equal(np.delete(spoiled, 1, 0), np.delete(clean, 1, 0))
    assert np.isnan(spoiled[1]).all()


CHOICES = [
    ((1, 64), (64, 64), "int8", None, None, "digits", "dequantize"),
    ((2, 4, 64), (64, 64), "int4", None, None, "digits", "dequantize"),
    ((9, 64), (64, 64), "int8", None, None, "dequantize", "dequantize"),
    ((9, 64), (64, 600), "int8", None, None, "blocks", "dequantize"),
    ((1, 64), (64, 600), "int8", 16, None, "blocks", "dequantize"),
    ((1, 64), (64, 600), "float8_e4m3fn", None, None, "blocks", "dequantize"),
    ((9, 64), (64, 600), "int8", None, "int8", "digits", "digits"),
]


@pytest.mark.parametrize(
    ("x", "kernel", "dtype", "group_size", "activations", "cpu", "gpu"), CHOICES
)
def test_choices(x, kernel, dtype, group_size, activations, cpu, gpu):
    q, scale = jax.eval_shape(
        lambda w: core.quantize(w, dtype, group_size=group_size), jnp.zeros(kernel)
    )
    for platform, expected in (("cpu", cpu), ("cuda", gpu)):
        with recording(platform) as records:
            jax.eval_shape(
                lambda *a: core.quantized_dense(*a, dtype, activations=activations),
                jnp.zeros(x),
                q,
                scale,
            )
        assert [r.choice.method for r in records if r.operation == "quantized_dense"] == [expected]


def test_sizes_that_are_not_known():
    q, scale = core.quantize(drawn(8, 4).astype(np.float32))
    (rows,) = jax.export.symbolic_shape("rows")
    exported = jax.export.export(jax.jit(lambda x: core.quantized_dense(x, q, scale)))(
        jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    )
    x = drawn(3, 8).astype(np.float32)
    np.testing.assert_allclose(
        exported.call(x), x @ np.asarray(core.dequantize(q, scale)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda q, s: core.quantize(jnp.ones((6, 2)), group_size=4), "4 does not divide the last"),
        (
            lambda q, s: core.quantize(jnp.ones((5, 2)), "int4"),
            "2 does not divide the last axis, 5",
        ),
        (
            lambda q, s: core.quantized_dense(jnp.ones(4), q, s, method="fast"),
            "has no method 'fast'",
        ),
        (
            lambda q, s: core.quantized_dense(jnp.ones(4), q, s[:, None], activations="int8"),
            "needs integers with one scale a channel",
        ),
        (
            lambda q, s: core.quantized_dense(jnp.ones(4), q, s[:, None], method="digits"),
            "no method 'digits' for these arguments",
        ),
    ],
)
def test_refusals(call, text):
    q, scale = core.quantize(jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=text):
        call(q, scale)


def test_sums_fit_into_int32():
    inputs = quantized._MOST_INPUTS
    assert inputs * 127**2 < 2**31 <= math.nextafter(inputs + 1, math.inf) * 127**2
    x, q = jnp.ones((1, inputs + 1)), jnp.zeros((1, inputs + 1), jnp.int8)
    with recording("cpu") as records:
        jax.eval_shape(core.quantized_dense, x, q, jnp.ones(1))
    assert [record.choice.method for record in records] == ["dequantize"]
