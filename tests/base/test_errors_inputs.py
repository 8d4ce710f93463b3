"""Inputs that do not fit: the layer, its path, and the shapes before it."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from error_text import F32, IMAGE, MODEL, PARAMS, SEQUENCE, STATE, each, init, read

import jlayers as jl
from jlayers import Conv, Dense

# (what goes wrong, the first line, parts of later lines)
INPUTS = [
    (
        lambda: init(jl.serial(Dense(4), Conv(4, 3))),
        "Conv at 'conv': takes an array of rank 3 or more, got rank 2",
        "expected: (batch, *spatial, channels)",
        "got:      float32[8, 4]",
        "before:   dense  float32[8, 5] -> float32[8, 4]",
    ),
    (
        lambda: init(jl.serial(jl.Flatten(), jl.LSTM(3)), IMAGE),
        "LSTM at 'lstm': takes an array of rank 3, got rank 2",
        "before:   flatten  float32[2, 8, 8, 3] -> float32[2, 192]",
        "hint:     Reshape((time, features)) before it; Embedding for ids",
    ),
    (
        lambda: init(Conv(4, (3, 3)), jl.spec((28, 28, 1))),
        "Conv: takes an array of rank 4, got rank 3",
        "hint:     x[..., None] for images without a channel axis, x[None] for a single image",
    ),
    (
        lambda: init(jl.GRU(4), jl.spec((2, 3, 4, 5))),
        "GRU: takes an array of rank 3, got rank 4",
        "hint:     each_step(layer) for a sequence of such inputs",
    ),
    (
        lambda: init(Dense(3), jl.spec(())),
        "Dense: takes an array of rank 1 or more, got rank 0",
        "expected: (..., features)",
    ),
    (lambda: init(jl.MaxPool(2)), "MaxPool: takes an array of rank 3 or more, got rank 2"),
    (
        lambda: init(jl.GlobalAvgPool()),
        "GlobalAvgPool: takes an array of rank 3 or more, got rank 2",
    ),
    (
        lambda: init(jl.BatchNorm(), jl.spec((5,))),
        "BatchNorm: takes an array of rank 2 or more, got rank 1",
    ),
    (
        lambda: init(jl.serial(head=Dense(3)), jl.spec((8, 5), jnp.int32)),
        "Dense at 'head': takes floating numbers, got int32",
        "got:      int32[8, 5]",
        "hint:     x.astype(jnp.float32); Embedding for integer ids",
    ),
    (
        lambda: init(jl.AvgPool(2), jl.spec((2, 8, 8, 3), jnp.uint8)),
        "AvgPool: takes floating numbers, got uint8",
        "hint:     x.astype(jnp.float32)",
    ),
    (
        lambda: init(jl.MaxPool(2), jl.spec((2, 8, 8, 3), bool)),
        "MaxPool: takes real numbers, got bool",
    ),
    (
        lambda: init(jl.LayerNorm(), jl.spec((8, 5), jnp.complex64)),
        "LayerNorm: takes real numbers, got complex64",
    ),
    (
        lambda: init(jl.serial(Dense(3), jl.Embedding(9, 3))),
        "Embedding at 'embedding': takes integer ids, got float32",
        "hint:     x.astype(jnp.int32)",
    ),
    (
        lambda: init(Dense(3), jl.spec((8, 0))),
        "Dense: takes no empty last axis",
        "got:      float32[8, 0]",
    ),
    (
        lambda: init(jl.GlobalMaxPool(), jl.spec((2, 0, 8, 3))),
        "GlobalMaxPool: takes no empty axis",
    ),
    (
        lambda: init(Dense(3), (F32, F32)),
        "Dense: takes one array",
        "got:      (float32[8, 5], float32[8, 5])",
        "hint:     parallel for one layer per input, concat() to merge them first",
    ),
    (lambda: init(Dense(3), {"image": F32}), "Dense: takes one array", "{image: float32[8, 5]}"),
    (lambda: init(Dense(3), None), "Dense: takes one array", "got:      None"),
    (lambda: init(Dense(3), ()), "Dense: takes one array", "got:      ()"),
    (lambda: init(Dense(3), "x"), "Dense: x holds a str", "got:      'x'"),
    (lambda: init(Dense(3), Dense(4)), "Dense: x holds a Layer", "got:      Dense(4)"),
    (lambda: init(Dense(3), np.array(["a"])), "Dense: x holds an array of dtype <U1"),
    (
        lambda: init(MODEL, (32, 784)),
        "serial: x holds Python numbers",
        "got:      (32, 784)",
        "hint:     jl.spec((32, 784)) for an input of this shape; jnp.asarray for numbers",
    ),
    (lambda: init(MODEL, (None, 784)), "serial: x holds Python numbers", "jl.spec((1, 784)) for"),
    (
        lambda: init(jl.parallel(a=Dense(3)), {"a": (32, 3)}),
        "parallel: x holds Python numbers",
        "jl.spec((32, 3)) for an input",
    ),
    (
        lambda: MODEL.apply(PARAMS, STATE, [[1.0, 2.0]]),
        "serial: x holds Python numbers",
        "got:      [1.0, 2.0]",
        "hint:     jnp.asarray(x)",
    ),
    (
        lambda: jl.out_spec(MODEL, (32, 784)),
        "serial: x holds Python numbers",
        "jl.spec((32, 784)) for",
    ),
    (
        lambda: init(Conv(4, 9), IMAGE),
        "Conv: the dilated kernel (9, 9) is larger than the input (8, 8)",
        "hint:     padding='SAME', or a smaller kernel",
    ),
    (
        lambda: init(Conv(4, 3, dilation=6, padding=1), IMAGE),
        "Conv: the dilated kernel (13, 13) is larger than the padded input (10, 10)",
    ),
    (
        lambda: init(jl.ConvTranspose(4, 9, strides=2, padding=0), jl.spec((2, 3, 3, 3))),
        "ConvTranspose: the dilated kernel (9, 9) is larger than the input (5, 5)",
    ),
    (
        lambda: init(jl.MaxPool(9), IMAGE),
        "MaxPool: the window (9, 9) is larger than the input (8, 8)",
    ),
    (
        lambda: init(jl.MaxPool(2, padding=2), IMAGE),
        "MaxPool: padding ((2, 2), (2, 2)) leaves windows (2, 2) with nothing else in them",
    ),
    (
        lambda: init(Conv(4, 3, strides=(1, 1, 1)), IMAGE),
        "Conv: strides (1, 1, 1) has 3 entries for 2 spatial axes",
    ),
    (
        lambda: init(jl.AvgPool(2, padding=((0, 1),)), IMAGE),
        "AvgPool: padding ((0, 1),) has 1 entries for 2 spatial axes",
    ),
    (
        lambda: init(jl.ConvTranspose(4, (3, 3), padding="causal"), IMAGE),
        "ConvTranspose: padding 'CAUSAL' is for (batch, time, channels)",
        "padding=('CAUSAL', 'SAME')",
    ),
    (
        lambda: init(Conv(4, 3, input_dilation=2, padding="CIRCULAR"), IMAGE),
        "Conv: input_dilation goes with padding by zeros alone",
    ),
    (
        lambda: init(Conv(4, 3, kernel_mask=np.ones((3, 3))), IMAGE),
        "Conv: kernel_mask (3, 3) does not broadcast to the kernel (3, 3, 3, 4)",
        "kernel_mask[..., None, None]",
    ),
    (lambda: init(Conv(4, 3, groups=2), IMAGE), "Conv: groups 2 do not divide the 3 channels*"),
    (
        lambda: init(Conv(4, 3, padding="causal"), IMAGE),
        "Conv: padding 'CAUSAL' is for (batch, time, channels)",
        "padding=('CAUSAL', 'SAME')",
    ),
    (
        lambda: init(jl.Reshape((8, 8)), jl.spec((32, 63))),
        "Reshape: 63 values in a row of the batch do not fill (8, 8)",
        "hint:     the shape leaves out the batch axis, which stays as it is",
    ),
    (
        lambda: init(jl.parallel(Dense(3), Dense(4)), (F32, F32, F32)),
        "parallel: takes a tuple with one input for each layer",
        "expected: 2 inputs",
        "got:      3 inputs",
    ),
    (
        lambda: init(jl.parallel(Dense(3), Dense(4)), jl.spec((2, 5))),
        "parallel: takes a tuple with one input for each layer",
        "got:      float32[2, 5]",
        "hint:     branch gives one input to every layer",
    ),
    (
        lambda: init(jl.parallel(a=Dense(3), b=Dense(4)), {"a": F32, "c": F32}),
        "parallel: takes a dict with an input for each layer",
        "expected: keys a, b",
        "got:      keys a, c",
    ),
    (
        lambda: init(jl.concat()),
        "concat: without layers takes a tuple or a dict of arrays",
        "got:      float32[8, 5]",
    ),
    (
        lambda: init(jl.concat(Dense(3), lambda x: x.sum(-1))),
        "concat: cannot concatenate along axis -1",
        "got:      dense float32[8, 3], lambda float32[8]",
    ),
    (
        lambda: init(jl.concat(Dense(3), lambda x: x.astype(jnp.bfloat16))),
        "concat: cannot concatenate along axis -1",
        "expected: one dtype, and equal sizes on all other axes",
    ),
    (
        lambda: init(jl.concat(Dense(3), Dense(4), axis=0)),
        "concat: cannot concatenate along axis 0",
    ),
    (lambda: init(jl.concat(Dense(3), axis=2)), "concat: no axis 2 in arrays of rank 2"),
    (
        lambda: init(jl.concat(Dense(3), lambda x: (x, x))),
        "concat: merges arrays",
        "lambda (float32[8, 5], float32[8, 5])",
    ),
    (
        lambda: init(jl.add(Dense(3), Dense(1))),
        "add: merges arrays of one shape and dtype",
        "got:      dense float32[8, 3], dense_1 float32[8, 1]",
        "hint:     if it is meant, a function broadcasts: "
        "serial(branch(a, b), lambda x: x[0] * x[1])",
    ),
    (
        lambda: init(jl.multiply(), (F32, jl.spec((5,)))),
        "multiply: merges arrays of one shape and dtype",
        "got:      input 0 float32[8, 5], input 1 float32[5]",
    ),
    (lambda: init(jl.average(), ()), "average: without layers takes a tuple or a dict of arrays"),
    (lambda: init(jl.maximum(Dense(3), lambda x: 1.0)), "maximum: merges arrays", "lambda 1.0"),
    (
        lambda: init(jl.serial(block=jl.residual(Dense(3)))),
        "residual at 'block': merges arrays of one shape and dtype",
        "got:      shortcut float32[8, 5], body float32[8, 3]",
        "hint:     residual(..., shortcut=Dense(3))",
    ),
    (
        lambda: init(jl.residual(Conv(3, 3)), IMAGE),
        "residual: merges arrays of one shape and dtype",
        "hint:     a shortcut to the shape of the body's output",
    ),
    (
        lambda: init(jl.serial(Dense(4), jl.repeat(jl.serial(Dense(3), Dense(5)), 2))),
        "repeat at 'serial': the output of a repeated layer differs from its input",
        "expected: float32[8, 4]",
        "got:      float32[8, 5]",
    ),
    (
        lambda: init(jl.serial(Dense(4), jl.ensemble(jl.serial(Dense(3), jl.GRU(2)), 2))),
        "GRU at 'serial/gru': takes an array of rank 3, got rank 2",
        "before:   dense         float32[8, 5] -> float32[8, 4]",
        "          serial/dense  float32[8, 4] -> float32[8, 3]",
    ),
    (
        lambda: jl.bidirectional(jl.LSTM(3), merge="sum"),
        "bidirectional: merge must be a layer, got 'sum'",
        "hint:     concat(), or add() for 'sum'",
    ),
    (
        lambda: init(jl.bidirectional(jl.LSTM(3)), jl.spec((5,))),
        "bidirectional: takes sequences",
        "expected: (batch, time, ...)",
    ),
    (
        lambda: init(jl.bidirectional(jl.LSTM(3), jl.add(), backward=jl.LSTM(4)), SEQUENCE),
        "add at 'merge': merges arrays of one shape and dtype",
    ),
    (lambda: init(jl.each_step(Dense(3)), jl.spec((5,))), "each_step: takes sequences"),
    (
        lambda: init(jl.each_step(jl.parallel(Dense(3), Dense(3))), (SEQUENCE, jl.spec((4, 9, 6)))),
        "each_step: takes sequences",
        "with one batch and time for all inputs",
    ),
    (
        lambda: init(jl.each_step(lambda x: x.sum()), SEQUENCE),
        "each_step: the layer under each_step does not keep its batch axis",
        "expected: 40 rows",
    ),
]


@each(INPUTS)
def test_the_text(case):
    read(case)


def test_unusual_inputs_that_are_right():
    (batch,) = jax.export.symbolic_shape("b")
    assert jl.out_spec(MODEL, jl.spec((batch, 5))).shape == (batch, 3)
    assert jl.out_spec(jl.residual(jl.concat(), jl.concat()), (F32, F32)).shape == (8, 10)
    assert jl.out_spec(MODEL, np.ones((8, 5))).dtype == jnp.float32  # as JAX will see it
    assert jl.out_spec(jax.nn.relu, F32) == F32
