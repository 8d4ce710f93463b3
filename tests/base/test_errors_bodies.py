"""Mistakes in what users write: compose bodies, initialisers, functions, init and apply."""

import jax.numpy as jnp
import numpy as np
from error_text import F32, KEY, X, each, init, read
from jax.nn import initializers

import jlayers as jl
from jlayers import Dense


def apply(layer, x=F32, **kwargs):
    return layer.apply(*layer.init(KEY, x), jnp.zeros(x.shape, x.dtype), **kwargs)


def train(layer, x=F32):
    return apply(layer, x, train=True)


def body(body, **children):
    return init(jl.compose(body, **children))


def param(*args, **kwargs):
    return body(lambda f, x: x + f.param("scale", *args, **kwargs))


def set_count(new, shape=(2,), dtype=jnp.float32):
    def count(f, x):
        variable = f.variable("count", initializers.zeros, shape, dtype)
        if f.train:
            variable.value = new
        return x

    return train(jl.compose(count))


def layer(made=None, result=None):
    """A layer whose init and apply give what they must not."""
    return init(
        jl.Layer(
            lambda key, x: ({}, {}) if made is None else made,
            lambda params, state, x, *, key, train: (x, state) if result is None else result(x),
        )
    )


def state_in_training(new):
    def step(params, state, x, *, key, train):
        return x, new if train else state

    return train(jl.Layer(lambda key, x: ({}, {"n": jnp.zeros(())}), step, name="count"))


def no_return(x):
    x + 1.0


def calls_unknown(f, x):
    return f.hed(x)


def never_called(f, x):
    return x


def two_params(f, x):
    return x * f.param("s", initializers.ones, x.shape) + f.param("s", initializers.ones, x.shape)


# (what goes wrong, the first line, parts of later lines)
BODIES = [
    (
        lambda: body(calls_unknown, head=Dense(3)),
        "compose: the body calls a child 'hed' that was not given",
        "got:      children head",
        "hint:     compose(body, hed=...)",
    ),
    (
        lambda: body(never_called, head=Dense(3)),
        "compose: the body never calls its child 'head'",
        "layer:    compose(never_called, head=Dense(3))",
    ),
    (
        lambda: body(lambda f, x: f.head(x, x), head=Dense(3)),
        "compose: the child 'head' takes one input",
        "got:      2 inputs",
        "hint:     f.head(x); several inputs are a tuple: f.head((a, b))",
    ),
    (
        lambda: body(lambda f, x: f.head(x=x), head=Dense(3)),
        "compose: the child 'head' takes one input",
        "got:      0 inputs, and one named 'x'",
    ),
    (
        lambda: body(lambda f, x: f.head(f.head(x)), head=Dense(3)),
        "Dense at 'head': two calls with different inputs need different parameters",
        "got:      float32[8, 5] and float32[8, 3]",
    ),
    (
        lambda: body(two_params),
        "compose: 's' names two things in one layer",
        "hint:     declare a parameter once and reuse its value",
    ),
    (
        lambda: body(lambda f, x: f.a(x) + f.param("a", initializers.ones, (8, 3)), a=Dense(3)),
        "compose: 'a' names two things in one layer",
    ),
    (
        lambda: param(initializers.ones, 5),
        "compose: the shape of 'scale' must be a tuple of sizes, got 5",
        "hint:     (5,)",
    ),
    (
        lambda: param(initializers.ones, (5.0,)),
        "compose: the shape of 'scale' must be a tuple of sizes, got (5.0,)",
    ),
    (
        lambda: param((5,), initializers.ones),
        "compose: the shape of 'scale' must be a tuple of sizes, got jax.nn.initializers.ones",
    ),
    (lambda: param(initializers.ones, (8, 5), "flaot"), "compose: expected a dtype, got 'flaot'"),
    (
        lambda: param(1.0, (8, 5)),
        "compose: the initialiser of 'scale' must be a function of (key, shape, dtype), got 1.0",
    ),
    (
        lambda: init(Dense(3, kernel_init="ones")),
        "Dense: the initialiser of 'kernel' must be a function of (key, shape, dtype), got 'ones'",
    ),
    (
        lambda: init(Dense(3, kernel_init=lambda key, shape: jnp.zeros(shape))),
        "Dense: the initialiser of 'kernel' must be a function of (key, shape, dtype), got*",
        "got:      a function of (key, shape)",
    ),
    (
        lambda: init(jl.serial(head=Dense(3, kernel_init=initializers.glorot_uniform))),
        "Dense at 'head': the initialiser of 'kernel' gave a function",
        "hint:     call it: jax.nn.initializers.glorot_uniform()",
    ),
    (
        lambda: init(Dense(3, bias_init=initializers.glorot_uniform())),
        "Dense: the initialiser of 'bias' raised ValueError: Can't compute input and output sizes*",
    ),
    (
        lambda: init(Dense(3, kernel_init=lambda key, shape, dtype: jnp.zeros((3, 5)))),
        "Dense: the initialiser of 'kernel' gave another shape or dtype",
        "expected: float32[5, 3]",
        "got:      float32[3, 5]",
    ),
    (
        lambda: init(Dense(3, kernel_init=lambda key, shape, dtype: jnp.zeros(shape, int))),
        "Dense: the initialiser of 'kernel' gave another shape or dtype",
        "got:      int32[5, 3]",
    ),
    (
        lambda: body(lambda f, x: setattr(f.variable("n", initializers.zeros, ()), "value", 1.0)),
        "compose: the variable 'n' is set outside training",
        "hint:     if f.train: n.value = ...",
    ),
    (
        lambda: set_count(jnp.ones(3)),
        "compose: the variable 'count' would change its shape or dtype",
        "expected: float32[2]",
        "got:      float32[3]",
    ),
    (lambda: set_count(3.0), "compose: the variable 'count' would change its shape or dtype"),
    (
        lambda: set_count(0.5, (), jnp.int32),
        "compose: the variable 'count' would change its shape or dtype",
        "expected: int32[]",
    ),
    (lambda: set_count(None), "compose: the variable 'count' would change its shape or dtype"),
    (lambda: set_count("x"), "compose: the variable 'count' holds a str"),
    (lambda: body(lambda f, x: None), "compose: its output is None", "its function has no return"),
    (
        lambda: init(jl.serial(Dense(3), no_return, Dense(4))),
        "no_return at 'no_return': its output is None",
        "hint:     its function has no return statement",
    ),
    (lambda: init(jl.serial(lambda x: "x")), "lambda at 'lambda': the output holds a str"),
    (
        lambda: train(jl.compose(lambda f, x: f.a(x) if f.train else x, a=Dense(3))),
        "compose: the body never calls its child 'a'",
        "hint:     call every child whatever f.train is, or leave it out",
    ),
    (
        lambda: body(lambda f, x: x if x.sum() > 0 else -x),
        "compose: raised TracerBoolConversionError: Attempted boolean conversion of traced array*",
        "its values are not known: jnp.where or jax.lax.cond in the place of Python's if",
    ),
    (
        lambda: init(jl.serial(Dense(3), lambda x: np.sin(x))),
        "lambda at 'lambda': raised TracerArrayConversionError: The numpy.ndarray conversion*",
        "its values are not known: jnp in the place of np",
        "before:   dense  float32[8, 5] -> float32[8, 3]",
    ),
    (
        lambda: init(jl.serial(positive=lambda x: x[x > 0])),
        "lambda at 'positive': raised NonConcreteBooleanIndexError: Array boolean indices must be*",
        "jnp.where(mask, x, 0) in the place of x[mask]",
    ),
    (
        lambda: init(jl.serial(Dense(3), lambda x: x * (1 // 0))),
        "lambda at 'lambda': raised ZeroDivisionError: integer division or modulo by zero",
    ),
    (
        lambda: init(jl.stateless(lambda key, x: {}, lambda params, x: x * params["w"])),
        "stateless: raised KeyError: 'w'",
    ),
    (
        lambda: init(jl.stateless(lambda key, x: ({}, {}), lambda params, x: x)),
        "stateless: init of a stateless layer must return params alone",
        "hint:     jl.Layer(init, apply) for a layer with state",
    ),
    (
        lambda: layer({}),
        "layer: init must return a pair of trees",
        "expected: (params, state)",
        "hint:     jl.stateless(init, apply) for an init that returns params alone",
    ),
    (
        lambda: layer((X, {})),
        "layer: init must return a dict for params",
        "got:      float32[8, 5]",
    ),
    (lambda: layer(({}, None)), "layer: init must return a dict for state", "got:      None"),
    (lambda: layer(({"w": [X]}, {})), "layer: init must return an array for 'w' in params"),
    (lambda: layer(({"w": F32}, {})), "layer: init must return an array for 'w' in params"),
    (lambda: layer(({0: X}, {})), "layer: init returned params with the key 0"),
    (lambda: layer(({"a/b": X}, {})), "layer: init returned params with the key 'a/b'"),
    (
        lambda: layer(result=lambda x: x),
        "layer: apply must return a pair of output and state",
        "expected: (y, state) with a dict for state",
        "got:      float32[8, 5]",
    ),
    (
        lambda: layer(result=lambda x: (x, None)),
        "layer: apply must return a pair of output and state",
    ),
    (
        lambda: layer(result=lambda x: (x, {"n": X})),
        "layer: apply changed the state's entries, shapes or dtypes",
        "expected: {}",
        "got:      {n: float32[8, 5]}",
    ),
    (
        lambda: state_in_training({"n": jnp.zeros(3)}),
        "count: the new state does not fit the model: 1 different",
        "different  n  expected float32[], got float32[3]",
    ),
]


@each(BODIES)
def test_the_text(case):
    read(case)
