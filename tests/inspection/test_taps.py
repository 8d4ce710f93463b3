"""Taps: every call of every layer is seen, wherever it runs, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers.inspection.taps import recorded, tapped, with_copies

KEY = jax.random.key(0)


def twice(f, x):
    return f.a(f.a(x))


def loop(f, x):
    return jax.lax.scan(lambda h, _: (f.cell(h), None), x, None, length=3)[0]


def run(model, x, **options):
    params, state = model.init(KEY, x)
    y, found = recorded(model, params, state, x, **options)
    expected = jax.jit(model.apply)(params, state, x)[0]
    # XLA fuses a loop otherwise where values leave it.
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    return params, found


def test_copies_are_told_apart_and_come_one_after_the_other():
    block = jl.residual(jl.serial(jl.Dense(4), jl.ensemble(jl.Dense(4), 2), lambda x: x.sum(0)))
    x = jax.random.normal(KEY, (3, 4))
    params, found = run(jl.serial(blocks=jl.repeat(block, 2)), x)
    names = [one.path for one in found]
    first = [
        "blocks/0/body/dense",
        "blocks/0/body/dense_1/0",
        "blocks/0/body/dense_1/1",
        "blocks/0/body/dense_1",
        "blocks/0/body/lambda",
        "blocks/0/body",
        "blocks/0",
    ]
    assert names == [*first, *(name.replace("/0", "/1", 1) for name in first), "blocks", ""]
    values = {one.path: one.value for one in found}
    inner = params["blocks"]["body"]["dense_1"]
    for copy in 0, 1:
        for member in 0, 1:
            np.testing.assert_allclose(
                values[f"blocks/{copy}/body/dense_1/{member}"],
                values[f"blocks/{copy}/body/dense"] @ inner["kernel"][copy, member],
                rtol=1e-5,
                atol=1e-6,
            )


@pytest.mark.parametrize(
    ("model", "x", "path", "shapes"),
    [
        (jl.compose(twice, a=jl.remat(jl.Dense(4))), (2, 4), "a", [(2, 4)] * 4),
        (jl.compose(loop, cell=jl.Dense(4)), (2, 4), "cell", [(2, 4)] * 3),
        (jl.each_step(jl.Dense(3)), (2, 5, 4), "", [(10, 3), (2, 5, 3)]),
        (jl.weight_norm(jl.Dense(3)), (2, 4), "", [(2, 3), (2, 3)]),
        (jl.bidirectional(jl.LSTM(3)), (2, 5, 4), "backward", [(2, 5, 3)]),
        (jl.serial(jl.BatchNorm(), jax.nn.relu), (2, 4), "relu", [(2, 4)]),
        (jl.MixtureOfExperts(jl.Dense(4), 2), (2, 5, 4), "experts/1", [(10, 4)]),
        (
            jl.repeat(jl.MixtureOfExperts(jl.Dense(4), 2, capacity_factor=1.0), 2),
            (2, 5, 4),
            "1/experts/0",
            [(10, 4)],
        ),
        (jl.plain(jl.serial(jl.Dense(4), jnp.tanh)), (2, 4), "dense", [(2, 4)]),
    ],
    ids=[
        "calls, remat",
        "a user's scan",
        "each_step",
        "weight_norm",
        "bidirectional",
        "function",
        "experts",
        "experts with places, in repeat",
        "plain",
    ],
)
def test_each_call_is_recorded(model, x, path, shapes):
    _, found = run(model, jax.random.normal(KEY, x))
    assert [np.shape(one.value) for one in found if one.path == path] == shapes
    # Of the wrappers with the path of the layer inside them, each counts its own calls.
    calls = [(id(one.site.layer), one.path, one.call) for one in found]
    assert len(set(calls)) == len(calls)


def test_calls_are_in_order():
    x = jax.random.normal(KEY, (2, 4))
    params, found = run(jl.compose(loop, cell=jl.Dense(4)), x)
    x = np.asarray(x)
    for one in found[:-1]:
        x = x @ np.asarray(params["cell"]["kernel"])
        np.testing.assert_allclose(one.value, x, rtol=1e-5)
        assert one.path == "cell"
    assert [one.call for one in found[:-1]] == [0, 1, 2]


def test_inputs_of_one_layer():
    x = jax.random.normal(KEY, (2, 4))
    _, found = run(jl.serial(jnp.tanh, jl.Dense(3)), x, side="input", path="dense")
    (one,) = found
    np.testing.assert_allclose(one.value, jnp.tanh(x), rtol=1e-5, atol=1e-6)


def test_sequences_and_carries_stay_what_they_are():
    x = jl.Sequence.from_lengths(jax.random.normal(KEY, (2, 3, 4)), [3, 1])
    model = jl.serial(jl.Dense(4), jl.carried(jl.LSTM(2)))
    params, state = model.init(KEY, x)
    _, found = recorded(model, params, state, x)
    values = {one.path: one.value for one in found}
    assert isinstance(values["dense"], jl.Sequence)
    y, carry = values["lstm"]
    assert isinstance(y, jl.Sequence)
    assert sorted(carry) == ["c", "h"]


def test_a_pair_that_reads_its_childrens_trees_is_one_layer():
    inner = jl.Dense(3)

    def around(inner):
        def apply(params, state, x, *, key, train):
            # As one that knows the trees of the layer inside it.
            assert set(state) == set()
            return inner.apply(params, state, x)

        return jl.Layer(
            inner.init, apply, children={"": inner}, rebuild=lambda new: around(new[""])
        )

    _, found = run(jl.serial(around(inner), jnp.tanh), jnp.ones((2, 4)))
    assert [one.path for one in found] == ["layer", "tanh", ""]


def test_a_tap_may_change_values_in_streams_too():
    x = jax.random.normal(KEY, (2, 6, 4))
    model = jl.serial(jl.Dense(4), jl.LSTM(3))
    params, state = model.init(KEY, x)

    def doubled(site, side, value, copy):
        return 2 * value if (site.path, side) == ("dense", "output") else value

    changed = tapped(model, x, doubled)
    given = with_copies(state, changed.init(KEY, x)[1])
    expected, _ = jl.serial(jl.Dense(4), lambda x: 2 * x, jl.LSTM(3)).apply(params, state, x)
    y, after = changed.apply(params, given, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(given)
    start, step = jl.stream(changed)
    carry = start(params, given, x)
    one, carry = step(params, given, carry, x[:, :2])
    two, carry = step(params, given, carry, x[:, 2:])
    np.testing.assert_allclose(jnp.concatenate([one, two], 1), expected, rtol=1e-5, atol=1e-6)
