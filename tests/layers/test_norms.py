"""Options of the norms against Flax, in float64: values and gradients, the same random weights."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl

F64 = {"param_dtype": "float64"}
SHAPE = (2, 3, 4, 5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def check(oracle, layer, shape=SHAPE):
    apply = jl.without_state(layer).apply
    x = convert.draw_input(shape, "float64")
    with convert.lenient():
        shapes = jax.eval_shape(oracle.init, jax.random.key(0), x)
    weights = convert.draw(shapes).get("params", {})
    convert.compare(lambda w, x: oracle.apply({"params": w}, x), apply, weights, x)


# Axes of the statistics, and of the parameters: each path of core.axes_norm.
AXES = [
    ((-2, -1), (-2, -1)),
    ((1, 2, 3), -1),
    ((1, 2), (2, 3)),
    (1, 1),
    ((1, 2), -1),
    (-1, (1, 3)),
    ((0, 2), (2, 3)),
]


@pytest.mark.parametrize("axes", sample(AXES, 0, 1, 2), ids=str)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_over_axes(kind, axes):
    theirs = {"epsilon": 1e-2, "reduction_axes": axes[0], "feature_axes": axes[1], **F64}
    ours = {"epsilon": 1e-2, "axis": axes[0], "feature_axes": axes[1]}
    if kind == "layer":
        check(nn.LayerNorm(**theirs), jl.LayerNorm(**ours))
    else:
        check(nn.RMSNorm(**theirs), jl.RMSNorm(**ours))


def test_the_parameters_are_those_of_the_axes_by_default():
    params, _ = jl.LayerNorm(axis=(3, 1)).init(jax.random.key(0), jl.spec(SHAPE))
    assert params["scale"].shape == (3, 5)
    params, _ = jl.RMSNorm(feature_axes=()).init(jax.random.key(0), jl.spec(SHAPE))
    assert params["scale"].shape == ()


def test_one_scale_is_the_norm_of_vectors():
    """ScaleNorm (Nguyen & Salazar, 2019): ``g * x / |x|``."""
    x = convert.draw_input((3, 8), "float64")
    y, _ = jl.RMSNorm(feature_axes=(), epsilon=0.0).apply({"scale": np.array(0.5)}, {}, x)
    g = 0.5 * np.sqrt(8)
    np.testing.assert_allclose(y, g * x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axis": 4}, r"LayerNorm: there is no axis \[4\]"),
        ({"axis": (1, -3)}, r"LayerNorm: axes \[1, -3\] name an axis twice"),
        ({"axis": ()}, r"axis must be an int or a tuple of different ints, got \(\)"),
        ({"feature_axes": (1, 1)}, "feature_axes must be an int or a tuple of different ints"),
        ({"axis": (2, 3)}, "takes no empty axis of feature_axes"),
    ],
    ids=str,
)
def test_errors_of_axes(options, text):
    with pytest.raises(jl.LayerError, match=text):
        jl.LayerNorm(**options).init(jax.random.key(0), jl.spec((2, 3, 0, 5)))


def test_a_norm_over_time_is_refused_for_a_mask():
    x = jl.Sequence.from_lengths(np.ones((2, 4, 3)), [4, 2])
    layer = jl.LayerNorm(axis=(1, 2), feature_axes=-1)
    with pytest.raises(jl.LayerError, match="mixes steps, and would read the padding"):
        layer.init(jax.random.key(0), x)
