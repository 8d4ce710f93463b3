"""diff: what differs between two models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES

import jlayers as jl

X = jl.spec((2, 4))


@jl.factory
def MLP(width, depth=2):
    return jl.serial(*[jl.Dense(width) for _ in range(depth)])


def scaled(by, width):
    def body(f, x):
        return by * f.dense(x)

    return jl.compose(body, dense=jl.Dense(width))


def recursive(depth):
    def halved(x, left=depth):
        return x if left == 0 else halved(x / 2, left - 1)

    return jl.serial(halved)


def lines(a, b, x=None):
    return str(jl.diff(a, b, x)).splitlines()


def test_every_layer_of_the_table_is_like_itself_built_again():
    for row in INSTANCES.values():
        found = jl.diff(row.layer, row.layer.replace())
        assert not found
        assert len(found) == 0
        assert str(found) == "no differences"


@pytest.mark.parametrize("name", ["dense", "lstm", "self-attention", "remat"])
def test_no_layer_of_the_table_is_like_another_one(name):
    first = INSTANCES[name].layer
    for other, row in INSTANCES.items():
        assert bool(jl.diff(first, row.layer)) == (other != name)


def test_arguments_by_path():
    old = jl.serial(jl.Dense(4), block=jl.repeat(jl.residual(jl.Dense(4)), 3), head=jl.Dense(2))
    new = jl.serial(
        jl.Dense(4, bias=False),
        block=jl.repeat(jl.residual(jl.Dense(4, kernel_init=jax.nn.initializers.ones)), 5),
        head=jl.Dense(2),
    )
    assert lines(old, new) == [
        "~ dense       bias True -> False",
        "~ block       n 3 -> 5",
        "~ block/body  kernel_init jax.nn.initializers.variance_scaling(scale=1.0, "
        "mode='fan_avg', dist ... -> jax.nn.initializers.ones",
    ]
    # Given by name or by position, and as the default: the same.
    assert not jl.diff(jl.Dense(4), jl.Dense(features=4, bias=True))
    assert lines(MLP(4), MLP(5)) == [
        "~ (model)  width 4 -> 5",
        "~ dense    features 4 -> 5",
        "~ dense_1  features 4 -> 5",
    ]


def test_layers_in_one_model_only():
    old = jl.serial(jl.Dense(4), jl.Dropout(0.1), tail=jl.serial(jl.Dense(3), jl.Dense(2)))
    new = jl.serial(jl.Dense(4), jl.LayerNorm(), more=MLP(3))
    # What is inside a layer that is not there is part of it.
    assert lines(old, new) == [
        "- dropout     Dropout(0.1)",
        "- tail        serial(Dense(3), Dense(2))",
        "+ layer_norm  LayerNorm()",
        "+ more        MLP(3)",
    ]
    first = next(iter(jl.diff(old, new)))
    assert first == ("dropout", "only in a", "Dropout(0.1)", None)


def test_other_layers_wrappers_and_orders():
    old = jl.serial(a=jl.Dense(4), b=jl.Dense(4))
    assert lines(old, old.replace(a=jl.Conv(4, 1))) == ["~ a  Dense(4) -> Conv(4, 1)"]
    assert lines(old, jl.rewrite(old, "b", jl.remat)) == ["+ b  in remat(Dense(4))"]
    assert lines(jl.rewrite(old, "b", jl.remat), old) == ["- b  in remat(Dense(4))"]
    assert lines(old, jl.serial(b=jl.Dense(4), a=jl.Dense(4))) == ["~ (model)  order a, b -> b, a"]
    # A layer in place of one that has layers inside.
    assert lines(jl.serial(a=MLP(3)), jl.serial(a=jl.Dense(3))) == ["~ a  MLP(3) -> Dense(3)"]
    # The same layers inside another maker.
    assert lines(MLP(3), MLP(3)[:]) == ["~ (model)  MLP(3) -> serial(Dense(3), Dense(3))"]
    assert lines(jl.RNN(jl.GRUCell(3)), jl.RNN(jl.GRUCell(4))) == [
        "~ (model)  cell GRUCell(3) -> GRUCell(4)"
    ]


def test_functions_are_compared_by_code_and_what_they_hold():
    assert not jl.diff(scaled(2.0, 3), scaled(2.0, 3))
    assert (
        lines(scaled(2.0, 3), scaled(3.0, 3))
        == ["~ (model)  body scaled(by=2.0, width=3) -> scaled(by=3.0, width=3)"]
        or "body" in lines(scaled(2.0, 3), scaled(3.0, 3))[0]
    )
    assert jl.diff(jl.serial(lambda x: x), jl.serial(lambda x: 2 * x))
    softmax = functools.partial(jax.nn.softmax, axis=-1)
    assert not jl.diff(jl.serial(softmax), jl.serial(functools.partial(jax.nn.softmax, axis=-1)))
    assert jl.diff(jl.serial(softmax), jl.serial(functools.partial(jax.nn.softmax, axis=0)))
    assert not jl.diff(jnp.tanh, jnp.tanh)
    assert not jl.diff(recursive(2), recursive(2))
    assert jl.diff(recursive(2), recursive(3))
    own = jl.Layer(lambda key, x: ({}, {}), lambda params, state, x, *, key, train: (x, state))
    other = jl.Layer(own._call.args[0], lambda params, state, x, *, key, train: (2 * x, state))
    assert not jl.diff(own, jl.Layer(*own._call.args))
    assert [row.what for row in jl.diff(own, other)] == ["apply"]


def test_arrays_and_objects_are_compared_by_value():
    def masked(mask):
        return jl.Conv(2, 3, kernel_mask=np.array(mask))

    assert not jl.diff(masked([[[1, 1]]]), masked([[[1, 1]]]))
    assert [row.what for row in jl.diff(masked([[[1, 1]]]), masked([[[1, 0]]]))] == ["kernel_mask"]

    def attend(base):
        return jl.SelfAttention(2, rope=jl.Rope(base))

    assert not jl.diff(attend(100.0), attend(100.0))
    assert [row.what for row in jl.diff(attend(100.0), attend(200.0))] == ["rope"]
    assert not jl.diff(jl.Dropout(0), jl.Dropout(0.0))


def test_shapes_of_arrays_for_an_input():
    old = jl.serial(jl.Dense(4), jl.BatchNorm(), head=jl.Dense(2))
    new = jl.serial(jl.Dense(5), jl.BatchNorm(), head=jl.Dense(2))
    found = jl.diff(old, new, X)
    assert str(found).splitlines() == [
        "~ dense             features 4 -> 5",
        "~ dense/kernel      float32[4, 4] -> float32[4, 5]",
        "~ dense/bias        float32[4] -> float32[5]",
        "~ batch_norm/scale  float32[4] -> float32[5]",
        "~ batch_norm/bias   float32[4] -> float32[5]",
        "~ head/kernel       float32[4, 2] -> float32[5, 2]",
        "~ batch_norm/mean   float32[4] -> float32[5]",
        "~ batch_norm/var    float32[4] -> float32[5]",
    ]
    assert {row.what for row in found.rows[1:]} == {"array"}
    assert "- head/bias  float32[2]" in lines(old, old.replace(head=jl.Dense(2, bias=False)), X)
    assert not jl.diff(old, old.replace(), X)


def test_errors():
    with pytest.raises(jl.LayerError, match="expected a layer, got 3"):
        jl.diff(jl.Dense(3), 3)
    with pytest.raises(jl.LayerError, match=r"diff: unknown argument 'y'"):
        jl.diff(jl.Dense(3), jl.Dense(3), y=3)
    with pytest.raises(jl.LayerError, match="Conv: "):
        jl.diff(jl.Dense(3), jl.Conv(3, 9), jl.spec((3,)))


def test_precision_is_one_line():
    model = jl.serial(jl.Dense(4), block=jl.residual(jl.serial(jl.Dense(4), jax.nn.relu)))
    mixed, other = (jl.transforms.precision(model, rules) for rules in ("mixed", "bfloat16"))
    assert lines(model, mixed) == ["+ (model)  in precision(rules='mixed')"]
    assert lines(mixed, model) == ["- (model)  in precision(rules='mixed')"]
    assert lines(mixed, other) == ["~ (model)  rules 'mixed' -> 'bfloat16'"]
    assert not jl.diff(mixed, jl.transforms.precision(model, "mixed"))
    wider = jl.transforms.precision(model.replace(dense=jl.Dense(8)), "mixed")
    assert "~ dense  features 4 -> 8" in lines(mixed, wider)
    assert len(lines(model, wider)) == 2
    edited = jl.rewrite(mixed, "dense", lambda _: jl.Dense(8))
    assert [line.split("  ")[-1] for line in lines(mixed, edited)] == [
        "rules 'mixed' -> not given",
        "rule not given -> Precision(output='input')",
        "features 4 -> 8",
    ]


def test_what_a_factory_builds_around_a_layer_is_compared():
    @jl.factory
    def Outer(layer, tail):
        return jl.remat(jl.serial(layer, tail()))

    found = lines(Outer(jl.Dense(4), jl.LayerNorm), Outer(jl.Dense(4), jl.RMSNorm))
    assert any("layer_norm" in line for line in found)
    assert any("rms_norm" in line for line in found)
