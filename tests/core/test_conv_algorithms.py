"""Every way to compute a convolution gives XLA's numbers, in float64, and so do its derivatives."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.derivatives import compare, compare_transforms
from tables.tiers import full, sample

from jlayers import core
from jlayers.core.conv.conv import choose_conv
from jlayers.core.conv.geometry import Geometry, channels_last

pytestmark = pytest.mark.optimised(full=True)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _xla(x, kernel, how, transposed=False):
    rank = x.ndim - 2
    spread = {"lhs_dilation": how["strides"]} if transposed else {}
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,) * rank if transposed else how["strides"],
        how["padding"],
        rhs_dilation=how["dilation"],
        dimension_numbers=channels_last(rank),
        feature_group_count=how["groups"],
        **spread,
    )


def _random_case(seed, transposed):
    """Random shapes: rank, kernel, strides, padding, dilation, groups, channels."""
    draw = random.Random(seed)
    rank = draw.choice([1, 2, 2, 3])
    size = [draw.choice([1, 2, 3, 4, 5] if rank < 3 else [1, 2, 3]) for _ in range(rank)]
    if draw.random() < 0.2:
        size = [1] * rank
    strides = [draw.choice([1, 1, 2, 3]) for _ in size]
    dilation = [draw.choice([1, 1, 2, 3]) for _ in size]
    groups = draw.choice([1, 1, 2, 4, 6])
    inputs, features = draw.choice([1, 1, 2, 3]), draw.choice([1, 2, 9 if transposed else 3])
    reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
    if transposed:
        spatial = [draw.randrange(1, 5) for _ in size]
        padding = [(r + draw.randrange(4), r + draw.randrange(4)) for r in reach]
    else:
        spatial = [r + draw.randrange(1, 6) for r in reach]
        padding = [(draw.randrange(3), draw.randrange(3)) for _ in size]
    numbers = np.random.default_rng(seed)
    x = jnp.asarray(numbers.normal(size=(2, *spatial, groups * inputs)))
    kernel = jnp.asarray(numbers.normal(size=(*size, inputs, groups * features)))
    how = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return x, kernel, how


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("seed", sample(range(12), 0, 1, 2))
def test_the_chosen_algorithm_gives_the_numbers_of_xla(seed, transposed):
    x, kernel, how = _random_case(seed, transposed)
    run = core.conv_transpose if transposed else core.conv
    compare(
        lambda x, kernel: run(x, kernel, **how),
        lambda x, kernel: _xla(x, kernel, how, transposed),
        (x, kernel),
    )


METHODS = {
    # method: (spatial, kernel's shape, strides, groups)
    "matmul": ((5, 4), (1, 1, 3, 4), (2, 1), 1),
    "patches": ((6, 5), (3, 3, 2, 4), (2, 2), 1),
    "patches, tiles": ((7, 6), (3, 2, 2, 4), (3, 2), 1),
    "shifted": ((6, 5), (3, 3, 1, 8), (1, 2), 4),
    "shifted, large kernel": ((9, 8), (5, 4, 1, 3), (1, 1), 3),
    "blocks": ((6, 5), (3, 2, 2, 12), (2, 1), 6),
    "planes": ((5, 4, 6), (3, 2, 3, 2, 4), (2, 1, 1), 1),
    "planes, all in one": ((5, 4, 6), (3, 1, 1, 2, 4), (2, 1, 1), 1),
    "planes, in lines": ((5, 4, 6), (3, 1, 1, 2, 4), (2, 1, 1), 1),
    "rows": ((6, 5), (3, 2, 2, 4), (1, 2), 1),
    "rows, 1-D": ((7,), (3, 2, 4), (2,), 1),
    # Outputs to spare, and the gradient of the kernel image by image.
    "rows, many": ((50, 3), (2, 2, 2, 17), (1, 1), 1),
    "direct": ((6, 5), (3, 2, 2, 4), (1, 2), 1),
}


def _method_case(name):
    spatial, shape, strides, groups = METHODS[name]
    numbers = np.random.default_rng(0)
    x = jnp.asarray(numbers.normal(size=(2, *spatial, shape[-2] * groups)))
    kernel = jnp.asarray(numbers.normal(size=shape))
    rank = len(spatial)
    how = {
        "strides": strides,
        "padding": [(1, 0), *[(0, 0) if "lines" in name else (1, 0)] * (rank - 1)],
        "dilation": (1,) * rank,
        "groups": groups,
    }
    return x, kernel, how


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes_every_transformation(name):
    x, kernel, how = _method_case(name)
    method = name.split(",")[0]

    def ours(x, kernel):
        return core.conv(x, kernel, **how, method=method)

    def theirs(x, kernel):
        return _xla(x, kernel, how)

    compare(ours, theirs, (x, kernel))

    def curvature(f):
        return lambda t, x: jax.hessian(lambda t: jnp.sum(jnp.sin(f(x * t, kernel + t))))(t)

    def each(f):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(f(x, kernel))))
        return lambda t, x: jax.vmap(gradient)(jnp.stack([x, 2 * x, x - 1]))

    def scanned(f):
        def step(total, x):
            return total + jax.checkpoint(lambda x: jnp.sum(jnp.sin(f(x, kernel))))(x), None

        start = jnp.zeros((), x.dtype)
        total = jax.grad(lambda x: lax.scan(step, start, jnp.stack([x, x + 1]))[0])
        return lambda t, x: total(x)

    compare_transforms(ours, theirs, (curvature, each, scanned), (jnp.asarray(0.7), x))


@pytest.mark.parametrize("method", ["direct", "phases"])
def test_methods_of_conv_transpose(method):
    x, kernel, how = _method_case("direct")
    how |= {"strides": (2, 3)}
    compare(
        lambda x, kernel: core.conv_transpose(x, kernel, **how, method=method),
        lambda x, kernel: _xla(x, kernel, how, transposed=True),
        (x, kernel),
    )


def test_a_method_that_cannot_compute_it_is_refused():
    x, kernel, how = _method_case("direct")
    with pytest.raises(
        ValueError, match="no method 'shifted' for these arguments, but 'direct', 'patches'"
    ):
        core.conv(x, kernel, **how, method="shifted")


def _convolutions(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            yield equation.params["dimension_numbers"]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _convolutions(getattr(inner, "jaxpr", inner))


def test_large_kernels_are_not_cut_into_a_slice_for_each_element():
    """1,040 slices took 148 s to compile; a kernel of up to 64 elements is a product of patches."""
    for size, method in ((7, "patches"), (64, "patches"), (65, "direct"), (1040, "direct")):
        geometry = Geometry((1,), ((size // 2, size // 2),), (1,))
        choice = choose_conv((2, size - 1, 1), (size, 1, 1), geometry, "cpu")
        assert choice.method == method


def _is_jaxpr(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


@pytest.mark.parametrize("name", ["rows", "rows, many"])
def test_rows_has_convolutions_that_xla_computes_well_in_loops(name):
    """Batch first, channels last, kernels (*kernel_size, in, out): the gradients as well."""
    x, kernel, how = _method_case(name)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(core.conv(x, kernel, **how, method="rows")))

    found = list(_convolutions(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel).jaxpr))
    assert len(found) >= 3
    for lhs, rhs, out in found:
        rank = len(lhs) - 2
        last = tuple(range(1, rank + 1))
        assert lhs == out == (0, rank + 1, *last)
        assert rhs == (rank + 1, rank, *range(rank))


@pytest.mark.parametrize(
    ("x", "kernel", "padding", "method"),
    [
        ((8, 28, 28, 64), (3, 3, 64, 64), 1, "rows"),
        ((2, 6, 6, 4), (3, 3, 4, 4), 1, "direct"),
        ((8, 28, 28, 64), (3, 3, 64, 64), 3, "direct"),
    ],
)
def test_large_dense_convolutions_run_by_rows_on_cpu(x, kernel, padding, method):
    geometry = Geometry((1, 1), ((padding, padding),) * 2, (1, 1))
    assert choose_conv(x, kernel, geometry, "cpu").method == method
    assert choose_conv(x, kernel, geometry, "gpu").method == "direct"


def test_gradients_keep_no_patches_for_the_backward_pass():
    """What the kernel's gradient derives from the image is computed again, not stored."""
    x, kernel, how = _method_case("shifted")

    def loss(kernel):
        return jnp.sum(core.conv(x, kernel, **how, method="shifted"))

    _, pull = jax.vjp(loss, kernel)
    stored = sum(leaf.size for leaf in jax.tree.leaves(pull))
    assert stored <= x.size + kernel.size


SMALL = [
    # spatial, kernel's shape, strides, padding, groups
    ((2, 2), (3, 3, 4, 5), (1, 1), ((1, 1), (1, 1)), 1),
    *full(
        ((4, 3), (3, 3, 4, 5), (2, 2), ((1, 1), (1, 1)), 1),
        ((2, 1), (3, 2, 2, 6), (1, 1), ((1, 1), (1, 0)), 3),
        ((3,), (5, 2, 3), (1,), ((4, 0),), 1),
    ),
]


@pytest.mark.parametrize("case", SMALL)
def test_images_smaller_than_the_kernel(case):
    spatial, shape, strides, padding, groups = case
    numbers = np.random.default_rng(0)
    x = jnp.asarray(numbers.normal(size=(2, *spatial, groups * shape[-2])))
    kernel = jnp.asarray(numbers.normal(size=shape))
    how = {"strides": strides, "padding": padding, "dilation": (1,) * len(spatial)}
    how["groups"] = groups
    compare(
        lambda x, kernel: core.conv(x, kernel, **how),
        lambda x, kernel: _xla(x, kernel, how),
        (x, kernel),
    )
    geometry = Geometry(strides, padding, how["dilation"], groups)
    choice = choose_conv(x.shape, shape, geometry, "cpu").method
    assert choice == ("blocks" if groups > 1 else "patches")


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_output_is_a_product(batch, groups):
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(batch, 15, 16, 3))
    kernel = numbers.normal(size=(8, 9, 3 // groups, 6))
    how = {"strides": (2, 3), "padding": ((1, 0), (2, 0)), "dilation": (2, 2), "groups": groups}
    compare(
        lambda x, kernel: core.conv(x, kernel, **how),
        lambda x, kernel: _xla(x, kernel, how),
        (jnp.asarray(x), jnp.asarray(kernel)),
    )
    geometry = Geometry(how["strides"], how["padding"], how["dilation"], groups)
    choice = choose_conv(x.shape, kernel.shape, geometry, "cpu").method
    assert choice == ("patches" if groups == 1 else "shifted")
