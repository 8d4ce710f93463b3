"""summary(columns=, profile=): shares, activations, receptive fields and measured times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from error_text import each, read

import jlayers as jl
from jlayers.inspection import timing

X = jl.spec((8, 16))
BLOCK = jl.residual(jl.serial(jl.Dense(24), jax.nn.gelu, jl.Dense(16)))


def model_of(remat):
    return jl.serial(stem=jl.Dense(16), blocks=jl.repeat(BLOCK, 3, remat=remat), head=jl.Dense(2))


def rows_of(table):
    return {row.path: row for row in table.rows}


def test_shares_are_of_all_flops():
    table = jl.summary(model_of(None), X, columns=("share",))
    lines = str(table).splitlines()
    assert "of FLOPs" in lines[0]
    shares = [float(line.rstrip()[-7:-1]) for line in lines[2:] if line.rstrip().endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.4)
    stem = rows_of(table)["stem"]
    assert f"{100 * stem.flops / table.flops:.1f}%" in lines[2]


# By hand: 8 rows in float32, three copies.
@pytest.mark.parametrize(
    ("remat", "inside", "between"),
    [
        # The inputs of the copies alone.
        (True, {"dense": 0, "gelu": 0, "dense_1": 0}, 3 * 8 * 16 * 4),
        # And the output of the first product; that of the second is not needed.
        (None, {"dense": 3 * 8 * 24 * 4, "gelu": 0, "dense_1": 0}, 3 * 8 * 16 * 4),
    ],
)
def test_activations_are_those_of_the_chosen_remat(remat, inside, between):
    table = jl.summary(model_of(remat), X, columns=("activations",))
    rows = rows_of(table)
    for name, size in inside.items():
        assert rows[f"blocks/body/{name}"].activations == size
    # The output of the copies, which is the head's input, is counted with them.
    assert sum(row.activations for row in table.rows) == sum(inside.values())
    assert table.activations == sum(inside.values()) + between + 8 * 16 * 4


def test_activations_are_what_the_gradient_keeps():
    for remat in (None, True, False):
        model = model_of(remat)
        params, state = model.init(jax.random.key(0), X)
        x = jnp.ones(X.shape)
        _, pull = jax.vjp(lambda p, model=model: model.apply(p, state, x, train=True)[0], params)  # noqa: B023
        own = {id(leaf) for leaf in (*jax.tree.leaves(params), x)}
        kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(pull) if id(leaf) not in own}
        expected = jl.summary(model, X, columns=("activations",)).activations
        # Concrete numbers are copied now and then, where the program has one value.
        assert sum(kept.values()) >= expected > 0
        assert sum(kept.values()) < expected + 4 * 8 * 16 * 3 + sum(
            leaf.nbytes for leaf in jax.tree.leaves(params)
        )


def test_receptive_fields_are_of_the_layers_and_of_the_whole():
    model = jl.serial(
        jl.Conv(4, 3, padding="CAUSAL", strides=2), jl.Conv(4, 3, padding="SAME"), jl.Dense(2)
    )
    table = jl.summary(model, jl.spec((1, 12, 2)), columns="receptive_field")
    assert [row.receptive_field.size for row in table.rows] == [3, 3, 1]
    assert [row.receptive_field.latency for row in table.rows] == [0, 1, 0]
    assert table.receptive_field == jl.receptive_field(model, jl.spec((1, 12, 2)))
    first, *_, last = str(table).splitlines()
    assert first.split()[-2:] == ["field", "latency"]
    assert last.split()[-2:] == ["7", "2"]


def test_a_wide_table_has_all_of_its_figures():
    model = jl.serial(**{"a_long_name_" * 20: jl.Dense(4)})
    table = jl.summary(model, jl.spec((1, 3)), columns=("share", "activations"))
    assert "…" not in str(table)
    assert len(str(table).splitlines()[0]) > 240


def test_rows_count_what_the_whole_model_draws():
    model, x = jl.serial(jl.repeat(jl.Dense(4), 3), head=jl.Dense(2)), jl.spec((1, 4))
    transforms = jl.transforms
    for changed, of_head in [
        (transforms.quantize(model), 2),
        (transforms.lora(model, "head/kernel", rank=1), 10),
        (transforms.precision(model, transforms.Precision(params="bfloat16")), 10),
    ]:
        table = jl.summary(changed, x)
        assert sum(row.parameters for row in table.rows) == table.parameters
        assert sum(row.bytes for row in table.rows) == table.bytes
        assert table.rows[-1].parameters == of_head


def test_times_are_of_every_layer(monkeypatch):
    # No time is asserted: the clock is replaced by one that counts.
    monkeypatch.setattr(timing, "_measured", lambda runs: {n: float(bool(n)) for n in runs})
    table = jl.summary(model_of(None), X, profile=True)
    rows = rows_of(table)
    assert table.seconds == 1.0
    assert rows["stem"].seconds == rows["head"].seconds == 1.0
    assert rows["blocks/body/gelu"].seconds == 3.0
    assert table.layer_seconds == 2.0 + 3 * 3.0
    assert str(table).splitlines()[-1].split()[-1] == "1100.0%"


def test_a_profile_runs_each_layer_at_its_own_input(monkeypatch):
    seen = {}
    looped = timing._looped

    def spy(function, copies, weights, x):
        run = looped(function, copies, weights, x)
        if weights:
            own = weights if copies == 1 else [leaf[0] for leaf in weights]
            seen[copies, x[0].shape] = np.asarray(function(own, x))
        return run

    monkeypatch.setattr(timing, "_looped", spy)
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 3)
    model = jl.serial(jl.Dense(16), jl.repeat(jl.Dense(16), 3), jl.Flatten())
    x = jax.random.normal(jax.random.key(2), (8, 4))
    params, state = model.init(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    table = jl.summary(model, x, profile=True, params=params, state=state)
    dense, blocks = jax.tree.map(np.asarray, (params["dense"], params["dense_1"]))
    stem = np.asarray(x) @ dense["kernel"] + dense["bias"]
    first = stem @ blocks["kernel"][0] + blocks["bias"][0]
    np.testing.assert_allclose(seen[3, (8, 16)], first, rtol=1e-4, atol=1e-4)
    # It moves no data.
    assert rows_of(table)["flatten"].seconds == 0.0
    assert all(row.seconds >= 0 for row in table.rows)


def _twice(f, x):
    return f.inner(f.inner(x))


KEYED = jl.Layer(
    lambda key, x: ({}, {"key": jax.random.key(0)}),
    lambda params, state, x, *, key, train: (
        x + jax.random.normal(jax.random.fold_in(state["key"], 1), x.shape),
        state,
    ),
)


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        (jl.compose(_twice, inner=jl.Dense(4)), 2),
        (jl.ensemble(jl.Dense(4), 3), 3),
        (jl.repeat(jl.Dense(4), 5, shared=True), 5),
        (jl.remat(jl.weight_norm(jl.Dense(4))), 1),
        # It draws in evaluation too, and so does one with a key in its state.
        (jl.compose(lambda f, x: x + jax.random.normal(f.key(), x.shape)), 1),
        (KEYED, 1),
    ],
    ids=["twice", "ensemble", "shared", "wrapped", "noise", "keyed"],
)
def test_all_calls_and_copies_are_counted(model, calls, monkeypatch):
    monkeypatch.setattr(timing, "_measured", lambda runs: {n: float(bool(n)) for n in runs})
    table = jl.summary(model, jl.spec((2, 4)), profile=True)
    assert table.layer_seconds == calls
    assert table.seconds == 1.0


def test_html_is_a_table_without_scripts():
    table = jl.summary(jl.serial(jl.Dense(2), lambda x: x < 1), jl.spec((2, 4)), columns=["share"])
    html = table._repr_html_()
    assert html.count("<tr>") == 2 + len(table.rows) + 1 - 1
    assert "<lambda" not in html
    assert "&lt;lambda" in html
    assert "of FLOPs" in html
    assert "script" not in html


def test_a_layer_in_a_notebook():
    model = jl.serial(encoder=jl.serial(jl.repeat(BLOCK, 3)), head=jl.Dense(2))
    html = model._repr_html_()
    assert html.count("<details") == html.count("</details>") == 5
    assert "repeat x 3" in html
    assert "<b>head</b> <code>Dense(2)</code>" in html
    assert "&lt;lambda" in jl.lift(lambda x: x)._repr_html_()
    assert "script" not in html


# Of NumPy 2.5, by treescope 0.1.10.
@pytest.mark.filterwarnings("ignore:The chararray class:DeprecationWarning")
def test_a_layer_in_treescope():
    model = jl.serial(encoder=jl.serial(jl.repeat(BLOCK, 3)), head=jl.Dense(2))
    text = treescope.render_to_text(model)
    assert "head=Dense(2)" in text
    assert "residual=repeat x 3(" in text
    assert "parameters" in treescope.render_to_text(jl.summary(model, X))


SYMBOLIC = jax.ShapeDtypeStruct((jax.export.symbolic_shape("b")[0], 4), jnp.float32)
ERRORS = [
    (
        lambda: jl.summary(jl.Dense(2), X, columns=("speed",)),
        "summary: unknown columns 'speed'*",
        "'share'",
    ),
    (
        lambda: jl.summary(jl.Dense(2), jl.spec((4,)), columns=("receptive_field",)),
        "summary: receptive_field: no layer inside is from sequences to sequences",
        "(batch, time, ...)",
    ),
    (
        lambda: jl.summary(jl.Dense(2), X, params={}, state={}),
        "summary: params, state and key are those of a measurement",
        "profile=True",
    ),
    (
        lambda: jl.summary(jl.Dense(2), X, profile=True, state={}),
        "summary: state is given without params",
        "params=",
    ),
    (
        lambda: jl.summary(jl.Dense(2), SYMBOLIC, profile=True),
        "summary: profile=True runs the model",
        "of known sizes, outside of jit",
        "float32[b, 4]",
    ),
    (
        lambda: jax.jit(lambda x: jl.summary(jl.Dense(2), x, profile=True).flops)(jnp.ones((2, 4))),
        "summary: profile=True runs the model",
        "of known sizes, outside of jit",
    ),
    (
        lambda: jl.summary(jl.Dense(2), X, profile=1),
        "summary: profile must be True or False, got 1",
    ),
    (
        lambda: jl.summary(jl.Dense(2), X, profile=True, key=3),
        "summary: the key must be a single typed key",
        "jax.random.key(3)",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)
