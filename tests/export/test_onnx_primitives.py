"""Functions of JAX as ONNX graphs, by primitive, with a batch of no fixed size."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax
from oracles.onnx_runs import agree, kinds, run

import jlayers as jl

FLOATS = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
POSITIVE = np.abs(FLOATS) + 0.1
SMALL = np.clip(FLOATS, -0.9, 0.9)
INTS = np.arange(12, dtype="int32").reshape(3, 4) - 5
EDGES = np.array([[np.inf, -np.inf, np.nan, 0.0]], "float32")
STEPS = np.random.default_rng(1).normal(size=(3, 6, 4)).astype("float32")


def _of(*functions):
    return lambda x: tuple(function(x) for function in functions)


def _fori(x):
    return lax.fori_loop(0, 3, lambda i, y: y * 0.5 + i, x)


def _until(x):
    return lax.while_loop(
        lambda c: jnp.sum(c[0]) < 50.0, lambda c: (c[0] * 2 + 1, c[1] + 1), (x, 0)
    )


def _until_each(x):
    def row(row):
        return lax.while_loop(
            lambda c: jnp.sum(c[0]) < 50.0, lambda c: (c[0] * 2 + 1, ~c[1]), (row, True)
        )

    return jax.vmap(row)(x)


def _branches(x):
    n = jnp.clip(jnp.sum(x).astype(jnp.int32), 0, 2)
    return lax.switch(n, [jnp.sin, lambda x: x * 2, lambda x: x - 1.0], x)


def _backwards(x):
    def step(carry, row):
        return carry * 0.5 + row, (carry, row[:1])

    return lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.swapaxes(x, 0, 1), reverse=True)


def _window(x):
    return lax.reduce_window(x, 1.0, lambda a, b: a * b, (1, 3, 2), (1, 2, 1), "VALID")


def _narrow(x):
    moved = x[:, jnp.argsort(-x[0])]
    return x * x, x - moved, x >> 1, jnp.maximum(x, moved), x.sum(1), jnp.pad(x, 1), x @ x[0]


def _scatter(x):
    places = jnp.array([0, 2, 2, 9])  # the last is dropped
    applied = x.at[:, places[1::2]].apply(jnp.tanh), x.at[:, 1].apply(lambda x: 0.0 * x)
    return x.at[:, places].add(1.0), x.at[:, 1:3].set(0.0), x.at[:, places].max(0.5), applied


def _gather(x):
    rows = jnp.argmax(x, 1)
    return jnp.take_along_axis(x, rows[:, None], 1), x[:, jnp.array([3, -1, 0])]


def _dynamic(x):
    start = jnp.argmax(x[0])
    cut = lax.dynamic_slice_in_dim(x, start, 2, 1)
    return (
        cut,
        lax.dynamic_update_slice(x, cut * 2, (0, start)),
        lax.dynamic_index_in_dim(x, start, 1),
    )


def _complex(x):
    z = lax.complex(x, x[:, ::-1])
    return jnp.real(z * z / (z + 2.0)), jnp.abs(jnp.exp(1j * z) @ jnp.ones((4, 2), "complex64"))


def _fourier(x):
    whole = jnp.fft.fft(x)
    half = jnp.fft.rfft(x)
    return whole.real, half.imag, jnp.fft.irfft(half * 0.5), jnp.fft.ifft(whole, axis=-1).real


def _fourier_of_free_lengths(x):
    half = jnp.fft.rfft(x, axis=1)
    swapped = jnp.swapaxes(half * 0.5, 1, 2)
    back = lax.fft(swapped, "IRFFT", (x.shape[1],))
    return half.imag, back, jnp.fft.ifft(half, axis=1).imag


def _planes(x):
    plane = jnp.fft.rfft2(x, axes=(1, 2))
    return plane.real, jnp.fft.irfft2(plane * 0.5, axes=(1, 2)), jnp.fft.fft2(x[:, :5]).imag


def _sorted(x):
    keys, values = lax.sort_key_val(x, jnp.broadcast_to(jnp.arange(4), x.shape))
    return keys, values, jnp.argsort(-x, axis=1), lax.top_k(x, 2)


CASES = {
    "unary": (
        _of(jnp.exp, jnp.sin, jnp.cos, jnp.tan, jnp.tanh, jnp.abs, jnp.sign, jnp.floor, jnp.ceil),
        FLOATS,
    ),
    "of positive": (_of(jnp.log, jnp.sqrt, lax.rsqrt, jnp.log1p, jnp.cbrt, jnp.expm1), POSITIVE),
    "of small": (_of(jnp.arcsin, jnp.arccos, jnp.arctan, jnp.arctanh, lax.erf_inv), SMALL),
    "hyperbolic": (_of(jnp.sinh, jnp.cosh, jnp.arcsinh, lax.erf, lax.erfc, jnp.round), FLOATS),
    "edges": (_of(jnp.isfinite, jnp.isnan, jnp.log1p, jnp.expm1, lax.logistic), EDGES),
    "binary": (
        lambda x: (x - x[:1], x % 0.7, jnp.arctan2(x, -x[:, ::-1]), x**2, x**-1, jnp.exp2(x)),
        POSITIVE,
    ),
    "integers": (lambda x: (x // 3, x % 3, lax.div(x, 3), x << 2, x & 6, x | 1, x ^ 3, ~x), INTS),
    "narrow integers": (_narrow, (INTS * 9).astype("int8")),
    "unsigned integers": (_narrow, INTS.astype("uint32")),
    "halves": (
        lambda x: (jnp.sort(x, 1), jnp.argsort(-x, 1), lax.top_k(x, 2)),
        FLOATS.astype("float16"),
    ),
    "bools": (lambda x: (x & ~x[:, ::-1], x | x[:1], x ^ x[:1], x.any(1), x.all(0)), INTS > 0),
    "comparisons": (lambda x: (x > 1, x <= 2, x == 3, x != 4, jnp.where(x > 0, x, -x)), INTS),
    "casts": (lambda x: ((x * 300).astype("uint8"), (x * 300).astype("int8"), x > 0.0), FLOATS),
    "clips": (lambda x: (jnp.clip(x, -0.5, 0.5), jnp.maximum(x, 0.0)), FLOATS),
    "shapes": (
        lambda x: (
            x.T,
            x.reshape(-1, 2),
            x[:, None],
            x[::-1, 1::2],
            jnp.tile(x, (2, 1)),
            jnp.flip(x),
        ),
        FLOATS,
    ),
    "joined": (
        lambda x: (jnp.concatenate([x, x[:, :1]], 1), jnp.stack([x, x], 1), jnp.split(x, 2, 1)),
        FLOATS,
    ),
    "padded": (lambda x: lax.pad(x, 2.0, ((1, -1, 0), (2, 1, 2))), FLOATS),
    "reductions": (
        lambda x: (x.sum(0), x.max(1), x.min(), x.prod(1), x.mean(1), jnp.argmin(x, 1), x.std(0)),
        FLOATS,
    ),
    "cumulative": (
        _of(
            lambda x: jnp.cumsum(x, 1),
            lambda x: lax.cummax(x, 1),
            lambda x: lax.cumprod(x, 1, reverse=True),
            lambda x: lax.cumlogsumexp(x, 1),
        ),
        FLOATS,
    ),
    "products": (
        lambda x: (
            x @ x[0].T,
            jnp.einsum("bti,bsi->bts", x, x),
            jnp.einsum("bti,td->idb", x, x[0]),
        ),
        STEPS,
    ),
    "convolution": (
        lambda x: lax.conv_general_dilated(
            x, jnp.ones((2, 2, 4)), (1,), [(2, -1)], (2,), (2,), ("NHC", "HIO", "NHC"), 2
        ),
        STEPS,
    ),
    "windows": (_window, STEPS),
    "scatter": (_scatter, FLOATS),
    "gather": (_gather, FLOATS),
    "dynamic slices": (_dynamic, FLOATS),
    "sorted": (_sorted, FLOATS),
    "fori": (_fori, FLOATS),
    "while": (_until, POSITIVE),
    "while of each row": (_until_each, POSITIVE),
    "switch": (_branches, FLOATS),
    "scan, reversed": (_backwards, STEPS),
    "complex": (_complex, FLOATS),
    "fourier": (_fourier, FLOATS),
    "fourier, planes": (_planes, STEPS),
}


def test_fourier_transforms_of_free_lengths():
    shape = jax.export.symbolic_shape("b, t, 4")
    model = jl.lift(_fourier_of_free_lengths)
    for steps in (6, 7):
        x = np.random.default_rng(2).normal(size=(2, steps, 4)).astype("float32")
        agree(model, {}, {}, jax.ShapeDtypeStruct(shape, x.dtype), x)


def test_bfloat16_is_written():
    def model(x):
        pooled, _ = jl.MaxPool(2).apply({}, {}, x)
        return pooled, lax.cummax(x, 1), jnp.einsum("bti,ti->ti", x, x[0]), jnp.sort(x, 1)

    proto = jl.export.onnx(jl.lift(model), {}, {}, jl.spec((3, 6, 4), jnp.bfloat16), check=False)
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("name", CASES)
def test_a_primitive_in_onnxruntime(name):
    function, x = CASES[name]
    shape = jax.export.symbolic_shape(", ".join(["b", *map(str, x.shape[1:])]))
    agree(jl.lift(function), {}, {}, jax.ShapeDtypeStruct(shape, x.dtype), x)


def test_loops_are_scans_and_loops():
    assert "Scan" in kinds(jl.export.onnx(jl.lift(_backwards), {}, {}, jl.spec((3, 6, 4))))
    assert "Loop" in kinds(jl.export.onnx(jl.lift(_until), {}, {}, jl.spec((3, 4)), check=False))
    assert kinds(jl.export.onnx(jl.lift(_branches), {}, {}, jl.spec((3, 4)))).count("If") == 2


def test_what_no_output_needs_is_not_written():
    def function(x):
        jnp.linalg.svd(x)
        return x + 1.0

    assert kinds(jl.export.onnx(jl.lift(function), {}, {}, jl.spec((3, 4)))) == ["Add", "Identity"]


def test_constants_are_worked_out(key):
    layer = jl.orthogonalize_weights(jl.Dense(3))
    params, state = layer.init(key, jl.spec((3, 4)))
    model = agree(layer, params, state, jl.spec((3, 4)), FLOATS)
    assert kinds(model) == ["MatMul", "Add", "Identity"]


def test_outputs_that_compute_nothing():
    model = jl.export.onnx(jl.lift(lambda x: (x, 2.0, x)), {}, {}, jl.spec((3, 4)))
    found = run(model, [FLOATS])
    np.testing.assert_array_equal(found[0], found[2])
    assert found[1] == 2.0
    assert [value.name for value in model.graph.output] == ["y/0", "y/1", "y/2"]


def test_names_of_inputs_and_outputs_are_their_paths(key):
    both = {"a/b": jl.spec((3, 4)), "a": {"b": jl.spec((3, 4))}}
    model = jl.export.onnx(jl.lift(lambda x: x["a"]["b"] - x["a/b"]), {}, {}, both)
    # Keys are in order.
    assert [value.name for value in model.graph.input] == ["x/a/b", "x/a/b_1"]
    # Parameters may have the same paths.
    layer = jl.serial(y=jl.Dense(3), body=lambda x: {"kernel": x, "bias": x})
    params, state = layer.init(key, jl.spec((3, 4)))
    model = jl.export.onnx(layer, params, state, jl.spec((3, 4)))
    assert [value.name for value in model.graph.output] == ["y/bias", "y/kernel"]


def test_inputs_have_the_dtype_of_the_spec():
    layer = jl.lift(lambda x: x @ jnp.ones((4, 2)))
    model = jl.export.onnx(layer, {}, {}, np.ones((3, 4)))
    assert run(model, [np.ones((2, 4))])[0].dtype == np.float32


@pytest.mark.parametrize("size", ["2*n + 1", "n + 3", "3*n"])
def test_sizes_of_the_spec_may_be_multiples_and_sums(size):
    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{size}, 3"), "float32")
    x = np.ones((9, 3), "float32")
    agree(
        jl.lift(lambda x: x[::2] * jnp.arange(x.shape[0], dtype=x.dtype)[::2, None]),
        {},
        {},
        spec,
        x,
    )
