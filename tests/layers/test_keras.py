"""Every layer against Keras 3 on its JAX backend: values and gradients, the same weights.

In float32, the widest that Keras computes in on this backend.
"""

import os

import jax
import jax.numpy as jnp
import pytest
from oracles import convert
from tables.tiers import sample

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers as k

pytestmark = pytest.mark.oracle("Keras")


def check(oracle, layer, shape, conversion=convert.same, x=None, after=lambda y: y):
    """``oracle`` and ``layer`` agree on an input of ``shape`` (or on ``x``)."""
    apply = jl.without_state(layer).apply
    weights, call = functional(oracle, shape)
    convert.compare(
        lambda w, x: after(call(w, x)[0]),
        lambda w, x: apply(conversion(w), x),
        weights,
        convert.draw_input(shape) if x is None else x,
    )


def functional(layer, shape, **options):
    """Random weights, and ``call(weights, x) -> (y, new weights)``, of a Keras layer."""
    # The layer's own initial values are never asked for: drawing them costs a second a layer.
    with keras.StatelessScope(initialize_variables=False):
        layer.build(shape)
    variables, tree = jax.tree.flatten(variables_of(layer))

    def call(weights, x):
        values = zip(variables, tree.flatten_up_to(weights), strict=True)
        with keras.StatelessScope(values) as scope:
            y = layer(x, **options)
        return y, tree.unflatten([scope.get_current_value(variable) for variable in variables])

    return convert.draw(variables_of(layer)), call


def variables_of(layer):
    if isinstance(layer, k.Bidirectional):
        both = {"forward": layer.forward_layer, "backward": layer.backward_layer}
        return {side: variables_of(one) for side, one in both.items()}
    return {variable.name: variable for variable in layer.weights}


def keras_options(options):
    """Our options by the names that Keras has for them."""
    names = {"bias": "use_bias", "dilation": "dilation_rate"}
    return {
        names.get(name, name): value.lower() if isinstance(value, str) else value
        for name, value in options.items()
    }


@pytest.mark.full
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)], ids=str)
def test_dense(shape, bias):
    check(k.Dense(3, use_bias=bias), jl.Dense(3, bias=bias), shape)


@pytest.mark.full
def test_embedding():
    ids = convert.draw_ids((2, 3), 5)
    check(k.Embedding(5, 3), jl.Embedding(5, 3), (2, 3), convert.keras_embedding, ids)


EINSUM = {
    # the input's shape, our bias_axes, Keras's output_shape
    "...c,cde->...de": ((2, 3, 4), "e", (5, 2)),
    "bc...,cde->bde...": ((2, 4, 3), "be", (5, 2)),
    "ab,b->a": ((3, 4), "", ()),
    "ibd,nd->ibn": ((2, 3, 4), "n", (3, 5)),
    "i,d->id": ((3,), "d", (5,)),
}


@pytest.mark.parametrize("equation", sample(list(EINSUM), 1))
def test_einsum(equation):
    shape, bias_axes, output_shape = EINSUM[equation]
    x = equation.split(",")[0]
    sizes = {"d": 5, "e": 2, "n": 5}
    own = {letter: n for letter, n in sizes.items() if letter in equation and letter not in x}
    layer = jl.Einsum(equation, bias_axes=bias_axes, **own)
    ours = jax.eval_shape(layer.init, jax.random.key(0), jl.spec(shape))[0]

    def conversion(weights):
        return {name: weights[name].reshape(spec.shape) for name, spec in ours.items()}

    oracle = k.EinsumDense(equation, output_shape, bias_axes=bias_axes or None)
    check(oracle, layer, shape, conversion)


@pytest.mark.parametrize("shared_axes", [None, [1, 2]], ids=["each value", "each channel"])
def test_prelu(shared_axes):
    layer = jl.PReLU(feature_axes=-1 if shared_axes else (1, 2, 3))
    check(
        k.PReLU(shared_axes=shared_axes),
        layer,
        (2, 5, 4, 3),
        lambda weights: {"slope": weights["alpha"].reshape(3) if shared_axes else weights["alpha"]},
    )


@pytest.mark.parametrize("soft_cap", [None, 0.5])
def test_tied(soft_cap):
    class Model(k.Layer):
        def __init__(self):
            super().__init__()
            self.embed = k.ReversibleEmbedding(5, 3, logit_soft_cap=soft_cap)

        def build(self, shape):
            self.embed.build(shape)

        def call(self, ids):
            return self.embed(keras.ops.tanh(self.embed(ids)), reverse=True)

    def conversion(weights):
        return {"embedding": {"embedding": weights["embeddings"]}}

    layer = jl.tied(jl.Embedding(5, 3), jnp.tanh, soft_cap=soft_cap)
    check(Model(), layer, (2, 3), conversion, convert.draw_ids((2, 3), 5))


SIZE, SMALL, KERNEL = (7, 5, 4), (4, 3, 2), (3, 2, 2)
CONV = [
    {},
    {"padding": "SAME"},
    {"strides": (2, 1, 3)},
    {"strides": (3, 2, 2), "padding": "SAME"},
    {"dilation": (2, 3, 1)},
    {"dilation": 2, "padding": "SAME"},
    {"groups": 2, "strides": 2},
    {"groups": 2, "dilation": 2, "padding": "SAME"},
    {"bias": False},
]


@pytest.mark.full
@pytest.mark.parametrize("options", CONV, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv(rank, options):
    options = convert.cut(options, rank)
    oracle = getattr(k, f"Conv{rank}D")(4, KERNEL[:rank], **keras_options(options))
    check(oracle, jl.Conv(4, KERNEL[:rank], **options), (2, *SIZE[:rank], 2))


@pytest.mark.full
@pytest.mark.parametrize(
    "options", [{}, {"strides": 2}, {"dilation": 2}, {"groups": 2}], ids=convert.label
)
def test_causal_conv(options):
    options = {**options, "padding": "CAUSAL"}
    check(k.Conv1D(4, 3, **keras_options(options)), jl.Conv(4, 3, **options), (2, 7, 2))


@pytest.mark.parametrize(
    "options", sample([{}, {"strides": 2, "padding": "SAME"}], 1), ids=convert.label
)
@pytest.mark.parametrize("rank", sample([1, 2], 1))
def test_depthwise_conv(rank, options):
    oracle = getattr(k, f"DepthwiseConv{rank}D")
    check(
        oracle(KERNEL[:rank], depth_multiplier=2, **keras_options(options)),
        jl.Conv(6, KERNEL[:rank], groups=3, **options),
        (2, *SIZE[:rank], 3),
        convert.keras_depthwise,
    )


CONV_TRANSPOSE = [
    {},
    {"padding": "SAME"},
    {"strides": (2, 3, 1)},
    {"strides": (3, 2, 2), "padding": "SAME"},
    {"strides": 4},
    {"strides": 4, "padding": "SAME"},
    {"dilation": 2},
    {"dilation": 2, "padding": "SAME"},
    {"bias": False, "strides": 2},
]


@pytest.mark.full
@pytest.mark.parametrize("options", CONV_TRANSPOSE, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(rank, options):
    options = convert.cut(options, rank)
    oracle = getattr(k, f"Conv{rank}DTranspose")(4, KERNEL[:rank], **keras_options(options))
    layer = jl.ConvTranspose(4, KERNEL[:rank], **options)
    check(oracle, layer, (2, *SMALL[:rank], 2), convert.keras_conv_transpose)


@pytest.mark.parametrize(
    "case", sample([("valid", 0), ("valid", 1), ("same", (1, 0)), ("same", 1)], 2), ids=str
)
def test_output_padding(case):
    """Elsewhere more output is at the end; for "same" Keras has half of it at the beginning."""
    padding, more = case
    ours = {"output_padding": more}
    if padding == "same":
        more = more if isinstance(more, tuple) else (more, more)
        totals = [e + e % 2 - 2 + q for e, q in zip((3, 4), more, strict=True)]
        lows = [min(-(-t // 2), e - 1) for e, t in zip((3, 4), totals, strict=True)]
        ours = {"padding": [(low, t - low) for low, t in zip(lows, totals, strict=True)]}
    check(
        k.Conv2DTranspose(4, (3, 4), padding=padding, strides=(2, 3), output_padding=case[1]),
        jl.ConvTranspose(4, (3, 4), strides=(2, 3), transpose_kernel=True, **ours),
        (2, 4, 3, 2),
    )


SEPARABLE = [{}, {"strides": 2, "padding": "SAME"}, {"dilation": 2, "padding": "SAME"}]


@pytest.mark.parametrize("options", sample(SEPARABLE, 1), ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2], 1))
def test_separable_conv(rank, options):
    """Two convolutions: one of each channel by itself, and one over channels."""
    oracle = getattr(k, f"SeparableConv{rank}D")
    check(
        oracle(4, KERNEL[:rank], depth_multiplier=2, **keras_options(options)),
        jl.serial(
            depthwise=jl.Conv(6, KERNEL[:rank], groups=3, bias=False, **options),
            pointwise=jl.Conv(4, 1),
        ),
        (2, *SIZE[:rank], 3),
        lambda w: {
            "depthwise": convert.keras_depthwise({"kernel": w["depthwise_kernel"]}),
            "pointwise": {"kernel": w["pointwise_kernel"], "bias": w["bias"]},
        },
    )


POOL = [{}, {"padding": "SAME"}, {"strides": (1, 2, 3)}, {"strides": 2, "padding": "SAME"}]


@pytest.mark.full
@pytest.mark.parametrize("options", POOL, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ["Max", "Avg"])
def test_pool(name, rank, options):
    options = convert.cut(options, rank)
    oracle = getattr(k, f"{name}Pool{rank}D")(KERNEL[:rank], **keras_options(options))
    layer = getattr(jl, f"{name}Pool")(KERNEL[:rank], **options)
    check(oracle, layer, (2, *SIZE[:rank], 2))


@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
@pytest.mark.parametrize("name", ["Max", "Avg"])
def test_global_pool(name, rank):
    oracle = getattr(k, f"Global{name}Pool{rank}D")()
    check(oracle, getattr(jl, f"Global{name}Pool")(), (2, *SIZE[:rank], 3))


def test_flatten():
    check(k.Flatten(), jl.Flatten(), (2, 3, 4, 2))


@pytest.mark.parametrize("shape", sample([(6, 4), (4, -1, 2)], 1), ids=str)
def test_reshape(shape):
    check(k.Reshape(shape), jl.Reshape(shape), (2, 3, 4, 2))


NORM = [{}, {"scale": False}, {"bias": False}, {"scale": False, "bias": False}]


def norm_options(options):
    names = {"bias": "center"}
    return {names.get(name, name): value for name, value in options.items()}


@pytest.mark.full
@pytest.mark.parametrize("options", NORM, ids=convert.label)
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)], ids=str)
def test_layer_norm(shape, options):
    oracle = k.LayerNormalization(epsilon=1e-2, **norm_options(options))
    check(oracle, jl.LayerNorm(epsilon=1e-2, **options), shape, convert.keras_norm)


@pytest.mark.full
@pytest.mark.parametrize("options", NORM, ids=convert.label)
def test_group_norm(options):
    oracle = k.GroupNormalization(3, epsilon=1e-2, **norm_options(options))
    check(oracle, jl.GroupNorm(3, epsilon=1e-2, **options), (2, 4, 3, 6), convert.keras_norm)


@pytest.mark.full
def test_rms_norm():
    oracle = k.RMSNormalization(epsilon=1e-2)
    check(oracle, jl.RMSNorm(epsilon=1e-2), (2, 3, 5), convert.renamed(scale="scale"))


@pytest.mark.full
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", NORM, ids=convert.label)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 3)], ids=str)
def test_batch_norm(shape, options, train):
    """Outputs and new running statistics, with gradients through both."""
    settings = {"momentum": 0.8, "epsilon": 1e-2}
    layer = jl.BatchNorm(**settings, **options)
    oracle = k.BatchNormalization(**settings, **norm_options(options))
    weights, call = functional(oracle, shape, training=train)

    def theirs(weights, x):
        y, new = call(weights, x)
        return y, convert.keras_running(new)

    def ours(weights, x):
        state = convert.keras_running(weights)
        return layer.apply(convert.keras_norm(weights), state, x, train=train)

    convert.compare(theirs, ours, weights, convert.draw_input(shape))


RECURRENT = {
    "LSTM": (k.LSTM, jl.LSTM, convert.same),
    "GRU": (k.GRU, jl.GRU, convert.keras_gru),
    "SimpleRNN": (k.SimpleRNN, jl.SimpleRNN, convert.same),
}


@pytest.mark.full
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sequences", [True, False], ids=["sequence", "last"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, reverse, sequences, bias):
    oracle, layer, conversion = RECURRENT[name]
    # Keras leaves the outputs of a reversed layer in the order in which they came.
    flip = reverse and sequences
    check(
        oracle(3, go_backwards=reverse, return_sequences=sequences, use_bias=bias),
        layer(3, reverse=reverse, return_sequences=sequences, bias=bias),
        (2, 4, 5),
        conversion,
        after=lambda y: jnp.flip(y, 1) if flip else y,
    )


def test_gru_reset_before():
    def conversion(w):
        return {name: convert.swap_gates(value) for name, value in w.items()}

    oracle = k.GRU(3, return_sequences=True, reset_after=False)
    check(oracle, jl.GRU(3, reset_after=False), (2, 5, 4), conversion)


CONV_LSTM = [
    {"padding": "SAME"},
    {"padding": "VALID", "strides": (2, 1, 2), "return_sequences": False},
    {"padding": "SAME", "strides": (1, 2, 2), "bias": False},
    {"padding": "VALID", "dilation": (1, 2, 1)},
    {"padding": "SAME", "dilation": 2, "return_sequences": False},
]


@pytest.mark.parametrize("options", sample(CONV_LSTM, 1), ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
def test_conv_lstm(rank, options):
    options = {"return_sequences": True, **convert.cut(options, rank)}
    oracle = getattr(k, f"ConvLSTM{rank}D")(2, (2, 3, 2)[:rank], **keras_options(options))
    layer = jl.ConvLSTM(2, (2, 3, 2)[:rank], **options)
    check(oracle, layer, (2, 3, *(6, 5, 4)[:rank], 2))


ACTIVATIONS = [
    ("relu", jax.nn.relu, "hard_sigmoid", jax.nn.hard_sigmoid),
    ("tanh", jnp.tanh, "hard_sigmoid", jax.nn.hard_sigmoid),
    ("elu", jax.nn.elu, "sigmoid", jax.nn.sigmoid),
    ("softsign", jax.nn.soft_sign, "tanh", jnp.tanh),
]


@pytest.mark.parametrize("names", sample(ACTIVATIONS), ids=lambda row: f"{row[0]}, {row[2]}")
@pytest.mark.parametrize("name", ["LSTM", "GRU", "ConvLSTM"])
def test_activations(name, names):
    theirs, activation, gates, recurrent_activation = names
    if name == "ConvLSTM":
        oracle, layer, conversion = k.ConvLSTM1D, jl.ConvLSTM, convert.same
    else:
        oracle, layer, conversion = RECURRENT[name]
    size = (3, 2) if name == "ConvLSTM" else (3,)
    check(
        oracle(*size, activation=theirs, recurrent_activation=gates, return_sequences=True),
        layer(
            *size,
            activation=activation,
            recurrent_activation=recurrent_activation,
            **({"padding": "VALID"} if name == "ConvLSTM" else {}),
        ),
        (2, 4, 5) if name != "ConvLSTM" else (2, 4, 5, 2),
        conversion,
    )


def test_simple_rnn_activation():
    check(
        k.SimpleRNN(3, activation="relu"),
        jl.SimpleRNN(3, return_sequences=False, activation=jax.nn.relu),
        (2, 4, 5),
    )


MERGE = {
    "concat": None,
    "sum": jl.add(),
    "mul": jl.multiply(),
    "ave": jl.average(),
    None: jl.serial(),
}
BIDIRECTIONAL = [(name, "concat", True) for name in ("GRU", "SimpleRNN")] + [
    ("LSTM", merge, sequences) for merge in MERGE for sequences in (True, False)
]


FAST = [("LSTM", None, True), ("LSTM", "sum", True)]


@pytest.mark.parametrize(
    ("name", "merge", "sequences"),
    [
        row
        if row[:2] in (("LSTM", None), ("LSTM", "sum")) and row[2]
        else pytest.param(*row, marks=pytest.mark.full)
        for row in BIDIRECTIONAL
    ],
)
def test_bidirectional(name, merge, sequences):
    oracle, layer, conversion = RECURRENT[name]
    check(
        k.Bidirectional(oracle(3, return_sequences=sequences), merge_mode=merge),
        jl.bidirectional(layer(3, return_sequences=sequences), MERGE[merge]),
        (2, 4, 5),
        convert.both_ways(conversion),
    )


def test_each_step():
    check(k.TimeDistributed(k.Conv1D(4, 3)), jl.each_step(jl.Conv(4, 3)), (2, 3, 7, 2))


UPSAMPLING = {
    "nearest": {},
    "bilinear": {"method": "linear"},
    "bicubic": {"method": "cubic", "coefficient": -0.5, "exclude_outside": True},
    "lanczos3": {"method": "lanczos3"},
}


@pytest.mark.parametrize("name", UPSAMPLING)
def test_resize(name):
    layer, theirs = jl.Resize(factor=(2, 3), **UPSAMPLING[name]), {"interpolation": name}
    check(k.UpSampling2D((2, 3), **theirs), layer, (2, 5, 4, 3))
    check(k.Resizing(4, 7, **theirs), jl.Resize((4, 7), **UPSAMPLING[name]), (2, 5, 6, 3))


# Not of 7 outputs: Keras 3.15.1 rounds the ends of windows in float32, and the last one is NaN.
@pytest.mark.parametrize("sizes", [(3, 4), (2, 5)], ids=str)
@pytest.mark.parametrize(("name", "own"), [("Average", "Avg"), ("Max", "Max")])
def test_adaptive_pool(name, own, sizes):
    theirs = getattr(k, f"Adaptive{name}Pooling2D")(sizes)
    check(theirs, getattr(jl, f"Adaptive{own}Pool")(sizes), (2, 7, 6, 3))
