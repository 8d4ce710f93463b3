"""Selectors of layers: patterns with negation, kinds and predicates, in rewrite and inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from tables.instances import INSTANCES

import jlayers as jl

BLOCK = jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(4), jl.Dropout(0.5)))
MODEL = jl.serial(
    jl.Dense(4), encoder=jl.repeat(BLOCK, 2), head=jl.serial(jl.Dropout(0.5), jl.Dense(3))
)
KEY = jax.random.key(0)


def paths(*selector, **kind):
    return [path for path, _ in jl.select_layers(MODEL, *selector, **kind)]


def test_patterns_and_negation():
    assert paths("**/dense") == ["dense", "encoder/body/dense", "head/dense"]
    assert paths(("**/dense", "!head/**")) == ["dense", "encoder/body/dense"]
    assert paths(["**/dense", "**/dropout", "!**/body/**"]) == [
        "dense",
        "head/dropout",
        "head/dense",
    ]
    # Only what is left out: everything else inside the model.
    assert paths(("!encoder/**", "!encoder")) == ["dense", "head", "head/dropout", "head/dense"]
    # The repeat and the residual inside it.
    assert paths("encoder") == ["encoder", "encoder"]
    assert "" in paths()
    assert "" not in paths("**")


def test_kinds():
    assert paths(kind="dropout") == ["encoder/body/dropout", "head/dropout"]
    assert paths(kind=("*norm", jl.Dropout)) == [
        "encoder/body/layer_norm",
        "encoder/body/dropout",
        "head/dropout",
    ]
    assert paths("head/**", kind=jl.Dropout) == ["head/dropout"]
    assert paths("head/**", kind="!dropout") == ["head/dense"]
    assert paths("head/**", kind=(jl.Dense, "!dropout")) == ["head/dense"]
    # A wrapper has the kind of what is inside, and a factory of its own.
    assert [layer.maker for _, layer in jl.select_layers(MODEL, kind=jl.repeat)] == ["repeat"]
    assert len(jl.select_layers(MODEL, kind="residual")) == 2


def test_predicates():
    assert paths(lambda path, layer: layer.args.get("features") == 3) == ["head/dense"]
    assert paths(lambda path, layer: path.startswith("head/"), kind="d*") == [
        "head/dropout",
        "head/dense",
    ]
    assert paths(lambda path, layer: not path) == [""]


def test_rewriting_with_the_identity_is_the_model():
    for row in INSTANCES.values():
        if jl.lift(row.layer).children:
            assert jl.rewrite(row.layer, change=lambda layer: layer) is row.layer
    assert jl.rewrite(MODEL, "**", lambda layer: layer) is MODEL


def test_rewrite_by_kind_and_predicate_keeps_paths():
    x = jl.spec((2, 4))
    before = jl.flatten(MODEL.init(KEY, x)[0])
    dropped = jl.rewrite(MODEL, kind="dropout", change=lambda layer: jl.serial())
    assert "Dropout" not in repr(dropped)
    after = jl.flatten(dropped.init(KEY, x)[0])
    assert [*after] == [*before]
    assert all(np.array_equal(after[path], before[path]) for path in before)
    wrapped = jl.rewrite(MODEL, kind=jl.Dense, change=jl.remat)
    assert [*jl.flatten(wrapped.init(KEY, x)[0])] == [*before]
    assert (
        jl.rewrite(wrapped, kind=jl.remat, change=lambda layer: layer.children[""]) is not wrapped
    )
    assert repr(
        jl.rewrite(wrapped, kind=jl.remat, change=lambda layer: layer.children[""])
    ) == repr(MODEL)
    # The model itself is of a kind too.
    assert repr(jl.rewrite(jl.Dropout(0.5), kind="dropout", change=lambda _: jl.serial())) == (
        "serial()"
    )
    wide = jl.rewrite(
        MODEL, ("!head", "!head/**"), lambda layer: layer.replace(rate=0.1), kind=jl.Dropout
    )
    assert [layer.args["rate"] for _, layer in jl.select_layers(wide, kind=jl.Dropout)] == [
        0.1,
        0.5,
    ]


def test_transparent_wrappers_keep_the_paths_of_every_layer_of_the_table():
    for row in INSTANCES.values():
        if not row.full:
            wrapped = jl.rewrite(row.layer, lambda path, layer: not layer.children, jl.inference)
            assert wrapped is not row.layer
            assert [*jl.parameters(wrapped, row.x)] == [*jl.parameters(row.layer, row.x)]


def test_of_a_wrapper_and_the_layer_inside_the_inner_is_changed_once():
    calls = []
    jl.rewrite(MODEL, "encoder", lambda layer: calls.append(layer.maker) or layer)
    assert calls == ["residual"]
    # Inner layers before outer ones, each with what became of those inside.
    order = []

    def narrower(layer):
        order.append(layer.short())
        return jl.Dense(2) if layer.maker == "Dense" else layer

    jl.rewrite(MODEL, ("head", "head/**"), narrower)
    assert order == ["Dropout(0.5)", "Dense(3)", "serial(Dropout(0.5), Dense(2))"]


def test_inference_selects_the_outermost_by_the_same_selectors():
    assert repr(jl.inference(MODEL, ("head", "head/**"))) == repr(jl.inference(MODEL, "head"))
    sampled = jl.inference(MODEL, kind="dropout", train=True)
    assert repr(sampled).count("inference(Dropout(0.5), train=True)") == 2
    partly = jl.inference(MODEL, "!encoder/**", kind=jl.Dropout)
    assert repr(partly).count("inference") == 1
    x = jnp.ones((2, 4))
    params, state = sampled.init(KEY, x)
    draws = [sampled.apply(params, state, x, key=jax.random.key(i))[0] for i in range(2)]
    assert not np.array_equal(*draws)
    assert repr(jl.inference(jl.Dropout(0.5), kind="dropout")) == "inference(Dropout(0.5))"


PARAMS = {"body": {"kernel": 1.0, "bias": 2.0}, "head": {"kernel": 3.0, "bias": 4.0}}


def test_arrays_are_selected_by_the_same_patterns():
    chosen = jl.select(PARAMS, "**/bias", "!head/**")
    assert jl.flatten(chosen) == {
        "body/bias": True, "body/kernel": False, "head/bias": False, "head/kernel": False,
    }  # fmt: skip
    kept, others = jl.partition(PARAMS, "!head/**")
    assert (kept, others) == ({"body": PARAMS["body"]}, {"head": PARAMS["head"]})
    assert jl.partition(PARAMS) == ({}, PARAMS)


def same(layer):
    return layer


CASES = [
    (
        lambda: jl.rewrite(MODEL, "dens", same),
        "rewrite: the pattern 'dens' fits no layer",
        "got:      dense, encoder, encoder/body, encoder/body/layer_norm",
        "hint:     did you mean 'dense'?",
    ),
    (lambda: jl.rewrite(MODEL, "dropout", same), "*fits no layer", "hint:     '**/dropout'"),
    (
        lambda: jl.rewrite(MODEL, ("**", "!haed/**"), same),
        "rewrite: the pattern '!haed/**' fits no layer",
        "hint:     did you mean '!head/**'?",
    ),
    (lambda: jl.inference(MODEL, "encodr"), "inference: the pattern 'encodr' fits no layer"),
    (
        lambda: jl.rewrite(MODEL, kind="dropuot", change=same),
        "rewrite: no layer is of the kind 'dropuot'",
        "got:      serial, dense, residual, layer_norm, dropout",
        "hint:     did you mean kind='dropout'?",
    ),
    (
        lambda: jl.select_layers(MODEL, kind=jl.Conv),
        "select_layers: no layer is of the kind 'Conv'",
    ),
    (
        lambda: jl.select_layers(MODEL, kind=jl.Dense(3)),
        "select_layers: a kind must be a text or a factory, got Dense(3)",
        'expected: kind="dropout", or kind=jl.Dropout',
        "hint:     kind='dense'",
    ),
    (lambda: jl.select_layers(MODEL, kind=3), "*a kind must be a text or a factory, got 3"),
    (
        lambda: jl.rewrite(MODEL, "head/dense", same, kind="dropout"),
        "rewrite: no layer is selected",
        "got:      'head/dense', kind='dropout', of 11 layers",
        "hint:     of that kind: encoder/body/dropout, head/dropout",
    ),
    (
        lambda: jl.select_layers(MODEL, ("head", "!head")),
        "select_layers: no layer is selected",
        "got:      'head', '!head', of 11 layers",
    ),
    (lambda: jl.select_layers(MODEL, lambda path, layer: False), "*no layer is selected", "lambda"),
    (
        lambda: jl.rewrite(MODEL, lambda layer: True, same),
        "rewrite: the selector must be a function of (path, layer), got *lambda*",
        "got:      a function of (layer)",
    ),
    (
        lambda: jl.rewrite(MODEL, jl.Dense(3), same),
        "rewrite: expected a selector of layers, got Dense(3)",
        "expected: a pattern, several patterns, or a function of (path, layer)",
    ),
    (lambda: jl.rewrite(MODEL, 3, same), "rewrite: expected a selector of layers, got 3"),
    (lambda: jl.rewrite(MODEL, (), same), "rewrite: no pattern is given", '"**"'),
    (lambda: jl.rewrite(MODEL, (3,), same), "rewrite: a pattern must be a text, got 3"),
    (
        lambda: jl.rewrite(MODEL, same, kind="dropout"),
        "rewrite: change is missing",
        "expected: rewrite(model, selector, change), or rewrite(model, kind=..., change=...)",
        "hint:     change=same",
    ),
    (
        lambda: jl.rewrite(MODEL, "head", jl.Dense(3)),
        "rewrite: change must be a function of the layer, got a layer",
        "hint:     lambda layer: Dense(3)",
    ),
    (lambda: jl.rewrite(MODEL, "head", 3), "rewrite: change must be a function of (layer), got 3"),
    (lambda: jl.rewrite(MODEL, "head", lambda layer: None), "*expected a layer, got None"),
    (
        lambda: jl.inference(MODEL, pattern="head"),
        "inference: unknown argument 'pattern'",
        "hint:     selector='head'",
    ),
    (lambda: jl.select(PARAMS, "!haed/**"), "select: the pattern '!haed/**' fits no path", "!head"),
    (lambda: jl.partition(PARAMS, "body"), "partition: the pattern 'body' fits no path", "body/**"),
]


@each(CASES)
def test_errors(case):
    read(case)


def test_frozen_takes_negation_too():
    optax = pytest.importorskip("optax")
    from jlayers import training

    def loss(y, target):
        return jnp.mean((y - target) ** 2)

    model = jl.serial(body=jl.Dense(4), head=jl.Dense(3))
    x, target = jnp.ones((2, 4)), jnp.zeros((2, 3))
    step = training.train_step(model, loss, optax.sgd(0.1), frozen="!head/**")
    start = step.start(KEY, x)
    after, _ = step(start, (x, target))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start.params, after.params)
    assert moved["head"]["kernel"]
    assert not moved["body"]["kernel"]
    found = jl.inspection.find_non_finite(
        model, loss, after.params, {}, KEY, (x, target), frozen=("!head/**",)
    )
    assert not found
