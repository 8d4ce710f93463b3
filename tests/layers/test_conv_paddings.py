"""Every padding of a convolution, against libraries that have it and against the padded image."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl
from jlayers.core.padding import OF_ZEROS, PADDINGS

SIZE, KERNEL = (7, 6), (3, 4)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def weights_of(kernel_size, groups=1, inputs=2):
    rank = len(kernel_size)
    shapes = {"kernel": (*kernel_size, inputs // groups, 4), "bias": (4,)}
    return convert.draw({k: jax.ShapeDtypeStruct(s, "float64") for k, s in shapes.items()}), rank


def compare(theirs, layer, kernel_size, size, inputs=2, groups=1):
    """``theirs(weights, x)`` and the layer, with the same weights, in values and gradients."""
    weights, _ = weights_of(kernel_size, groups, inputs)
    apply = jl.without_state(layer).apply
    convert.compare(theirs, apply, weights, convert.draw_input((2, *size, inputs), "float64"))


FLAX = [
    {"padding": "CIRCULAR"},
    {"padding": "REFLECT"},
    {"padding": "CIRCULAR", "strides": 2, "dilation": 2},
    {"padding": "REFLECT", "strides": (2, 3), "groups": 2},
    {"padding": "CIRCULAR", "dilation": (4, 3)},
    # With input_dilation Flax takes no names.
    {"padding": ((2, 0), (1, 1)), "input_dilation": (2, 3)},
    {"padding": ((1, 2), (0, 3)), "input_dilation": (3, 1), "strides": 2, "dilation": (1, 2)},
    {"padding": 0, "input_dilation": 2, "strides": (1, 3), "groups": 2},
]


@pytest.mark.parametrize("options", FLAX, ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2], 1))
def test_flax(rank, options):
    options = convert.cut(options, rank)
    names = {"dilation": "kernel_dilation", "groups": "feature_group_count"}
    oracle = nn.Conv(
        4, KERNEL[:rank], **{names.get(k, k): v for k, v in options.items()}, param_dtype="float64"
    )
    compare(
        lambda w, x: oracle.apply({"params": w}, x),
        jl.Conv(4, KERNEL[:rank], **options),
        KERNEL[:rank],
        SIZE[:rank],
        groups=options.get("groups", 1),
    )


MODES = ["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"]
AMOUNTS = ["SAME", "SAME_LOWER", 2, ((3, 0), (1, 2))]


@pytest.mark.parametrize("strides", sample([1, 2, 3], 1))
@pytest.mark.parametrize("padding", AMOUNTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_equinox(mode, padding, strides):
    # Equinox's convolutions have no batch axis, and channels first.
    def theirs(weights, x):
        oracle = eqx.nn.Conv2d(
            2, 4, KERNEL, strides, padding, padding_mode=mode, key=jax.random.key(0)
        )
        kernel = jnp.moveaxis(weights["kernel"], (-1, -2), (0, 1))
        bias = weights["bias"].reshape(-1, 1, 1)
        oracle = eqx.tree_at(lambda o: (o.weight, o.bias), oracle, (kernel, bias))
        return jnp.moveaxis(jax.vmap(oracle)(jnp.moveaxis(x, -1, 1)), 1, -1)

    layer = jl.Conv(4, KERNEL, padding=padding, padding_mode=mode, strides=strides)
    compare(theirs, layer, KERNEL, SIZE)


TRANSPOSED = [
    ({}, {"cropping": 0}),
    (
        {"padding": 1, "output_padding": 1, "stride": 2},
        {"cropping": 1, "output_padding": 1, "strides": 2},
    ),
    (
        {"padding": ((1, 0), (2, 1)), "stride": (2, 3), "dilation": 2},
        {"cropping": ((1, 0), (2, 1)), "strides": (2, 3), "dilation": 2},
    ),
    (
        {"padding": "SAME", "padding_mode": "CIRCULAR", "stride": (2, 1)},
        {"padding": "CIRCULAR", "strides": (2, 1)},
    ),
]


@pytest.mark.parametrize(("options", "own"), TRANSPOSED, ids=str)
def test_equinox_transposed(options, own):
    """Its kernel is that of ``lax``, neither flipped nor swapped."""

    def theirs(weights, x):
        oracle = eqx.nn.ConvTranspose2d(2, 4, KERNEL, **options, key=jax.random.key(0))
        kernel = jnp.moveaxis(weights["kernel"], (-1, -2), (0, 1))
        bias = weights["bias"].reshape(-1, 1, 1)
        oracle = eqx.tree_at(lambda o: (o.weight, o.bias), oracle, (kernel, bias))
        return jnp.moveaxis(jax.vmap(oracle)(jnp.moveaxis(x, -1, 1)), 1, -1)

    compare(theirs, jl.ConvTranspose(4, KERNEL, **own), KERNEL, (4, 3))


HAIKU = {
    "CAUSAL": hk.pad.causal,
    "REVERSE_CAUSAL": hk.pad.reverse_causal,
    "FULL": hk.pad.full,
    "SAME": hk.pad.same,
    "VALID": hk.pad.valid,
}


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("names", [*zip(HAIKU, [*HAIKU][2:] + [*HAIKU][:2], strict=True)], ids=str)
def test_haiku(names, dilation):
    """One name for each axis."""

    def theirs(weights, x):
        oracle = hk.Conv2D(4, KERNEL, rate=dilation, padding=[HAIKU[name] for name in names])
        return oracle(x)

    oracle = hk.without_apply_rng(hk.transform(lambda x: theirs(None, x)))
    layer = jl.Conv(4, KERNEL, padding=names, dilation=dilation)
    compare(
        lambda w, x: oracle.apply({"conv2_d": {"w": w["kernel"], "b": w["bias"]}}, x),
        layer,
        KERNEL,
        SIZE if dilation == 1 else (9, 9),
    )


NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("name", PADDINGS)
@pytest.mark.parametrize("size", [(1, 2), (3, 8)], ids=str)
def test_names_are_amounts(name, size):
    """A name pads by its amounts, also where these are more than the image holds."""
    layer = jl.Conv(4, KERNEL, padding=(name, name), strides=(1, 2), dilation=(2, 1))
    weights, _ = weights_of(KERNEL)
    x = convert.draw_input((2, *size, 2), "float64")
    extents = (5, 4)
    amounts, mode = PADDINGS[name]
    pads = [amounts(n, k, s) for n, k, s in zip(size, extents, (1, 2), strict=True)]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], NUMPY[mode])
    if any(n < k for n, k in zip(padded.shape[1:-1], extents, strict=True)):
        with pytest.raises(jl.LayerError, match="is larger than the"):
            jl.out_spec(layer, x)
        return
    wanted = jl.Conv(4, KERNEL, strides=(1, 2), dilation=(2, 1))
    convert.agree(
        *(jl.without_state(one).apply(weights, y) for one, y in ((wanted, padded), (layer, x)))
    )


@pytest.mark.parametrize("name", OF_ZEROS)
def test_names_of_pools_are_amounts(name):
    x, shape, strides = convert.draw_input((2, 5, 6, 2)), (3, 4), (2, 1)
    sides = zip((5, 6), shape, strides, strict=True)
    pads = tuple(PADDINGS[name].amounts(*side) for side in sides)
    wanted, got = (
        jl.MaxPool(shape, strides=strides, padding=padding).apply({}, {}, x)[0]
        for padding in (pads, (name, name))
    )
    convert.agree(wanted, got)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("strides", sample([1, 2], 1))
def test_a_row_is_padded_at_its_own_end(mode, strides):
    """A padded row, whatever its length, gives what its valid steps alone give."""
    layer = jl.Conv(4, 4, padding=((2, 3),), padding_mode=mode, strides=strides)
    weights, _ = weights_of((4,))
    apply = jax.jit(jl.without_state(layer).apply)
    x = convert.draw_input((4, 6, 2), "float64")
    lengths = [1, 2, 5, 6]
    y = apply(weights, jl.Sequence.from_lengths(x, lengths))
    for row, length in enumerate(lengths):
        alone = apply(weights, x[row : row + 1, :length])[0]
        assert y.mask[row].sum() == len(alone)
        np.testing.assert_allclose(y.values[row, : len(alone)], alone, rtol=1e-12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_row_is_padded_at_its_own_beginning(mode):
    layer = jl.Conv(4, 4, padding=((1, 2),), padding_mode=mode)
    weights, _ = weights_of((4,))
    apply = jax.jit(jl.without_state(layer).apply)
    x, lengths = convert.draw_input((4, 6, 2), "float64"), np.array([1, 2, 5, 6])
    mask = np.arange(6) >= 6 - lengths[:, None]
    y = apply(weights, jl.Sequence(x, mask))
    np.testing.assert_array_equal(y.mask, mask)
    for row, length in enumerate(lengths):
        alone = apply(weights, x[row : row + 1, 6 - length :])[0]
        np.testing.assert_allclose(y.values[row, 6 - length :], alone, rtol=1e-12)


@pytest.mark.parametrize("name", ["SAME", "SAME_LOWER", "FULL"])
def test_a_name_pads_the_dilated_input(name):
    layer = jl.Conv(4, KERNEL, padding=name, strides=(1, 2), input_dilation=(3, 2))
    plain = jl.Conv(4, KERNEL, padding=name, strides=(1, 2))
    x, (weights, _) = convert.draw_input((2, 4, 3, 2), "float64"), weights_of(KERNEL)
    spread = jax.lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 2), (0, 0, 1), (0, 0, 0)])
    wanted, got = (
        jl.without_state(one).apply(weights, y) for one, y in ((plain, spread), (layer, x))
    )
    convert.agree(wanted, got)


@pytest.mark.parametrize("strides", [1, 2, 4])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 11])
def test_circular_transposed_is_the_gradient_of_circular(kernel_size, strides):
    """With the same kernel, which Flax's is not for even sizes at stride 1."""
    options = {"strides": strides, "padding": "CIRCULAR", "bias": False}
    down = jl.Conv(4, kernel_size, **options)
    up = jl.ConvTranspose(2, kernel_size, transpose_kernel=True, **options)
    kernel = convert.draw_input((kernel_size, 2, 4), "float64")
    x = convert.draw_input((2, 8, 2), "float64")
    y, vjp = jax.vjp(lambda x: down.apply({"kernel": kernel}, {}, x)[0], x)
    ct = convert.draw_input(y.shape, "float64")
    got, _ = up.apply({"kernel": kernel}, {}, ct)
    np.testing.assert_allclose(got, vjp(jnp.asarray(ct))[0], rtol=1e-10, atol=1e-10)


def test_causal_streams_and_reverse_causal_does_not():
    x = jl.spec((2, 4, 5, 2))
    both = jl.Conv(4, (3, 2), padding=("CAUSAL", "REFLECT"))
    assert jl.receptive_field(both, x) == (1, 2, 0)
    jl.stream(both)
    ahead = jl.Conv(4, 3, padding="REVERSE_CAUSAL", dilation=2)
    assert jl.receptive_field(ahead, jl.spec((2, 7, 2))) == (1, 0, 4)
    params, state = ahead.init(jax.random.key(0), jl.spec((2, 7, 2)))
    with pytest.raises(jl.LayerError, match="its windows reach later steps"):
        jl.stream(ahead).start(params, state, jl.spec((2, 7, 2)))


def test_padding_once_reaches_the_fast_algorithms():
    """``explain`` names the algorithm of the padded image."""
    x = jl.spec((8, 30, 30, 32))
    plain, around = (jl.Conv(64, 3, padding=name) for name in ("SAME", "CIRCULAR"))
    lines = [str(jl.explain(layer, x, platform="cpu")) for layer in (plain, around)]
    assert all("rows" in line for line in lines), lines
    grouped = jl.Conv(32, 3, padding="REFLECT", groups=32)
    assert "shifted" in str(jl.explain(grouped, x, platform="cpu"))
