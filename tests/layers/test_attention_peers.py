"""Options of attention against live Keras and Flax: values, weights of attention and gradients."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers as k

BATCH, STEPS, KEYS, WIDTH = 2, 6, 5, 8


def _arrays(dtype, *shapes):
    numbers = np.random.default_rng(3)
    return tuple(jnp.asarray(numbers.normal(size=shape), dtype) for shape in shapes)


def _visible(*shape):
    """A random mask in which each query sees some key."""
    mask = np.random.default_rng(4).random(shape) < 0.6
    mask[..., 0] = True
    return jnp.asarray(mask)


def _compare(theirs, ours, weights, inputs, near):
    """Functions of (weights, inputs) agree in values and in the gradients of both."""

    def of(function):
        def projected(weights, inputs):
            y = function(weights, inputs)
            parts = [
                jnp.vdot(leaf, convert.projection(leaf.shape, leaf.dtype))
                for leaf in jax.tree.leaves(y)
            ]
            return sum(parts), y

        return jax.jit(jax.grad(projected, (0, 1), has_aux=True))(weights, inputs)

    with convert.lenient():
        wanted = of(theirs)
    jax.tree.map(lambda a, b: _near(a, b, near), of(ours), wanted)


def _near(got, wanted, near):
    # A bias of the keys moves all scores of a query alike: its gradient is zero but for rounding.
    if np.abs(wanted).max() < near:
        assert np.abs(got).max() < near
    else:
        np.testing.assert_allclose(got, wanted, rtol=near, atol=near)


def _flat(kernel, name):
    """Theirs have an axis of heads: the queries' last but one and the output's first."""
    rows = kernel.shape[:-1] if name == "out" else kernel.shape[:1]
    return kernel.reshape(int(np.prod(rows)), -1)


# (ours, options of Keras), for one input or for (query, value, key).
KERAS = {
    "mha": ({"head_dim": 4}, k.MultiHeadAttention, {"num_heads": 4, "key_dim": 4}),
    "mha, sizes": (
        {"head_dim": 4, "value_dim": 3, "features": 5, "bias": False},
        k.MultiHeadAttention,
        {"num_heads": 4, "key_dim": 4, "value_dim": 3, "output_shape": 5, "use_bias": False},
    ),
    "mha, gate": (
        {"head_dim": 4, "value_dim": 3, "gate": True},
        k.MultiHeadAttention,
        {"num_heads": 4, "key_dim": 4, "value_dim": 3, "use_gate": True},
    ),
    "gqa": (
        {"head_dim": 3, "num_kv_heads": 2},
        k.GroupQueryAttention,
        {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 3},
    ),
    "gqa, gate": (
        {"head_dim": 3, "num_kv_heads": 1, "gate": True, "bias": False},
        k.GroupQueryAttention,
        {
            "num_query_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 3,
            "use_gate": True,
            "use_bias": False,
        },
    ),
}
PARTS = {"query": "query", "key": "key", "value": "value", "gate": "gate"}


def _keras(oracle, build):
    """Random weights by path, and ``call(weights, ...)`` of a Keras layer."""
    with keras.StatelessScope(initialize_variables=False):
        build(oracle)
    variables = {variable.path: variable for variable in oracle.weights}

    def call(weights, *args, **options):
        values = [(variables[path], weights[path]) for path in variables]
        with keras.StatelessScope(values):
            return oracle(*args, **options)

    like = {path: jax.ShapeDtypeStruct(v.shape, v.dtype) for path, v in variables.items()}
    return convert.draw(like), call


def _of_keras(weights):
    ours = {}
    for path, value in weights.items():
        *_, part, kind = path.split("/")
        name = PARTS.get(part, "out")
        ours[f"{name}_{kind}"] = _flat(value, name) if kind == "kernel" else value.reshape(-1)
    return ours


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("masked", [False, True], ids=["all", "mask"])
@pytest.mark.parametrize("case", KERAS)
def test_keras_with_other_keys_and_values(case, masked):
    options, kind, theirs = KERAS[case]
    shapes = (BATCH, STEPS, WIDTH), (BATCH, KEYS, 7), (BATCH, KEYS, 6)
    oracle = kind(**theirs)
    weights, call = _keras(oracle, lambda layer: layer.build(shapes[0], shapes[2], shapes[1]))
    mask = _visible(BATCH, STEPS, KEYS) if masked else None
    layer = jl.CrossAttention(4, weights=True, **options)

    def of_theirs(w, inputs):
        x, keys, values = inputs
        return call(w, x, values, keys, attention_mask=mask, return_attention_scores=True)

    def of_ours(w, inputs):
        x = dict(zip(("x", "keys", "values"), inputs, strict=True))
        return layer.apply(_of_keras(w), {}, x | ({"mask": mask} if masked else {}))[0]

    _compare(of_theirs, of_ours, weights, _arrays("float32", *shapes), 2e-5)


_EXCHANGED = jl.Rearrange("b h w c -> b w h c")
# By Keras's ``attention_axes``: recipes of docs/library/attention.md for (batch, 3, 5, WIDTH).
OTHER_AXES = {
    (2,): jl.each_step(jl.SelfAttention(4, head_dim=4)),
    (1,): jl.serial(_EXCHANGED, jl.each_step(jl.SelfAttention(4, head_dim=4)), _EXCHANGED),
    (1, 2): jl.serial(
        jl.Rearrange("b h w c -> b (h w) c"),
        jl.SelfAttention(4, head_dim=4),
        jl.Rearrange("b (h w) c -> b h w c", h=3),
    ),
}


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("axes", OTHER_AXES)
def test_keras_along_other_axes(axes):
    shape = (BATCH, 3, 5, WIDTH)
    oracle = k.MultiHeadAttention(num_heads=4, key_dim=4, attention_axes=axes)
    weights, call = _keras(oracle, lambda layer: layer.build(shape, shape))
    layer, (x,) = OTHER_AXES[axes], _arrays("float32", shape)
    whole = len(jax.eval_shape(layer.init, jax.random.key(0), x)[0]) == 1

    def of_ours(w, x):
        own = _of_keras(w)
        return layer.apply({"self_attention": own} if whole else own, {}, x)[0]

    _compare(lambda w, x: call(w, x, x), of_ours, weights, x, 2e-5)


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
def test_keras_sliding_window_and_padding(causal):
    """Theirs counts the step itself and looks to both sides, unless it is causal."""
    options = {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 3}
    oracle = k.GroupQueryAttention(**options, sliding_window=3)
    shape = (BATCH, STEPS, WIDTH)
    weights, call = _keras(oracle, lambda layer: layer.build(shape, shape, shape))
    lengths = jnp.array([STEPS, 4])
    mask = jnp.arange(STEPS)[None] < lengths[:, None]
    window = {"causal": True, "window": 3} if causal else {"window": (2, 2)}
    layer = jl.SelfAttention(4, head_dim=3, num_kv_heads=2, **window)

    def of_theirs(w, x):
        y = call(w, x, x, value_mask=mask, query_mask=mask, use_causal_mask=causal)
        return y * mask[..., None]

    def of_ours(w, x):
        return layer.apply(_of_keras(w), {}, jl.Sequence(x, mask))[0].fill()

    _compare(of_theirs, of_ours, weights, _arrays("float32", shape)[0], 2e-5)


FLAX = [
    {"qk_norm": "layer"},
    {"qk_norm": "layer", "bias": False, "head_dim": 4, "features": 5},
    {},
]


@pytest.mark.oracle("Flax")
@pytest.mark.parametrize("heads", [(), (2,)], ids=["a mask for all heads", "for each"])
@pytest.mark.parametrize("options", FLAX, ids=convert.label)
def test_flax_with_a_mask_and_normalised_heads(options, heads):
    with jax.enable_x64(True):
        inputs = _arrays("float64", (BATCH, STEPS, WIDTH), *[(BATCH, KEYS, WIDTH)] * 2)
        mask = _visible(BATCH, *heads, STEPS, KEYS)
        theirs = {
            "normalize_qk": "qk_norm" in options,
            "use_bias": options.get("bias", True),
            "qkv_features": 2 * options.get("head_dim", WIDTH // 2),
            "out_features": options.get("features"),
        }
        oracle = nn.MultiHeadDotProductAttention(2, param_dtype="float64", **theirs)
        four = mask if heads else mask[:, None]

        def of_theirs(w, inputs):
            return oracle.apply({"params": w}, *inputs, mask=four)

        def converted(w):
            norms = {
                name: w[f"{name}_ln"]["scale"]
                for name in ("query", "key")
                if options.get("qk_norm")
            }
            rest = {name: part for name, part in w.items() if not name.endswith("_ln")}
            ours = convert.flax_attention(rest)
            return ours | {f"{name}_scale": scale for name, scale in norms.items()}

        layer = jl.CrossAttention(2, **options)

        def of_ours(w, inputs):
            x = dict(zip(("x", "keys", "values"), inputs, strict=True), mask=mask)
            return layer.apply(converted(w), {}, x)[0]

        with convert.lenient():
            shapes = jax.eval_shape(
                lambda *a: oracle.init(jax.random.key(0), *a, mask=four), *inputs
            )
        _compare(of_theirs, of_ours, convert.draw(shapes["params"]), inputs, 1e-10)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("which", sample(["mask", "bias", "both"], 0))
def test_a_mask_and_a_bias_of_self_attention(which):
    """With padding and a causal mask, against jax.nn's own attention."""
    with jax.enable_x64(True):
        (x, bias) = _arrays("float64", (BATCH, STEPS, WIDTH), (BATCH, 2, STEPS, STEPS))
        mask, padding = _visible(BATCH, STEPS, STEPS), _visible(BATCH, STEPS)
        given = {"mask": mask, "bias": bias}
        given = given if which == "both" else {which: given[which]}
        layer = jl.SelfAttention(2, causal=True, scale=0.3)
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x)[0]

        def of_ours(w, inputs):
            x, bias = inputs
            sequence = jl.Sequence(x, padding)
            more = given | ({"bias": bias} if "bias" in given else {})
            return layer.apply(w, {}, {"x": sequence, **more})[0].fill()

        def of_theirs(w, inputs):
            x, bias = inputs
            q, k, v = (
                (x @ w[f"{name}_kernel"] + w[f"{name}_bias"]).reshape(BATCH, STEPS, 2, WIDTH // 2)
                for name in ("query", "key", "value")
            )
            seen = jnp.tril(jnp.ones((STEPS, STEPS), bool)) & padding[:, None, None]
            seen = seen & mask[:, None] if "mask" in given else seen
            y = jax.nn.dot_product_attention(
                q, k, v, bias if "bias" in given else None, seen, scale=0.3
            )
            y = y.reshape(BATCH, STEPS, WIDTH) @ w["out_kernel"] + w["out_bias"]
            return jnp.where(padding[..., None], y, 0)

        # Theirs computes the softmax in float32.
        _compare(of_theirs, of_ours, convert.draw(shapes), (x, bias), 2e-6)
