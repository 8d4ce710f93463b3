"""Rules: what they choose, what they refuse, and where the optimiser's arrays end up."""

import jax
import jax.numpy as jnp
import optax
import pytest
from error_text import each, read
from jax.sharding import AbstractMesh, PartitionSpec

import jlayers as jl
from jlayers import sharding, training

P = PartitionSpec
MESH = AbstractMesh((2, 4), ("data", "model"))
MODEL = jl.serial(
    embed=jl.Embedding(32, 8),
    blocks=jl.repeat(
        jl.serial(
            attend=jl.residual(jl.SelfAttention(2)),
            mlp=jl.serial(jl.Dense(16), jax.nn.gelu, jl.Dense(8)),
        ),
        3,
    ),
    cell=jl.LSTM(8),
    norm=jl.BatchNorm(),
    head=jl.Dense(32),
)
IDS = jl.spec((4, 6), jnp.int32)
ALL = {"**": P()}


def specs(rules, model=MODEL, x=IDS, mesh=MESH):
    return {path: one.spec for path, one in rules.layout(model, x, mesh).placed.items()}


def test_a_table_says_where_a_copy_lies():
    """The axes that repeat stacks in front are whole; the rest is whole; so is the state."""
    table = {"**/query_kernel": P("data", "model"), "head/bias": P("model"), **ALL}
    found = specs(sharding.rules(table))
    assert found["blocks/attend/body/query_kernel"] == P(None, "data", "model")
    assert found["head/bias"] == P("model")
    assert found["head/kernel"] == found["norm/mean"] == P()


def test_tensor_parallel_splits_what_is_computed_apart():
    found = specs(sharding.tensor_parallel("model"))
    attend = "blocks/attend/body"
    assert found["embed/embedding"] == P("model")
    for name in ("query", "key", "value"):
        assert found[f"{attend}/{name}_kernel"] == P(None, None, "model")
        assert found[f"{attend}/{name}_bias"] == P(None, "model")
    assert found[f"{attend}/out_kernel"] == P(None, "model")
    assert found[f"{attend}/out_bias"] == P()
    assert found["blocks/mlp/dense/kernel"] == P(None, None, "model")
    assert found["blocks/mlp/dense/bias"] == P(None, "model")
    assert found["blocks/mlp/dense_1/kernel"] == P(None, "model")
    assert found["blocks/mlp/dense_1/bias"] == P()
    assert found["cell/kernel"] == found["cell/recurrent_kernel"] == P(None, "model")
    assert found["norm/scale"] == found["norm/mean"] == P()


def test_sums_do_not_depend_on_the_order():
    one = sharding.fsdp("data", least=0) + sharding.tensor_parallel("model")
    other = sharding.tensor_parallel("model") + sharding.fsdp("data", least=0)
    assert specs(one) == specs(other)
    assert repr(one) == repr(other) == "tensor_parallel('model') + fsdp('data', least=0)"
    assert specs(one)["head/kernel"] == P("data", "model")
    assert one.batch == P("data")


def test_a_table_overrides_presets():
    both = sharding.rules({"head/kernel": P()}) + sharding.fsdp("data", least=0)
    assert specs(both)["head/kernel"] == P()
    assert specs(both)["cell/kernel"] == P("data")


def test_experts_lie_apart():
    mesh = AbstractMesh((4,), ("expert",))
    model = jl.repeat(jl.MixtureOfExperts(jl.Dense(8), 4), 2)
    found = specs(sharding.expert_parallel("expert"), model, jl.spec((2, 6, 8)), mesh)
    assert found["experts/kernel"] == P(None, "expert")
    assert found["router/kernel"] == P()


def test_what_cannot_be_divided_is_said():
    mesh = AbstractMesh((4,), ("data",))
    text = str(sharding.fsdp("data", least=0).layout(jl.Dense(3), jl.spec((8, 5)), mesh))
    assert "kernel  float32[5, 3]  P()  60 B a device (4 devices do not divide 5 or 3)" in text


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
        optax.masked(optax.adam(1e-3), lambda params: jl.select(params, "**/kernel")),
        optax.multi_transform(
            {"a": optax.adam(1e-3), "b": optax.sgd(0.1)},
            lambda params: jax.tree.map(lambda k: "a" if k else "b", jl.select(params, "head/*")),
        ),
        optax.inject_hyperparams(optax.adam)(1e-3),
    ],
    ids=["adamw", "chain", "masked", "multi", "injected"],
)
def test_moments_lie_where_their_parameters_lie(tx):
    rules = sharding.fsdp("data", least=0) + sharding.tensor_parallel("model")
    step = training.train_step(
        MODEL, lambda y: jnp.mean(y), tx, mesh=MESH, rules=rules, ema=0.9, frozen="embed/**"
    )
    layout, state = step.layout(IDS), step.spec(IDS)
    places, seen = layout.of(state), 0
    flat = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(places), strict=True)
    for (path, leaf), place in flat:
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        own = [name for name in layout.placed if text.endswith(f"/{name}")]
        if own and leaf.shape == layout.placed[own[0]].shape:
            assert place.spec == layout.placed[own[0]].spec, text
            seen += text.startswith("opt_state")
        else:
            assert place.spec == P(), text
    assert seen >= 2


def test_rows_and_columns_of_adafactor():
    """Its two factors of a kernel each have the spec of the axis that is left."""
    model, x = jl.Dense(256), jl.spec((8, 128))
    mesh = AbstractMesh((2, 4), ("data", "model"))
    layout = sharding.rules({"kernel": P("data", "model"), **ALL}).layout(model, x, mesh)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    state = jax.eval_shape(optax.adafactor(1e-3).init, params)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, place.spec)
        for (path, leaf), place in zip(
            jax.tree.leaves_with_path(state), jax.tree.leaves(layout.of(state)), strict=True
        )
    }
    factors = {shape: spec for name, (shape, spec) in found.items() if name.endswith("/kernel")}
    assert factors[(128,)] == P("data")
    assert factors[(256,)] == P("model")


DENSE, X = jl.Dense(6), jl.spec((8, 5))


def layout(rules, model=DENSE, x=X, mesh=MESH):
    return lambda: rules.layout(model, x, mesh)


def of(table, **more):
    return sharding.rules(table, **more)


@each(
    [
        (
            layout(of({"kernel": P("rows"), **ALL})),
            "the mesh has no axis 'rows', which rules({'kernel': P('rows'), '**': P()}) names",
            "expected: 'data', 'model'",
        ),
        (
            layout(of(ALL, batch="rows")),
            "the mesh has no axis 'rows', which batch names",
        ),
        (
            layout(of({"kernle": P(), **ALL})),
            "the rule 'kernle' fits no path",
            "got:      kernel, bias",
        ),
        (
            layout(of({"kernel": P("data"), "ker*": P("model"), **ALL})),
            "two rules fit 'kernel'",
            "got:      'kernel': P('data') and 'ker*': P('model')",
        ),
        (
            layout(of({"kernel": P()})),
            "no rule fits 'bias'",
            'hint:     "**": P() for all others, which are then whole on each device',
        ),
        (
            layout(of({"bias": P(None, "model"), **ALL})),
            "the rule 'bias' splits more axes than 'bias' has",
            "expected: at most 1 entries, for the shape (6,)",
        ),
        (
            layout(of({"kernel": P("data"), **ALL})),
            "the rule 'kernel' cannot divide 'kernel' evenly",
            "expected: a multiple of 2, the devices along 'data'",
            "got:      an axis of 5 in the shape (5, 6)",
        ),
        (layout(of(ALL), mesh=4), "mesh must be a mesh of devices", "got:      4"),
        (lambda: of([("kernel", P())]), "rules: the rules must be a dict"),
        (
            lambda: of({"kernel": "model"}),
            "rules: a rule must be a pattern and a PartitionSpec",
            "got:      'kernel': 'model'",
        ),
        (lambda: of(ALL, batch=3), "rules: batch must be a PartitionSpec or the name of an axis*"),
        (
            lambda: sharding.fsdp(3),
            "fsdp: axis must be the name of an axis of the mesh, or a tuple*",
        ),
        (
            lambda: sharding.fsdp("a") + sharding.data_parallel("b"),
            "rules that are added split the batch in two ways",
        ),
        (
            lambda: training.train_step(DENSE, jnp.mean, optax.sgd(1.0), mesh=MESH),
            "train_step: a mesh is given without rules",
        ),
        (
            lambda: training.train_step(DENSE, jnp.mean, optax.sgd(1.0), rules=of(ALL)),
            "train_step: rules are given without a mesh",
        ),
        (
            lambda: training.train_step(DENSE, jnp.mean, optax.sgd(1.0), rules=ALL, mesh=MESH),
            "train_step: rules must be sharding rules",
        ),
        (
            lambda: training.train_step(
                DENSE, jnp.mean, optax.sgd(1.0), rules=of(ALL), mesh=MESH
            ).start(jax.random.key(0), X),
            "step.start needs devices, and this mesh is abstract",
        ),
        (
            lambda: sharding.plan(training.train_step(DENSE, jnp.mean, optax.sgd(1.0)), (X,)),
            "plan: the step has no mesh",
        ),
        (
            lambda: sharding.plan(
                training.train_step(
                    DENSE, jnp.mean, optax.sgd(1.0), mesh=MESH, rules=of(ALL, batch="data")
                ),
                (X,),
                memory="16 parsecs",
            ),
            "plan: memory must be bytes, or a number with a unit",
        ),
    ]
)
def test_what_is_refused(case):
    read(case)
