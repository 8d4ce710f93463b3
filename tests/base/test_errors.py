"""Bad arguments and bad children: what is wrong is said where a model is built."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from error_text import F32, MODEL, SEQUENCE, X, each, init, read
from jax.nn import initializers

import jlayers as jl
from jlayers import Conv, Dense


def never_called(f, x):
    return x


def keep(params, state, x, *, key, train):
    return x, state


class StepPair:
    """A layer as PyTorch people write it."""

    def __init__(self, width, depth):
        self.width, self.depth = width, depth


@jl.factory
def MLP(width):
    return jl.serial(Dense(width), Dense(-1))


@jl.factory
def Forgetful(width):
    jl.serial(Dense(width))


# (what goes wrong, the first line, parts of later lines)
ARGUMENTS = [
    (lambda: Dense(0), "Dense: features must be a positive int, got 0"),
    (lambda: Dense(-3), "Dense: features must be a positive int, got -3"),
    (lambda: Dense(64.0), "Dense: features must be a positive int, got 64.0"),
    (lambda: Dense(None), "Dense: features must be a positive int, got None"),
    (lambda: Dense("64"), "Dense: features must be a positive int, got '64'"),
    (lambda: Dense(True), "Dense: features must be a positive int, got True"),
    (lambda: Dense((4, 0)), "Dense: features must be a positive int, got 0"),
    (lambda: Dense(X), "Dense: features must be a positive int, got float32[8, 5]"),
    (lambda: Dense(3, bias=0), "Dense: bias must be True or False, got 0"),
    (lambda: Dense(3, bias=None), "Dense: bias must be True or False, got None"),
    (
        lambda: Dense(8, 16),
        "Dense: takes 1 argument by position, got 2",
        "expected: Dense(features, *, axis=-1, bias=True, kernel_init=..., bias_init=...)",
        "got:      8, 16",
        "hint:     sizes come from the input: Dense(16)",
    ),
    (
        lambda: Dense(),
        "Dense: missing a required argument: 'features'",
        "expected: Dense(features, *, axis=-1, bias=True, kernel_init=..., bias_init=...)",
    ),
    (lambda: Conv(8), "Conv: missing a required argument: 'kernel_size'"),
    (
        lambda: Dense(3, kernel_init="he_normal"),
        "Dense: kernel_init must be a function of (key, shape, dtype), got 'he_normal'",
        "hint:     jax.nn.initializers.he_normal()",
    ),
    (
        lambda: Dense(3, bias_init="zeros"),
        "Dense: bias_init must be a function of (key, shape, dtype), got 'zeros'",
        "hint:     jax.nn.initializers.zeros",
    ),
    (
        lambda: Dense(3, kernel_init="random_normal"),
        "Dense: kernel_init must be a function of (key, shape, dtype), got 'random_normal'",
        "hint:     jax.nn.initializers.glorot_uniform()",
    ),
    (
        lambda: jl.LSTM(3, recurrent_init=initializers.orthogonal),
        "LSTM: recurrent_init must be a function of (key, shape, dtype), got*orthogonal",
        "hint:     call it: jax.nn.initializers.orthogonal()",
    ),
    (
        lambda: Dense(3, kernel_init=lambda key, shape: jnp.zeros(shape)),
        "Dense: kernel_init must be a function of (key, shape, dtype), got <lambda*",
        "got:      a function of (key, shape)",
    ),
    (
        lambda: Dense(3, bias_init=0.0),
        "Dense: bias_init must be a function of (key, shape, dtype), got 0.0",
    ),
    (lambda: Dense(3, bias_init=None), "Dense: bias_init must be a function of (key, shape,*"),
    (lambda: Conv(8, ()), "Conv: kernel_size must be a positive int or a tuple of them, got ()"),
    (lambda: Conv(8, (3, -1)), "Conv: kernel_size must be a positive int, got -1"),
    (lambda: Conv(8, 3, strides=0), "Conv: strides must be a positive int, got 0"),
    (lambda: Conv(8, 3, dilation=None), "Conv: dilation must be a positive int, got None"),
    (lambda: Conv(8, 3, groups=3), "Conv: groups 3 do not divide the 8 features"),
    (lambda: Conv(8, 3, padding="same_"), "Conv: unknown padding 'same_'", "'CIRCULAR', an int"),
    (lambda: Conv(8, 3, padding=None), "Conv: unknown padding None", "'SAME', 'SAME_LOWER'"),
    (lambda: Conv(8, 3, padding=("CAUSAL", "up")), "Conv: unknown padding 'up'", "'FULL'"),
    (lambda: jl.MaxPool(2, padding="circular"), "MaxPool: unknown padding 'circular'", "'CAUSAL'"),
    (
        lambda: Conv(8, 3, padding=1, padding_mode="mirror"),
        "Conv: unknown padding_mode 'mirror'",
        "'zeros', 'reflect', 'replicate', 'circular'",
    ),
    (
        lambda: Conv(8, 3, padding="CIRCULAR", padding_mode="reflect"),
        "Conv: padding 'CIRCULAR' is a padding_mode itself, got 'reflect' too",
    ),
    (
        lambda: Conv(8, 3, kernel_mask=[[1]]),
        "Conv: kernel_mask must be an array of NumPy or JAX, got [[1]]",
    ),
    (
        lambda: jl.ConvTranspose(8, 3, padding="SAME", cropping=1),
        "ConvTranspose: takes padding= alone, or cropping= and output_padding=",
        "cropping= for what PyTorch calls padding",
    ),
    (
        lambda: jl.ConvTranspose(8, 3, output_padding=-1),
        "ConvTranspose: output_padding must be an int of at least 0, got -1",
    ),
    (lambda: Conv(8, 3, padding=-1), "Conv: padding must be an int of at least 0, got -1"),
    (
        lambda: Conv(8, 3, padding=((1, 2, 3),)),
        "Conv: padding of one axis must be (low, high), got (1, 2, 3)",
    ),
    (
        lambda: jl.ConvTranspose(8, 3, padding="full"),
        "ConvTranspose: unknown padding 'full'",
        "expected: 'VALID', 'SAME', 'CAUSAL', 'CIRCULAR', an int, or a name, an int or (low, high)",
    ),
    (lambda: jl.MaxPool(0), "MaxPool: window_shape must be a positive int, got 0"),
    (lambda: jl.AvgPool(2, strides=0), "AvgPool: strides must be a positive int, got 0"),
    (
        lambda: jl.AvgPool(2, count_include_pad=1),
        "AvgPool: count_include_pad must be True or False, got 1",
    ),
    (
        lambda: jl.GlobalMaxPool(2),
        "GlobalMaxPool: takes 0 arguments by position, got 1",
        "hint:     it takes all spatial axes; MaxPool(window_shape) for windows",
    ),
    (lambda: jl.Dropout(1.5), "Dropout: rate must be a number from 0 to 1, got 1.5"),
    (lambda: jl.Dropout("0.5"), "Dropout: rate must be a number from 0 to 1, got '0.5'"),
    (lambda: jl.Dropout(np.nan), "Dropout: rate must be a number from 0 to 1, got nan"),
    (
        lambda: jl.BatchNorm(64),
        "BatchNorm: takes 0 arguments by position, got 1",
        "hint:     sizes come from the input: BatchNorm()",
    ),
    (lambda: jl.BatchNorm(momentum=2), "BatchNorm: momentum must be a number from 0 to 1, got 2"),
    (
        lambda: jl.LayerNorm(epsilon=-1.0),
        "LayerNorm: epsilon must be a number of at least 0, got -1.0",
    ),
    (
        lambda: jl.LayerNorm(scale=initializers.ones),
        "LayerNorm: scale must be True or False, got jax.nn.initializers.ones",
    ),
    (lambda: jl.Embedding(0, 3), "Embedding: num_embeddings must be a positive int, got 0"),
    (
        lambda: jl.LSTM(3, return_sequences=1),
        "LSTM: return_sequences must be True or False, got 1",
    ),
    (lambda: jl.GRU(3, reverse="yes"), "GRU: reverse must be True or False, got 'yes'"),
    (
        lambda: jl.SimpleRNN(3, activation="tanh"),
        "SimpleRNN: activation must be a function of (x), got 'tanh'",
        "hint:     jax.nn.tanh",
    ),
    (
        lambda: init(jl.SimpleRNN(3, activation=jnp.sum), SEQUENCE),
        "SimpleRNN: activation is not elementwise",
        "expected: float32[4, 3]",
        "got:      float32[]",
    ),
    (lambda: jl.Reshape(3), "Reshape: shape must be a tuple of ints, got 3"),
    (lambda: jl.Reshape((2.0,)), "Reshape: a size in shape must be an int, got 2.0"),
    (
        lambda: jl.Reshape((-1, -1)),
        "Reshape: shape must hold sizes and at most one -1, got (-1, -1)",
    ),
    (lambda: MLP(3), "Dense: features must be a positive int, got -1"),
    (lambda: Forgetful(3), "Forgetful: the factory must return a Layer", "got:      None"),
    (lambda: jl.repeat(Dense(5), 0), "repeat: n must be a positive int, got 0"),
    (lambda: jl.repeat(Dense(5), 2.0), "repeat: n must be a positive int, got 2.0"),
    (lambda: jl.ensemble(Dense(5), True), "ensemble: n must be a positive int, got True"),
    (
        lambda: jl.repeat(Dense(5)),
        "repeat: missing a required argument: 'n'",
        "expected: repeat(layer, n, remat=None, *, shared=False)",
    ),
    (
        lambda: jl.repeat(Dense(5), 2, remat="full"),
        "repeat: remat must be True, False or a policy, got 'full'",
    ),
    (
        lambda: jl.remat(Dense(5), "dots"),
        "remat: policy must be one of jax.checkpoint_policies, got 'dots'",
    ),
    (lambda: jl.concat(Dense(3), axis="last"), "concat: axis must be an int, got 'last'"),
    (lambda: jl.concat(Dense(3), axis=None), "concat: axis must be an int, got None"),
    (lambda: jl.spec(3), "spec: a shape must be a tuple of sizes, got 3", "hint:     (3,)"),
    (lambda: jl.spec(X), "spec: a shape must be a tuple of sizes, got float32[8, 5]", "x.shape"),
    (lambda: jl.spec((None, 3)), "spec: a shape must be a tuple of sizes, got (None, 3)"),
    (lambda: jl.spec((-1, 3)), "spec: a shape must be a tuple of sizes, got (-1, 3)"),
    (lambda: jl.spec((2.5, 3)), "spec: a shape must be a tuple of sizes, got (2.5, 3)"),
    (lambda: jl.spec((3,), "flaot32"), "spec: expected a dtype, got 'flaot32'"),
    (lambda: jl.Layer(None, keep), "Layer's init must be a function of (key, x), got None"),
    (
        lambda: jl.Layer(lambda key, x: ({}, {}), lambda params, x: x),
        "Layer's apply must be a function of (params, state, x, *, key, train), got <lambda*",
        "got:      a function of (params, x)",
    ),
    (
        lambda: jl.Layer(lambda key, x: ({}, {}), keep, children={"a": Dense(3)}),
        "a layer with children needs rebuild",
    ),
    (lambda: jl.stateless(None, None), "stateless: init must be a function of (key, x), got None"),
    (
        lambda: jl.stateless(lambda key, x: {}, lambda params, state, x: x),
        "stateless: apply must be a function of (params, x), got <lambda test_errors.py:*",
        "got:      a function of (params, state, x)",
    ),
    (lambda: jl.compose(3), "compose: the body must be a function of (f, x), got 3"),
    (lambda: jl.compose(Dense(3)), "compose: the body must be a function of (f, x), got Dense(3)"),
    (
        lambda: jl.compose(lambda x: x),
        "compose: the body must be a function of (f, x), got <lambda test_errors.py:*",
        "got:      a function of (x)",
    ),
    (
        lambda: jl.compose(keep, Dense(3)),
        "compose: takes 1 argument by position, got 2",
        "got:      keep, Dense(3)",
        "hint:     children are given by name: compose(body, dense=jl.Dense(3))",
    ),
]

CHILDREN = [
    (
        lambda: jl.serial(Dense(3), 3),
        "serial at 'child 1': expected a layer, got 3",
        "expected: a Layer, or a function of one argument",
    ),
    (lambda: jl.serial(block=None), "serial at 'block': expected a layer, got None"),
    (
        lambda: jl.serial(Dense(3), "relu"),
        "serial at 'child 1': expected a layer, got 'relu'",
        "hint:     jax.nn.relu",
    ),
    (
        lambda: jl.serial([Dense(3), Dense(4)]),
        "serial at 'child 0': expected a layer, got [Dense(3), Dense(4)]",
        "hint:     unpack it: serial(*layers)",
    ),
    (
        lambda: jl.serial(Dense(3), jax.nn.relu(X)),
        "serial at 'child 1': expected a layer, got float32[8, 5]",
    ),
    (
        lambda: jl.serial(Dense(3), Dense),
        "serial at 'child 1': expected a layer, got the factory Dense",
        "hint:     call it: Dense(...)",
    ),
    (
        lambda: jl.residual(functools.partial(Dense, bias=False)),
        "residual at 'body': expected a layer, got the factory Dense",
    ),
    (
        lambda: jl.serial(Dense(3), jnp.add),
        "serial at 'child 1': jax.numpy.add must be a function of one argument",
        "hint:     a lambda of one argument, or compose; several inputs are one tuple",
    ),
    (
        lambda: jl.parallel(lambda a, b: a + b),
        "parallel at 'child 0': <lambda test_errors.py:*> must be a function of one argument",
    ),
    (
        lambda: jl.branch(lambda: 3),
        "branch at 'child 0': <lambda test_errors.py:*> must be a function of one argument",
    ),
    (
        lambda: jl.serial(Dense(3).apply),
        "serial at 'child 0': Layer.apply must be a function of one argument",
    ),
    (
        lambda: jl.serial(StepPair),
        "serial at 'child 0': StepPair must be a function of one argument",
    ),
    (
        lambda: jl.add((lambda key, x: {}, lambda params, x: x)),
        "add at 'child 0': expected a layer, got a bare pair of functions",
        "hint:     jl.Layer(init, apply), or jl.stateless(init, apply)",
    ),
    (
        lambda: jl.serial(optax.adam(1e-3)),
        "serial at 'child 0': expected a layer, got a bare pair of functions",
    ),
    (
        lambda: jl.residual(Dense(3), "same"),
        "residual at 'shortcut': expected a layer, got 'same'",
    ),
    (
        lambda: jl.bidirectional(jl.LSTM(3), "concat"),
        "bidirectional: merge must be a layer, got 'concat'",
    ),
    (
        lambda: jl.repeat(3, Dense(3)),
        "repeat: expected a layer, got 3",
        "expected: repeat(layer, n)",
        "hint:     the layer comes first",
    ),
    (lambda: jl.concat(dim=1), "concat: unknown argument 'dim'", "hint:     axis=1"),
    *(
        (
            lambda make=make: make(method="foo"),
            f"{name}: method must be 'store' or 'recompute', got 'foo'",
            "hint:     without method= the faster one is chosen",
        )
        for name, make in {
            "RNN": functools.partial(jl.RNN, jl.LSTMCell(3)),
            "LSTM": functools.partial(jl.LSTM, 3),
        }.items()
    ),
    (
        lambda: jl.each_step(Dense),
        "each_step: expected a layer, got the factory Dense",
    ),
    (lambda: jl.compose(never_called, a=3), "compose at 'a': expected a layer, got 3"),
    (lambda: jl.without_state(3), "without_state: expected a layer, got 3"),
    (
        lambda: jl.out_spec(Dense, F32),
        "out_spec: expected a layer, got the factory Dense",
        "hint:     call it: Dense(...)",
    ),
    (lambda: jl.out_spec(F32, MODEL), "out_spec: expected a layer, got float32[8, 5]"),
    (
        lambda: jl.serial(Dense(3), dense=Dense(4)),
        "serial: two children are named 'dense'",
        "got:      Dense(3) and Dense(4)",
    ),
    (
        lambda: jl.serial(**{"a/b": Dense(3)}),
        "serial: 'a/b' cannot be a name",
        "expected: a non-empty string without / * ? [ ]",
    ),
    (lambda: jl.serial(**{"": Dense(3)}), "serial: '' cannot be a name"),
    (lambda: jl.compose(never_called, name="a/b"), "compose: 'a/b' cannot be a name"),
    (
        lambda: jl.compose(never_called, key=Dense(3)),
        "compose: a child cannot be named 'key': f.key is an attribute of the scope",
    ),
    (
        lambda: jl.compose(never_called, _call=Dense(3)),
        "compose: a child cannot be named '_call': f._call is an attribute of the scope",
    ),
    (lambda: jl.parallel(), "parallel: got no layers", "expected: at least one"),
    (lambda: jl.branch(Dense(3), b=Dense(4)), "branch: got positional and named layers at once"),
    (
        lambda: MODEL.rebuild({"dense": Dense(4)}),
        "serial: cannot be rebuilt around these children",
        "expected: dense, relu, dense_1",
        "got:      dense",
    ),
    (lambda: MODEL.rebuild([Dense(4)]), "serial: cannot be rebuilt around these children"),
    (
        lambda: MODEL(X),
        "serial: a layer cannot be called like a function",
        "hint:     y, state = layer.apply(params, state, x)",
    ),
    (
        lambda: init(jl.serial(lambda x: Dense(3)(x))),
        "Dense at 'lambda': a layer cannot be called like a function",
        "inside a compose body, f.child(x)",
    ),
    (
        lambda: setattr(Dense(3), "features", 4),
        "a Layer is immutable: 'features' of Dense(3) was not set",
    ),
    (
        lambda: delattr(Dense(3), "kind"),
        "a Layer is immutable: 'kind' of Dense(3) was not deleted",
    ),
]


@each(ARGUMENTS, CHILDREN)
def test_the_text(case):
    read(case)
