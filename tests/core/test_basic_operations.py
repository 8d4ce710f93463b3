"""in_basic_operations: each form has the values and slopes of the operation that it is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jlayers.core.basic_operations import in_basic_operations

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(3, 5)).astype("float32")
TIES = np.array([[1, 2, 2, 0], [0, 0, 0, 0], [-np.inf, 3, -np.inf, -1]], "float32")
HOLES = np.array([[np.nan, 2, np.inf, np.nan], [-np.inf, np.nan, 0, -0.0]], "float32")
EDGES = np.array([-2, -1, -0.0, 0, 0.5, 1, 2], "float32")
SPECIAL = np.array([np.nan, np.inf, -np.inf, 3e38, 0], "float32")
IMAGE = rng.normal(size=(2, 7, 6, 4)).astype("float32")
TURNED = IMAGE.transpose(3, 0, 2, 1)  # Channels, batch, width, height.
STEPS = rng.normal(size=(2, 9, 4)).astype("float32")
TRUTHS = np.array([[True, False, True], [False, False, False], [True, True, True]])
INDEX = np.array([[0, 4, 2], [4, 7, -1]])


def pad(*config):
    return lambda x: lax.pad(x, np.float32(2), config)


def convolution(shape, strides, padding, names=None, **options):
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
    names = names or (("NHWC", "HWIO", "NHWC") if len(shape) == 4 else ("NWC", "WIO", "NWC"))

    def run(x):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=names, **options
        )

    return run


def rows(axis, mode, fill=None):
    def run(x):
        return jnp.take(x, INDEX, axis, mode=mode, fill_value=fill)

    return run


def loop(reverse):
    def body(carry, x):
        at, total = carry
        here = lax.dynamic_index_in_dim(jnp.asarray(ROWS), at, keepdims=False)
        total = jnp.tanh(total + here * x)
        return (at + 1, total), (total, at)

    def run(x):
        (_, last), (every, at) = lax.scan(body, (0, jnp.ones(5)), x, reverse=reverse)
        return last + (every * at[:, None]).sum(0)

    return run


def writes(x):
    return lax.fori_loop(0, 3, lambda i, y: y.at[i, 1:3].set(jnp.sin(x[i, :2])), x)


def nested(x):
    return lax.map(lambda row: lax.fori_loop(0, 2, lambda i, y: y * 2 + i, row), x)


CASES = {
    "abs": (jnp.abs, EDGES, "abs"),
    "abs, special": (jnp.abs, SPECIAL, "abs"),
    "clamp": (lambda x: lax.clamp(np.float32(-1), x, np.float32(1)), EDGES, "clamp"),
    "clamp, special": (lambda x: lax.clamp(np.float32(-1), x, np.float32(1)), SPECIAL, "clamp"),
    "exp2": (jnp.exp2, EDGES, "exp2"),
    "expm1": (jnp.expm1, np.append(EDGES, np.float32([1e-6, -50, 60])), "expm1"),
    "expm1, special": (jnp.expm1, SPECIAL, "expm1"),
    "is_finite": (jnp.isfinite, SPECIAL, "is_finite"),
    "not": (jnp.logical_not, TRUTHS, "not"),
    "and": (lambda x: x & x[:1], TRUTHS, "and"),
    "or": (lambda x: x | x[:1], TRUTHS, "or"),
    "any": (lambda x: x.any(1), TRUTHS, "reduce_or"),
    "all": (lambda x: x.all(0), TRUTHS, "reduce_and"),
    "reduce_min": (lambda x: x.min(1), TIES, "reduce_min"),
    "argmin": (lambda x: x.argmin(1), TIES, "argmin"),
    "iota": (lambda x: x * lax.broadcasted_iota(jnp.float32, x.shape, 1), ROWS, "iota"),
    "a mask": (lambda x: jnp.where(jnp.tri(3, 5, 1, dtype=bool), x, -1), ROWS, "iota"),
    "pad": (pad((1, 2, 0), (0, 3, 0)), ROWS, "pad"),
    "pad between": (pad((1, 0, 2), (-2, -1, 1)), ROWS, "pad"),
    "pad off": (pad((-2, 1, 0), (-7, 4, 0)), ROWS, "pad"),
    "pad nothing": (lambda x: pad((2, 1, 3), (0, 0, 0))(x[:0]), ROWS, "pad"),
    "tile": (lambda x: jnp.tile(x, (2, 3)), ROWS, "tile"),
    "rev": (lambda x: x[::-1, ::-1], ROWS, "rev"),
    "cumsum": (lambda x: jnp.cumsum(x, 1), ROWS, "cumsum"),
    "cumsum, backwards": (lambda x: lax.cumsum(x, 1, reverse=True), ROWS, "cumsum"),
    "rows, clip": (rows(1, "clip"), ROWS, "gather"),
    "rows, fill": (rows(1, "fill"), ROWS, "gather"),
    "rows, a value": (rows(1, "fill", -3.0), ROWS, "gather"),
    "rows, wrap": (rows(1, "wrap"), ROWS, "gather"),
    "top_k": (lambda x: lax.top_k(x, 3), TIES, "top_k"),
    "top_k, nan": (lambda x: lax.top_k(x, 4), HOLES, "top_k"),
    "conv, 1-D": (convolution((3, 4, 2), (2,), "SAME"), STEPS, None),
    "conv, 1-D, causal": (convolution((2, 4, 3), (1,), [(4, 0)], rhs_dilation=(4,)), STEPS, None),
    "conv, dilated": (convolution((3, 2, 4, 5), (1, 2), "SAME", rhs_dilation=(2, 3)), IMAGE, None),
    "conv, spread": (
        convolution((3, 2, 4, 5), (1, 1), [(2, -1), (0, 1)], lhs_dilation=(2, 3)),
        IMAGE,
        None,
    ),
    "conv, groups": (
        convolution((2, 2, 2, 6), (2, 1), "VALID", rhs_dilation=(2, 1), feature_group_count=2),
        IMAGE,
        None,
    ),
    "conv, turned": (
        convolution((5, 2, 4, 3), (1, 1), "SAME", ("CNWH", "OWIH", "NWHC"), rhs_dilation=(1, 2)),
        TURNED,
        None,
    ),
    "scan": (loop(False), ROWS, "scan"),
    "scan, backwards": (loop(True), ROWS, "scan"),
    "writes in a loop": (writes, ROWS, "dynamic_update_slice"),
    "loops in loops": (nested, ROWS, "scan"),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_slopes_are_those_of_the_operation(name):
    function, x, primitive = CASES[name]
    basic = functools.partial(in_basic_operations, function)

    def both(x):
        def total(function, x):
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(function(x)))

        floats = jnp.issubdtype(x.dtype, jnp.floating)
        slopes = [jax.grad(functools.partial(total, f))(x) for f in (function, basic) if floats]
        return function(x), basic(x), slopes

    wanted, got, slopes = jax.jit(both)(x)
    for have, want in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    # The slopes at infinite numbers are NaN, or not, as the sine's are.
    if slopes and np.isfinite(x).all():
        np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)
    names = {equation.primitive.name for equation in jax.make_jaxpr(basic)(x).eqns}
    assert names
    assert primitive not in names


def test_what_has_no_form_stays():
    def function(x, i):
        table = jnp.arange(6.0).reshape(2, 3)
        found = lax.dynamic_slice(x, (i, 0), (1, 3)) + table[i][None]
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: y + jnp.log1p(y), found)

    x, i = np.ones((2, 3), "float32"), np.int32(1)
    np.testing.assert_allclose(
        in_basic_operations(function, x, i), function(x, i), rtol=1e-5, atol=1e-6
    )


def test_a_table_of_half_precision_and_steps_that_are_not_known():
    def function(x):
        y = lax.conv_general_dilated(
            x,
            jnp.ones((2, 4, 3), x.dtype),
            (1,),
            [(2, 0)],
            rhs_dilation=(2,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y + jnp.take(y, np.array([0]), 2) + lax.rev(y, (2,))

    basic = functools.partial(in_basic_operations, function)
    (batch, time) = jax.export.symbolic_shape("b, t")
    x = jax.ShapeDtypeStruct((batch, time, 4), jnp.bfloat16)
    out = jax.eval_shape(basic, x)
    assert (out.shape, out.dtype) == ((batch, time, 3), jnp.bfloat16)
    names = {equation.primitive.name for equation in jax.make_jaxpr(basic)(x).eqns}
    assert not names & {"rev", "gather", "pad"}
