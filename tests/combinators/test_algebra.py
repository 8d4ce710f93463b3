"""The algebra of combinators (law 11), and what leaves the values of other layers alone (law 8)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

ROWS, STEPS = (4, 3), (2, 5, 3)


def array(shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def ready(layer, x):
    """Parameters and state, not as their initialisers made them; variances stay positive."""
    rng = np.random.default_rng(1)

    def stir(leaf):
        return leaf + jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype)

    return jax.tree.map(stir, layer.init(jax.random.key(0), x))


def close(got, wanted, tolerance=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def same(got, wanted):
    close(got, wanted, 0)


def paths(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def results(layer, params, state, x, train=True, key=None):
    """Output, next state, and the gradients of a scalar for the parameters and the input."""

    def loss(params, x):
        y, new = layer.apply(params, state, x, key, train)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(y)), (y, new)

    def both(params, x):
        (of_params, of_x), (y, new) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return {"y": y, "state": new, "params": of_params, "x": of_x}

    return jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(params, x)


def block(width=3):
    return jl.residual(jl.serial(jl.BatchNorm(), jl.Dense(width)))


LAYERS = {
    "batch_norm": block(),
    "nested": jl.repeat(jl.serial(block(), jl.LayerNorm()), 2),
    "shared": jl.compose(lambda f, x: f.one(jnp.tanh(f.one(x))), one=block()),
    "members": jl.serial(jl.ensemble(block(), 2), lambda y: jnp.mean(y, 0)),
}


# serial.


@pytest.mark.parametrize("x", [array(ROWS), (array(ROWS), array(STEPS)), {"a": array(ROWS)}])
def test_serial_of_nothing_is_the_identity(x):
    assert jl.serial().init(jax.random.key(0), x) == ({}, {})
    for train in (False, True):
        y, state = jl.serial().apply({}, {}, x, train=train)
        same(y, x)
        assert state == {}


def test_the_identity_anywhere_in_serial_changes_nothing():
    x, key, a, b, none = array(ROWS), jax.random.key(3), jl.Dense(5), jl.BatchNorm(), jl.serial()
    bare = jl.serial(a, b)
    params, state = ready(bare, x)
    for model in (jl.serial(none, a, b), jl.serial(a, none, b), jl.serial(a, b, none)):
        same(model.init(key, x), bare.init(key, x))
        same(model.apply(params, state, x), bare.apply(params, state, x))


@pytest.mark.parametrize("train", [False, True])
def test_serial_is_associative_up_to_the_nesting_of_names(train):
    x, a, b, c = array(ROWS), jl.Dense(5), jl.BatchNorm(), block(5)
    flat = jl.serial(a=a, b=b, c=c)
    left = jl.serial(nest=jl.serial(a=a, b=b), c=c)
    right = jl.serial(a=a, nest=jl.serial(b=b, c=c))

    def renest(tree, names):
        nest = {name: tree[name] for name in names if name in tree}
        return {name: leaf for name, leaf in tree.items() if name not in names} | {"nest": nest}

    params, state = ready(flat, x)
    wanted = results(flat, params, state, x, train)
    for model, names in ((left, "ab"), (right, "bc")):
        got = results(model, renest(params, names), renest(state, names), x, train)
        nested = {what: renest(wanted[what], names) for what in ("params", "state")}
        close(got, wanted | nested, 1e-6)


def test_the_same_layer_twice_in_serial_is_two_layers():
    dense, x = jl.Dense(3), array(ROWS)
    params, state = jl.serial(dense, dense).init(jax.random.key(0), x)
    assert list(params) == ["dense", "dense_1"]
    assert not jnp.array_equal(params["dense"]["kernel"], params["dense_1"]["kernel"])
    middle, _ = dense.apply(params["dense"], {}, x)
    y, _ = dense.apply(params["dense_1"], {}, middle)
    same(jl.serial(dense, dense).apply(params, state, x)[0], y)


# repeat and ensemble.


@pytest.mark.parametrize(
    ("kind", "remat", "train"),
    [
        *((kind, None, True) for kind in LAYERS),
        ("batch_norm", True, False),
        ("shared", jax.checkpoint_policies.dots_saveable, True),
    ],
)
def test_repeat_is_serial_of_copies(kind, remat, train):
    layer, x = LAYERS[kind], array(ROWS)
    many, copies = jl.repeat(layer, 3, remat), jl.serial(*[layer] * 3)

    def unstacked(tree):
        return {name: take(tree, i) for i, name in enumerate(copies.children)} if tree else {}

    params, state = ready(many, x)
    got = results(many, params, state, x, train)
    got |= {what: unstacked(got[what]) for what in ("params", "state")}
    close(got, results(copies, unstacked(params), unstacked(state), x, train))


@pytest.mark.parametrize(("remat", "train"), [(None, True), (True, False)])
def test_a_shared_repeat_is_one_layer_again_and_again(remat, train):
    layer, x, key = jl.serial(block(), jl.Dropout(0.5)), array(ROWS), jax.random.key(2)

    def again(params, state, x, *, key, train):
        for i in range(3):
            own = jax.random.fold_in(key, i)
            x, state = layer.apply(params, state, x, key=own, train=train)
        return x, state

    many, by_hand = jl.repeat(layer, 3, remat, shared=True), jl.Layer(layer.init, again)
    params, state = ready(many, x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ready(layer, x)[0])
    given = params, state, x, train, key
    close(results(many, *given), results(by_hand, *given))


@pytest.mark.parametrize("kind", LAYERS)
def test_ensemble_is_a_loop(kind):
    layer, x = LAYERS[kind], array(ROWS)
    params, state = ready(jl.ensemble(layer, 3), x)
    loop = [results(layer, take(params, i), take(state, i), x) for i in range(3)]
    wanted = stack(loop) | {"x": sum(one["x"] for one in loop)}
    close(results(jl.ensemble(layer, 3), params, state, x), wanted)


@pytest.mark.parametrize("make", [jl.repeat, jl.ensemble])
def test_copy_i_has_the_key_folded_with_i(make):
    layer, x, key = jl.serial(jl.Dense(3), jl.Dropout(0.5)), array(ROWS), jax.random.key(1)
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    params, state = make(layer, 3).init(key, x)
    close((params, state), stack([layer.init(one, x) for one in keys]), 1e-7)
    at, outputs = x, []
    for i, one in enumerate(keys):
        y, _ = layer.apply(take(params, i), state, at, one, True)
        at = y if make is jl.repeat else x
        outputs.append(y)
    close(make(layer, 3).apply(params, state, x, key, True)[0], at if at is y else stack(outputs))
    assert not jnp.array_equal(outputs[0] == 0, outputs[1] == 0)


# Merges.


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        (jl.concat, lambda a, b, c: jnp.concatenate([a, b, c], -1)),
        (jl.add, lambda a, b, c: a + b + c),
        (jl.multiply, lambda a, b, c: a * b * c),
        (jl.average, lambda a, b, c: (a + b + c) / 3),
        (jl.maximum, lambda a, b, c: jnp.maximum(jnp.maximum(a, b), c)),
        (jl.minimum, lambda a, b, c: jnp.minimum(jnp.minimum(a, b), c)),
    ],
)
def test_a_merge_is_what_one_writes_by_hand(make, by_hand):
    x, dense, rnn = array(STEPS), jl.Dense(2), jl.SimpleRNN(2)
    merged = make(dense, rnn, late=dense)
    params, state = ready(merged, x)
    names = {"dense": dense, "simple_rnn": rnn, "late": dense}
    ys = [layer.apply(params[name], {}, x)[0] for name, layer in names.items()]
    close(merged.apply(params, state, x)[0], by_hand(*ys), 1e-6)
    same(make().apply({}, {}, tuple(ys))[0], by_hand(*ys))
    same(jl.branch(**names).init(jax.random.key(2), x), merged.init(jax.random.key(2), x))


def test_a_dict_is_merged_in_the_order_of_its_keys_whatever_wraps_it():
    x, fork = array(STEPS), jl.branch(zeta=jnp.sin, alpha=jnp.cos)
    for inner in (fork, jl.remat(fork), jl.each_step(fork)):
        y, _ = jl.serial(inner, jl.concat()).apply({}, {}, x)
        close(y, jnp.concatenate([jnp.cos(x), jnp.sin(x)], -1), 1e-6)


# Names and keys.


def test_the_key_of_a_child_is_folded_with_a_hash_that_no_process_changes():
    key, glorot = jax.random.key(5), jax.nn.initializers.glorot_uniform()
    params, _ = jl.serial(jl.Dense(4)).init(key, array(ROWS))
    child = jax.random.fold_in(key, 1448675971)  # the first four bytes of blake2b of the name
    same(params["dense"]["kernel"], glorot(jax.random.fold_in(child, 1361490247), (3, 4)))


@pytest.mark.parametrize(
    "make",
    [
        lambda **layers: jl.serial(**layers),
        lambda **layers: jl.serial(*layers.values()),
        lambda **layers: jl.branch(**layers),
        lambda **layers: jl.serial(lambda x: (x,) * len(layers), jl.parallel(*layers.values())),
        lambda **layers: jl.compose(lambda f, x: [f[n](x) for n in f.children], **layers),
        lambda **layers: jl.repeat(jl.serial(**layers), 2),
    ],
    ids=["serial", "positional", "branch", "parallel", "compose", "repeat"],
)
def test_a_sibling_more_or_less_changes_nobody_elses_values(make):
    layers = {"residual": block(), "conv": jl.Conv(3, 1), "layer_norm": jl.LayerNorm()}
    key, x = jax.random.key(2), array(STEPS)
    whole = paths(make(**layers).init(key, x))
    for gone in layers:
        kept = {name: layer for name, layer in layers.items() if name != gone}
        wanted = {path: leaf for path, leaf in whole.items() if f"/{gone}/" not in path}
        same(paths(make(**kept).init(key, x)), wanted)
        same(paths(make(**dict(reversed(kept.items()))).init(key, x)), wanted)


def test_a_sibling_more_or_less_changes_nobody_elses_dropout():
    x, key = jnp.ones((4, 16)), jax.random.key(3)
    layers = {"a": jl.Dropout(0.5), "b": jl.Dropout(0.5), "c": jl.serial(jl.Dropout(0.5), jnp.exp)}

    def outputs(layers):
        return jl.branch(**layers).apply({}, {}, x, key, True)[0]

    whole = outputs(layers)
    assert not jnp.array_equal(whole["a"], whole["b"])
    for gone in layers:
        kept = {name: layer for name, layer in layers.items() if name != gone}
        same(outputs(kept), {name: whole[name] for name in kept})
    y, _ = jl.serial(jnp.exp, a=jl.Dropout(0.5), last=jnp.sinh).apply({}, {}, x, key, True)
    same(y == 0, whole["a"] == 0)


def test_a_body_draws_for_itself_and_a_child_called_again_draws_again():
    def drawing(f, x):
        keys = [f.key(), f.key()]
        keys = jnp.stack([*keys, *jax.random.split(keys[0]), *jax.random.split(keys[1])])
        return jax.random.key_data(keys)

    def calling(f, x):
        return f.drop(x), f.drop(x), drawing(f, x), f.draw(x), f.draw(x)

    x, key = jnp.ones((4, 16)), jax.random.key(3)
    many = jl.compose(calling, drop=jl.Dropout(0.5), draw=jl.compose(drawing))
    (first, second, *keys), _ = many.apply({}, {}, x, key, True)
    assert not jnp.array_equal(first, second)
    assert len(np.unique(np.concatenate(keys), axis=0)) == 18


# Transparent wrappers.


@pytest.mark.parametrize(
    ("wrap", "n"), [(jl.remat, ()), (jl.each_step, ()), (jl.repeat, (2,)), (jl.ensemble, (2,))]
)
def test_a_wrapper_changes_no_path(wrap, n):
    x, key = array(STEPS), jax.random.key(6)
    bare = jl.branch(jl.Dense(3), block(), jl.Dense(3))
    wrapped = jl.branch(wrap(jl.Dense(3), *n), wrap(block(), *n), jl.Dense(3))
    assert list(wrapped.children) == list(bare.children) == ["dense", "residual", "dense_1"]
    old, new = paths(bare.init(key, x)), paths(wrapped.init(key, x))
    assert list(new) == list(old)
    for path, leaf in new.items():
        copied = () if "/dense_1/" in path and "residual" not in path else n
        assert leaf.shape == (*copied, *old[path].shape)
        assert copied or jnp.array_equal(leaf, old[path])


def test_remat_and_each_step_keep_values_and_keys():
    layer = jl.serial(jl.Dense(3), jl.BatchNorm(), jl.Dropout(0.5))
    x, key = array((10, 3)), jax.random.key(7)
    params, state = ready(layer, x)
    wanted = results(layer, params, state, x, key=key)
    close(results(jl.remat(layer), params, state, x, key=key), wanted)
    steps = results(jl.each_step(layer), params, state, x.reshape(STEPS), key=key)
    close(steps | {what: steps[what].reshape(10, 3) for what in "xy"}, wanted)


def test_repeat_stores_no_elementwise_operations():
    block = jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(64), jax.nn.gelu, jl.Dense(16)))
    x = jnp.ones((32, 16))

    def temporaries(**options):
        layer = jl.repeat(block, 8, **options)
        params, state = layer.init(jax.random.key(0), x)
        loss = jax.grad(lambda params: layer.apply(params, state, x)[0].sum())
        return jax.jit(loss).lower(params).compile().memory_analysis().temp_size_in_bytes

    wide = 8 * 32 * 64 * 4  # what the first dense layers give, and what GELU gives, are stored
    assert temporaries() < temporaries(remat=False) - 2 * wide
