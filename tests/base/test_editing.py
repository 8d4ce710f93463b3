"""args and replace, and layers inside a layer: by path, by number, by slices."""

import inspect
import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from tables.instances import INSTANCES, VECTOR

import jlayers as jl
from jlayers.base import answers_surgery

KEY = jax.random.key(0)
FAST = {name: row for name, row in INSTANCES.items() if not row.full}
MODEL = jl.serial(
    jl.Dense(6), jnp.tanh, jl.Dense(6), jl.repeat(jl.residual(jl.Dense(6)), 2), head=jl.Dense(3)
)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)


def outline(model):
    return repr(model), [(path, layer.kind, layer.maker) for path, layer in jl.walk(model)]


def test_replace_without_changes_builds_every_layer_of_the_table_again():
    for row in INSTANCES.values():
        again = row.layer.replace()
        assert again is not row.layer
        assert outline(again) == outline(row.layer)
    for row in FAST.values():
        tables = [jl.parameters(layer, row.x) for layer in (row.layer, row.layer.replace())]
        assert [*tables[0]] == [*tables[1]]
        for one, other in zip(tables[0].values(), tables[1].values(), strict=True):
            assert (one.shape, one.dtype, one.key_path) == (
                other.shape,
                other.dtype,
                other.key_path,
            )


def test_args_have_every_name_of_the_signature():
    for row in INSTANCES.values():
        made = getattr(jl, row.layer.maker, None)
        if getattr(made, "__jlayers_factory__", False):
            assert [*row.layer.args] == [*inspect.signature(made).parameters]


@pytest.mark.parametrize("name", ["dense", "self-attention", "lstm", "remat", "compose with state"])
def test_replace_without_changes_computes_the_same(name):
    layer, x = FAST[name].layer, FAST[name].x
    x = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), x)
    params, state = layer.init(KEY, x)
    again, state_again = layer.replace().init(KEY, x)
    assert jax.tree.all(jax.tree.map(np.array_equal, (params, state), (again, state_again)))
    y = layer.apply(params, state, x)
    assert jax.tree.all(jax.tree.map(np.array_equal, y, layer.replace().apply(params, state, x)))


def test_args_are_read_only_and_hold_what_was_given_and_the_defaults():
    layer = jl.Dense(64, bias=False)
    assert layer.args["features"] == 64
    assert layer.args["bias"] is False
    assert layer.args["axis"] == -1
    with pytest.raises(TypeError):
        layer.args["features"] = 3
    named = jl.serial(jl.Dense(2), head=jl.Dense(3)).args
    assert (named["layers"][0].args["features"], [*named["named"]]) == (2, ["head"])
    with pytest.raises(TypeError):
        named["named"]["head"] = jl.Dense(4)
    assert dict(jl.Layer(lambda key, x: ({}, {}), lambda *a, **k: None).args) == {}
    assert dict(jl.lift(jnp.tanh).args) == {}
    wrapped = jl.repeat(jl.Dense(3), 2, shared=True).args
    assert (wrapped["n"], wrapped["remat"], wrapped["shared"]) == (2, None, True)


def test_replace_changes_an_argument_and_keeps_the_name_in_the_parent():
    wide = MODEL["dense_1"].replace(features=8)
    assert repr(wide) == "Dense(8)"
    renamed = jl.rewrite(MODEL, "tanh", lambda layer: jl.Dense(6))
    assert renamed["tanh"].kind == "tanh"
    assert renamed["tanh"].replace(features=5).kind == "tanh"
    assert [*jl.rewrite(renamed, "tanh", lambda layer: layer.replace(bias=False)).children] == [
        *MODEL.children
    ]
    assert repr(jl.repeat(jl.Dense(3), 2).replace(n=6)) == "repeat(Dense(3), 6)"
    both = jl.residual(jl.Dense(3)).replace(shortcut=jl.Dense(3), layer=jl.Dense(3, bias=False))
    assert repr(both) == "residual(Dense(3, bias=False), Dense(3))"
    assert wide.site.rpartition("/")[2].startswith("test_editing.py:")


def test_replace_changes_children_by_name():
    changed = MODEL.replace(dense_1=jl.Conv(6, 1), head=jl.Dense(9))
    assert [*changed.children] == [*MODEL.children]
    assert (changed["dense_1"].maker, changed["head"].args["features"]) == ("Conv", 9)

    @jl.factory
    def MLP(width, depth=2):
        return jl.serial(*[jl.Dense(width) for _ in range(depth)])

    deeper = MLP(4).replace(depth=3, dense_1=jl.Dense(7))
    assert repr(deeper) == "serial(Dense(4), Dense(7), Dense(4))"
    assert repr(MLP(4).replace(depth=3)) == "MLP(4, 3)"
    assert repr(jl.serial(MLP(4))["mlp"]) == "MLP(4)"
    listed = jl.serial(jl.Dense(2), head=jl.Dense(3)).replace(layers=[jl.Dense(5)], named={})
    assert repr(listed) == "serial(Dense(5))"
    named = jl.compose(lambda f, x: x, name="one").replace(name="two")
    assert named.kind == "two"


def test_layers_inside():
    assert MODEL["head"] is MODEL[-1] is MODEL[4] is MODEL[np.int64(4)] is MODEL.children["head"]
    assert MODEL[""] is MODEL
    # Of a wrapper and the layer inside, which have one path, the one that the parent has.
    assert MODEL["residual"].maker == "repeat"
    assert repr(MODEL["residual/body"]) == "Dense(6)"
    assert all(path in MODEL for path, _ in jl.walk(MODEL))
    assert "residual/dense" not in MODEL
    # An iterator is still the pair.
    init, apply = MODEL
    assert (init, apply) == (MODEL.init, MODEL.apply)
    with pytest.raises(TypeError):
        len(MODEL)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, -1, "head", "dense_1"])
def test_slices_one_after_the_other_are_the_whole(at):
    first, last = MODEL[:at], MODEL[at:]
    assert [*first.children, *last.children] == [*MODEL.children]
    params, state = MODEL.init(KEY, X)
    expected, _ = MODEL.apply(params, state, X)
    y = X
    for part in (first, last):
        own = {name: params[name] for name in part.children if name in params}
        y, _ = part.apply(own, {}, y)
    assert np.array_equal(y, expected)
    joined = jl.serial(**first.children, **last.children)
    assert np.array_equal(joined.apply(params, state, X)[0], expected)


def test_slices_keep_names_through_further_slices_and_pickles():
    part = MODEL[1:4][1:]
    assert [*part.children] == ["dense_1", "residual"]
    assert [*part[:1].children] == ["dense_1"]
    assert [*MODEL["dense_1":"head"].children] == ["dense_1", "residual"]
    assert [*MODEL[::2].children] == ["dense", "dense_1", "head"]
    assert repr(MODEL[:1]) == "serial(Dense(6))"
    again = pickle.loads(pickle.dumps(part))
    assert outline(again) == outline(part)
    # A child that has changed its layer, but not its name.
    renamed = jl.rewrite(MODEL, "dense_1", jl.remat)[1:3]
    assert [*renamed.children] == ["tanh", "dense_1"]

    @jl.factory
    def MLP(width):
        return jl.serial(jl.Dense(width), jl.Dense(width))

    assert repr(MLP(3)[1:]) == "serial(dense_1=Dense(3))"


def test_slices_of_a_table_row_have_its_parameters():
    model = jl.serial(jl.Dense(4), jl.BatchNorm(), jl.Dense(3), jl.BatchNorm())
    params, state = model.init(KEY, VECTOR)
    mine, own = model[2:].init(KEY, VECTOR)
    assert jax.tree.map(np.array_equal, params["dense_1"], mine["dense_1"])
    assert [*own] == ["batch_norm_1"]
    assert [*state] == ["batch_norm", "batch_norm_1"]


WORDS = {
    "get_submodule": "model['encoder/attend'], by path or by number",
    "named_modules": "jl.walk(model), every layer with its path",
    "parameters": "jl.flatten(params), arrays by path; a layer has none itself",
    "pop": "model[:-1], another model",
    "eval": "apply(..., train=False), the default; jl.inference(model) whatever it says",
}


@pytest.mark.parametrize("word", WORDS)
def test_attributes_of_other_libraries_modules(word):
    with pytest.raises(AttributeError) as caught:
        getattr(MODEL, word)
    assert str(caught.value) == f"a Layer has no attribute {word!r}\n  hint:     {WORDS[word]}"
    assert not any(hasattr(MODEL, word) for word in answers_surgery.OF_A_LAYER)


def test_other_attributes_have_no_hint():
    with pytest.raises(AttributeError, match=r"^a Layer has no attribute 'zzz'$"):
        MODEL.zzz  # noqa: B018
    assert not hasattr(MODEL, "_zzz")
    assert not hasattr(MODEL, "shape")


@jl.factory
def Deep(depth):
    return jl.serial(*[jl.Dense(2) for _ in range(depth)])


HAND_WRITTEN = jl.Layer(lambda key, x: ({}, {}), lambda *args, **kwargs: None, name="mine")

CASES = [
    (
        lambda: jl.Dense(3).replace(units=4),
        "Dense: has no argument 'units'",
        "expected: arguments features, axis, bias, kernel_init, bias_init",
        "hint:     features=4",
    ),
    (lambda: jl.Dense(3).replace(feature=4), "Dense: has no argument 'feature'", "features=4"),
    (
        lambda: jl.Dense(3).replace(features=0),
        "Dense: features must be a positive int, got 0",
    ),
    (
        lambda: jl.repeat(jl.Dense(3), 2).replace(layers=3),
        "repeat: has no argument 'layers'",
        "expected: arguments layer, n, remat, shared",
        "hint:     n=3",
    ),
    (
        lambda: MODEL.replace(haed=jl.Dense(3)),
        "serial: has no argument 'haed' and no such child",
        "expected: arguments layers, named, head; children dense, tanh, dense_1, residual",
        "hint:     did you mean 'head'?",
    ),
    (
        lambda: MODEL.replace(head=jnp.tanh),
        "serial: the child 'head' must be a layer, got *tanh",
        "hint:     jl.lift(function)",
    ),
    (lambda: MODEL.replace(dense=3), "serial: the child 'dense' must be a layer, got 3"),
    (
        lambda: Deep(3).replace(depth=1, dense_2=jl.Dense(4)),
        "Deep: has no argument 'dense_2' and no such child",
        "expected: arguments depth; children dense",
    ),
    (lambda: MODEL.replace(self=3), "serial: has no argument 'self' and no such child"),
    (lambda: MODEL.replace(layers=3), "serial: layers must be all of them, (*", "got:      3"),
    (lambda: MODEL.replace(named=[3]), "serial: named must be all of them, {head: Dense(3)}"),
    (
        lambda: HAND_WRITTEN.replace(features=3),
        "mine: was not built by a factory, and has no arguments that could be replaced",
        "hint:     jl.factory on the function that builds it; jl.rewrite for another layer",
    ),
    (lambda: jl.lift(jnp.tanh).replace(x=3), "tanh: was not built by a factory*"),
    (
        lambda: MODEL["haed"],
        "serial: has no layer 'haed' inside",
        "got:      inside: dense, tanh, dense_1, residual, head",
        "hint:     did you mean 'head'?",
    ),
    (
        lambda: MODEL["residual/bdy"],
        "serial: has no layer 'residual/bdy' inside",
        "got:      residual: body",
        "hint:     did you mean 'residual/body'?",
    ),
    (lambda: MODEL["body"], "serial: has no layer 'body' inside", "there is 'residual/body'"),
    (
        lambda: MODEL["head/kernel"],
        "serial: has no layer 'head/kernel' inside",
        "got:      head: no layers",
    ),
    (
        lambda: MODEL["**/dense*"],
        "serial: has no layer '**/dense*' inside",
        "hint:     jl.select_layers(model, '**/dense*') for a pattern",
    ),
    (lambda: MODEL[5], "serial: has no layer 5: it has 5", "dense, tanh, dense_1"),
    (lambda: MODEL[-6], "serial: has no layer -6: it has 5"),
    (lambda: jl.Dense(3)[0], "Dense: has no layer 0: it has 0", "got:      no layers inside"),
    (
        lambda: MODEL[None],
        "serial: a layer inside is found by a path, a number or a slice",
        "got:      None",
    ),
    (lambda: MODEL[True], "serial: a layer inside is found by a path, a number or a slice"),
    (lambda: MODEL[0, 1], "serial: a layer inside is found by a path, a number or a slice"),
    (lambda: 3 in MODEL, "serial: a layer inside is found by its path", "got:      3"),
    (
        lambda: jl.repeat(jl.Dense(3), 4)[0],
        "repeat: has 4 copies of one layer, which cannot be taken one by one",
        "got:      Dense(3)",
        "hint:     layer.replace(n=...) for another number; layer.children[''][0] inside one",
    ),
    (lambda: jl.repeat(jl.Dense(3), 4)[:2], "repeat: has 4 copies of one layer*"),
    (
        lambda: jl.remat(MODEL)[:2],
        "remat: wraps a layer, and has no others that could be taken",
        "hint:     layer.children[''][:] for a part of that layer, without the wrapper",
    ),
    (
        lambda: jl.branch(jl.Dense(3), jl.Dense(4))[:1],
        "branch: cannot be sliced: its layers are not one after the other",
        "expected: a serial",
        "got:      dense, dense_1",
        "hint:     by its name or its number: layer['dense']",
    ),
    (lambda: jl.Dense(3)[:1], "Dense: cannot be sliced*", "got:      no layers inside"),
    (lambda: MODEL[:"haed"], "serial: has no layer 'haed' inside", "did you mean 'head'?"),
    (lambda: MODEL[:1.5], "serial: cannot be sliced: slice indices must be integers*"),
    (lambda: MODEL[::0], "serial: cannot be sliced: slice step cannot be zero"),
]


@each(CASES)
def test_errors(case):
    read(case)


def test_the_path_is_in_what_a_factory_says_of_a_new_child():
    with pytest.raises(jl.LayerError, match=r"features must be"):
        MODEL["head"].replace(features=-1)
    assert operator.length_hint(MODEL, 7) == 7
