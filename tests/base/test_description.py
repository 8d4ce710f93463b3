"""repr, summary, FLOPs, paths, and rewriting by path."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers.base.paths import matches

NAMESPACE = {**vars(jl), "jax": jax, "functools": functools}

MODELS = [
    jl.serial(jl.Dense(64), jax.nn.relu, head=jl.Dense(10, bias=False)),
    jl.Conv(8, (3, 1), strides=2, padding=((1, 1), (0, 0)), kernel_init=jax.nn.initializers.ones),
    jl.LSTM(4, recurrent_init=jax.nn.initializers.normal(stddev=0.02)),
    jl.Dense(3, kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")),
    jl.repeat(jl.residual(jl.Dense(4)), 3, remat=True),
    jl.repeat(jl.Dense(4), 2, remat=jax.checkpoint_policies.dots_saveable),
    jl.remat(jl.Dense(4), jax.checkpoint_policies.nothing_saveable),
    jl.residual(jl.Dense(3), jl.Dense(3)),
    jl.bidirectional(jl.GRU(3), jl.add()),
    jl.concat(jl.Dense(3), jnp.tanh, axis=1),
    jl.parallel(a=jl.Dense(3), b=jl.serial()),
    jl.serial(functools.partial(jax.nn.softmax, axis=-1), jax.numpy.square),
]


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
def test_repr_is_the_code_that_builds_it(model):
    text = repr(model)
    again = eval(text, NAMESPACE)
    assert repr(again) == text
    assert [path for path, _ in jl.walk(again)] == [path for path, _ in jl.walk(model)]


def test_a_layer_is_a_value():
    model = MODELS[0]
    assert copy.copy(model) is copy.deepcopy(model) is model
    assert {model: 1}[model] == 1
    init, apply = model
    assert (init, apply) == (model.init, model.apply)


def test_repr_breaks_long_calls_into_lines():
    model = jl.serial(*[jl.Dense(100)] * 8, head=jl.serial(*[jl.Dense(100)] * 8))
    assert max(map(len, repr(model).splitlines())) < 100
    assert eval(repr(model), NAMESPACE).children.keys() == model.children.keys()


def _scaled(*factors):
    def scale(x):
        return factors[0] * x

    return scale


def test_repr_of_what_has_no_code():
    assert repr(jl.serial(_scaled(2.0))) == "serial(_scaled.<locals>.scale)"
    assert repr(jl.serial(lambda x: x)).startswith("serial(<lambda test_description.py:")


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, w: x @ w, [(32, 784), (784, 10)], 2 * 32 * 784 * 10),
        (lambda x: jnp.tanh(x) + x, [(4, 5)], 40),
        (lambda x: x.sum(), [(4, 5)], 20),
        (lambda x: x.reshape(5, 4).T, [(4, 5)], 0),
        (lambda x: jnp.where(x > 0, x, -x), [(4, 5)], 20),
        (jax.nn.relu, [(4, 5)], 20),
        (jax.jit(lambda x: x + x), [(4, 5)], 20),
        (jax.vmap(lambda x: x @ x), [(3, 4, 4)], 2 * 3 * 4**3),
        (jax.checkpoint(lambda x: x + x), [(4, 5)], 20),
        (lambda x: jax.lax.scan(lambda c, a: (c + a, c * a), x[0], x), [(7, 3)], 7 * 6),
        (
            lambda x: jax.lax.cond(True, lambda x: x, lambda x: x * x + x, x),
            [(4, 5)],
            40,
        ),
    ],
)
def test_flops(function, shapes, expected):
    assert jl.flops(function, *map(jl.spec, shapes)) == expected


def test_flops_of_convolutions_count_every_multiply_add():
    def count(**options):
        layer = jl.Conv(8, 3, bias=False, **options)
        apply = jl.without_state(layer).apply
        x = jl.spec((2, 10, 10, 4))
        params = jax.eval_shape(jl.without_state(layer).init, jax.random.key(0), x)
        return jl.flops(apply, params, x)

    assert count() == 2 * (2 * 8 * 8 * 8) * (3 * 3 * 4)
    assert count(groups=4) == 2 * (2 * 8 * 8 * 8) * (3 * 3)


def test_summary_is_right_under_repeat_and_ensemble_and_two_calls():
    def twice(f, x):
        return f.inner(f.inner(x))

    block = jl.compose(twice, inner=jl.Dense(6))
    model = jl.serial(jl.repeat(block, 5), jl.ensemble(jl.Dense(3, bias=False), 4))
    table = jl.summary(model, jl.spec((2, 6)))
    rows = {row.path: row for row in table.rows}
    assert rows["compose/inner"].parameters == 5 * (6 * 6 + 6)
    assert rows["compose/inner"].flops == 5 * 2 * (2 * 2 * 6 * 6 + 2 * 6)
    assert rows["dense"].parameters == 4 * 6 * 3
    assert rows["dense"].flops == 4 * 2 * 2 * 6 * 3
    assert table.flops == sum(row.flops for row in table.rows)
    params, _ = model.init(jax.random.key(0), jl.spec((2, 6)))
    assert table.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert table.bytes == 4 * table.parameters


def test_summary_accounts_for_own_parameters_state_and_wiring():
    def body(f, x):
        return f.dense(x) * f.param("gain", jax.nn.initializers.ones, (1, 3))

    model = jl.serial(jl.compose(body, dense=jl.Dense(3)), jl.residual(jl.BatchNorm()))
    table = jl.summary(model, jl.spec((2, 4)))
    assert table.parameters == (4 * 3 + 3) + 3 + 6
    assert table.state_bytes == 4 * 6
    assert sum(row.parameters for row in table.rows) == table.parameters
    text = str(table)
    assert "compose: gain" in text
    assert "(between layers)" in text
    assert "total" in text.splitlines()[-1]


def test_summary_of_a_layer_that_always_draws():
    noise = jl.compose(lambda f, x: x + jax.random.normal(f.key(), x.shape))
    assert jl.summary(noise, jl.spec((2, 4))).flops > 0


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a/b/kernel", "**/kernel", True),
        ("kernel", "**/kernel", True),
        ("a/b/kernel", "a/**", True),
        ("a", "a/**", False),
        ("a/b/c", "a/*/c", True),
        ("a/b/b/c", "a/*/c", False),
        ("a/b/b/c", "a/**/c", True),
        ("dense_12", "dense_1?", True),
        ("dense_12/bias", "dense_1?", False),
        ("a/b", "**", True),
        ("a/B", "a/b", False),
    ],
)
def test_patterns(path, pattern, fits):
    assert matches(path, pattern) is fits


def test_flatten_and_unflatten():
    params, _ = jl.serial(jl.Dense(3), jl.serial(jl.Dense(2))).init(
        jax.random.key(0), jl.spec((1, 4))
    )
    flat = jl.flatten(params)
    assert list(flat) == ["dense/bias", "dense/kernel", "serial/dense/bias", "serial/dense/kernel"]
    assert jax.tree.all(jax.tree.map(np.array_equal, jl.unflatten(flat), params))
    assert jl.unflatten({}) == {}
    for wrong in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(jl.LayerError, match="the path 'a"):
            jl.unflatten(wrong)


def test_select_masks_an_optax_transform():
    params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    decay = optax.add_decayed_weights(0.1, mask=lambda tree: jl.select(tree, "**/kernel"))
    updates, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
    np.testing.assert_allclose(updates["dense"]["kernel"], 0.1)
    np.testing.assert_allclose(updates["dense"]["bias"], 0)
    with pytest.raises(jl.LayerError, match=r"'\*\*/kernal' fits no path"):
        jl.select(params, "**/kernal")


def test_rewrite_keeps_paths_and_everybody_elses_parameters():
    model = jl.serial(
        jl.Dense(4),
        jl.repeat(jl.residual(jl.serial(jl.Dense(4), jl.Dropout(0.5))), 2),
        jl.concat(jl.Dense(2), jl.Dense(2)),
        head=jl.Dense(3),
    )
    x = jl.spec((2, 4))
    before, _ = model.init(jax.random.key(0), x)

    def scaled(layer):
        return jl.serial(layer, lambda x: 2 * x)

    changed = jl.rewrite(model, "**/dropout", lambda layer: jl.Dropout(0.1))
    assert "Dropout(0.1)" in repr(changed)
    after, _ = changed.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    wrapped = jl.rewrite(model, "**/dense*", jl.remat)
    assert list(jl.flatten(wrapped.init(jax.random.key(0), x)[0])) == list(jl.flatten(before))
    deeper = jl.rewrite(model, "head", scaled)
    assert [*deeper.children] == [*model.children]
    assert "head/dense/kernel" in jl.flatten(deeper.init(jax.random.key(0), x)[0])
    with pytest.raises(jl.LayerError, match="'nowhere' fits no layer"):
        jl.rewrite(model, "nowhere", scaled)
