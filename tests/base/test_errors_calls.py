"""init and apply called in wrong ways: keys, train, parameters and state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from error_text import F32, KEY, MODEL, PARAMS, STATE, X, each, read

import jlayers as jl
from jlayers import Dense


def apply(layer, x=F32, **kwargs):
    return layer.apply(*layer.init(KEY, x), jnp.zeros(x.shape, x.dtype), **kwargs)


def run(params, state=STATE, x=X, **kwargs):
    return MODEL.apply(params, state, x, **kwargs)


def train(layer, x=F32):
    return apply(layer, x, train=True)


def in_jit(layer, **kwargs):
    step = jax.jit(functools.partial(layer.apply, **kwargs))
    return step(*layer.init(KEY, F32), X)


def draws_in_training(f, x):
    return x + jax.random.normal(f.key(), x.shape) if f.train else x


NORMED = jl.serial(Dense(4), jl.BatchNorm())
NORMED_PARAMS, NORMED_STATE = NORMED.init(KEY, F32)

# (what goes wrong, the first line, parts of later lines)
CALLS = [
    (
        lambda: MODEL.apply(PARAMS, X),
        "serial: apply got two arguments",
        "expected: apply(params, state, x)",
        "jl.without_state(layer) for a pair that has none",
    ),
    (
        lambda: MODEL.apply(MODEL.init(KEY, F32), X),
        "serial: params must be a tree of arrays",
        "got:      a tuple, ({dense: {kernel: float32[5, 4], bias: float32[4]}, ",
        "hint:     init returns a pair, unpack it: params, state = layer.init(key, x)",
    ),
    (lambda: run(None), "serial: params must be a tree of arrays", "got:      None"),
    (
        lambda: run(MODEL),
        "serial: params must be a tree of arrays",
        "got:      a Layer, serial(Dense(4)",
    ),
    (lambda: run("weights.npz"), "serial: params must be a tree of arrays", "'weights.npz'"),
    (
        lambda: run([X]),
        "serial: params must be a tree of arrays",
        "got:      a list, [float32[8, 5]]",
    ),
    (
        lambda: run(X, PARAMS, STATE),
        "serial: params must be a tree of arrays",
        "got:      float32[8, 5]",
    ),
    (lambda: run(PARAMS, None), "serial: state must be a tree of arrays", "got:      None"),
    (
        lambda: run(PARAMS, X, KEY),
        "serial: state must be a tree of arrays",
        "got:      float32[8, 5]",
    ),
    (
        lambda: run(STATE, PARAMS),
        "serial: params do not fit the model: 4 missing",
        "hint:     params and state are swapped: layer.apply(params, state, x)",
    ),
    (
        lambda: run({"params": PARAMS}),
        "serial: params do not fit the model: 4 missing, 4 extra",
        "hint:     its entry 'params' fits: params['params']",
    ),
    (
        lambda: run(jl.serial(Dense(7), a=jl.LayerNorm()).init(KEY, F32)[0]),
        "serial: params do not fit the model: 2 missing, 2 extra, 2 different",
        "expected: the params that init gives for x float32[8, 5]",
        "    missing    dense_1/bias    float32[3]",
        "    missing    dense_1/kernel  float32[4, 3]",
        "    extra      a/scale         float32[7]",
        "    different  dense/bias      expected float32[4], got float32[7]",
        "    different  dense/kernel    expected float32[5, 4], got float32[5, 7]",
    ),
    (
        lambda: run({"dense": PARAMS["dense"]}),
        "serial: params do not fit the model: 2 missing",
        "missing    dense_1/kernel  float32[4, 3]",
    ),
    (
        lambda: run(PARAMS, STATE | {"dense": {}}),
        "serial: state does not fit the model: 1 extra",
        "hint:     leave out 'dense': a layer that holds nothing has no entry",
    ),
    (
        lambda: run(PARAMS | {0.5: X, "more": {}}),
        "serial: params do not fit the model: 2 extra",
        "extra      [0.5]  float32[8, 5]",
        "extra      more   {}",
    ),
    (
        lambda: run(PARAMS, x=jnp.ones((8, 6))),
        "Dense at 'dense': its input has 6 features, and its parameters were made for 5",
        "layer:    Dense(4)  (",
        "expected: float32[8, 5]",
        "got:      float32[8, 6]",
    ),
    (
        lambda: run(jax.tree.map(lambda leaf: leaf.astype(int), PARAMS)),
        "serial: params do not fit the model: 4 different",
        "expected float32[4], got int32[4]",
    ),
    (
        lambda: run(jax.tree.map(lambda leaf: leaf.astype(complex), PARAMS)),
        "serial: params do not fit the model: 4 different",
        "expected float32[4], got complex64[4]",
    ),
    (
        lambda: run(PARAMS | {"dense": {"kernel": None, "bias": [0.0] * 4}}),
        "serial: params do not fit the model: 2 different",
        "dense/bias    expected float32[4], got [0.0, 0.0, 0.0, 0.0]",
        "dense/kernel  expected float32[5, 4], got None",
    ),
    (
        lambda: run(jax.eval_shape(MODEL.init, KEY, F32)[0]),
        "serial: params do not fit the model: 4 different",
        "expected float32[5, 4], got the spec float32[5, 4]",
        "hint:     these are specs: jax.eval_shape(function, params, state, ...) takes them",
    ),
    (
        lambda: jl.repeat(Dense(5), 2).apply(Dense(5).init(KEY, F32)[0], {}, X),
        "repeat: params do not fit the model: 2 different",
        "different  kernel  expected float32[2, 5, 5], got float32[5, 5]",
    ),
    (
        lambda: NORMED.apply(NORMED_PARAMS, {}, X),
        "serial: state does not fit the model: 2 missing",
        "missing    batch_norm/mean  float32[4]",
        "hint:     pass the state that init returned: params, state = layer.init(key, x)",
    ),
    (
        lambda: run(PARAMS, NORMED_STATE),
        "serial: state does not fit the model: 2 extra",
        "extra      batch_norm/var   float32[4]",
    ),
    (
        lambda: jl.without_state(NORMED).init(KEY, F32),
        "serial: without_state needs a layer without state",
        "got:      batch_norm/mean, batch_norm/var",
        "hint:     params, state = layer.init(key, x)",
    ),
    (
        lambda: jl.without_state(NORMED).apply(NORMED_PARAMS, X),
        "serial: without_state needs a layer without state",
    ),
    (
        lambda: jl.without_state(MODEL).apply(PARAMS, STATE, X),
        "serial: the key must be a single typed key",
        "got:      float32[8, 5]",
    ),
    (
        lambda: MODEL.init(0, F32),
        "serial: the key must be a single typed key",
        "got:      0",
        "hint:     jax.random.key(0)",
    ),
    (lambda: MODEL.init(None, F32), "serial: the key must be a single typed key", "got:      None"),
    (lambda: MODEL.init(F32, KEY), "serial: the key must be a single typed key", "float32[8, 5]"),
    (
        lambda: MODEL.init(jax.random.PRNGKey(0), F32),
        "serial: the key must be a single typed key",
        "got:      uint32[2]",
        "hint:     jax.random.key(seed) instead of jax.random.PRNGKey(seed)",
    ),
    (
        lambda: MODEL.init(jax.random.split(KEY, 3), F32),
        "serial: the key must be a single typed key",
        "got:      key<fry>[3]",
        "hint:     jax.vmap over the keys",
    ),
    (lambda: run(PARAMS, key=1.5), "serial: the key must be a single typed key", "got:      1.5"),
    (
        lambda: MODEL.apply(PARAMS, STATE, X, True),
        "serial: the key must be a single typed key",
        "hint:     train=True, by name",
    ),
    (
        lambda: in_jit(
            jl.serial(Dense(4), encoder=jl.serial(Dense(3), jl.Dropout(0.1))), train=True
        ),
        "Dropout at 'encoder/dropout': needs a key to train and got none",
        "before:   dense          float32[8, 5] -> float32[8, 4]",
        "          encoder/dense  float32[8, 4] -> float32[8, 3]",
        "hint:     apply(..., key=key)",
    ),
    (
        lambda: train(jl.serial(Dense(5), jl.repeat(jl.compose(draws_in_training), 2))),
        "compose at 'compose': needs a key and got none",
        "hint:     layer.apply(..., key=key)",
    ),
    (lambda: run(PARAMS, train=None), "serial: train must be a Python bool", "got:      None"),
    (lambda: run(PARAMS, train=1), "serial: train must be a Python bool", "got:      1"),
    (
        lambda: run(PARAMS, train=np.bool_(True)),
        "serial: train must be a Python bool",
        "got:      np.True_",
        "hint:     train=True or train=False",
    ),
    (
        lambda: jax.jit(MODEL.apply)(PARAMS, STATE, X, train=True),
        "serial: train must be a Python bool",
        "got:      a traced bool[]",
        "hint:     jax.jit(layer.apply, static_argnames='train'): it is chosen when traced",
    ),
    (
        lambda: run(PARAMS, x=F32),
        "serial: apply computes with arrays, and got a spec",
        "hint:     jl.out_spec(layer, x) for shapes alone",
    ),
    (lambda: run(PARAMS, x=None), "Dense at 'dense': takes one array", "got:      None"),
    (
        lambda: run(PARAMS, x=np.ones((8, 5), int)),
        "Dense at 'dense': takes floating numbers, got int32",
    ),
    (lambda: MODEL.init(KEY), "serial: init got one argument", "expected: init(key, x)"),
    (lambda: MODEL.apply(PARAMS), "apply: missing a required argument: 'state'"),
    (
        lambda: run(PARAMS, rng=KEY),
        "apply: unknown argument 'rng'",
        "expected: apply(params, state, x=..., key=None, train=False)",
        "hint:     key=...",
    ),
]


@each(CALLS)
def test_the_text(case):
    read(case)
