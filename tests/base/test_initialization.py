"""init of a whole model at once gives, bit for bit, what the initialisers give one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

import jlayers as jl
from jlayers.base.initialization import _may_draw_together
from jlayers.base.initializer_programs import ROW, _bits, initializer_program
from jlayers.base.parameters import child_key


def scaled(key, shape, dtype):
    return 0.02 * jax.random.normal(key, shape, dtype)


def shifted(key, shape, dtype):
    return 0.02 * jax.random.normal(key, shape, dtype) + 1.0


def two_draws(key, shape, dtype):
    first, second = jax.random.split(key)
    return jax.random.normal(first, shape, dtype) * jax.random.uniform(second, shape, dtype)


def by_fan(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -(shape[0] ** -0.5), shape[0] ** -0.5)


def of_numpy(key, shape, dtype):
    return jnp.asarray(np.arange(np.prod(shape)).reshape(shape), dtype)


WITH_PROGRAM = {
    "glorot_uniform": initializers.glorot_uniform(),
    "glorot_normal": initializers.glorot_normal(),
    "he_normal": initializers.he_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "truncated": initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
    "normal": initializers.normal(0.02),
    "uniform": initializers.uniform(),
    "zeros": initializers.zeros,
    "constant": initializers.constant(2.5),
    "scaled": scaled,
    "by_fan": by_fan,
}
WITHOUT = {
    "orthogonal": initializers.orthogonal(),
    "shifted": shifted,
    "two_draws": two_draws,
    "of_numpy": of_numpy,
}


def model_of(init):
    wide = jl.Dense(1031, kernel_init=init)  # more than one row of the block, and a part of one
    copies = jl.ensemble(jl.repeat(jl.remat(jl.Dense(6, kernel_init=init)), 2), 3)
    return jl.serial(wide, jl.BatchNorm(), jl.Dense(6, kernel_init=init), last=copies)


def one_by_one(layer, key, x):
    """What init does where it cannot plan ahead: inside a transformation."""
    return jax.tree.map(lambda leaf: leaf[0], jax.vmap(lambda key: layer.init(key, x))(key[None]))


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [*WITH_PROGRAM, *WITHOUT])
def test_values_are_those_of_the_initialiser_alone(name, key):
    init = {**WITH_PROGRAM, **WITHOUT}[name]
    params, _ = model_of(init).init(key, jl.spec((2, 9)))
    wide = init(child_key(child_key(key, "dense"), "kernel"), (9, 1031), jnp.float32)
    np.testing.assert_array_equal(params["dense"]["kernel"], wide)
    last = child_key(key, "last")
    for i in range(3):
        for j in range(2):
            copy = jax.random.fold_in(jax.random.fold_in(last, i), j)
            alone = init(child_key(copy, "kernel"), (6, 6), jnp.float32)
            np.testing.assert_array_equal(params["last"]["kernel"][i, j], alone)


@pytest.mark.parametrize("name", [*WITH_PROGRAM, *WITHOUT])
def test_the_whole_tree_is_that_of_init_one_by_one(name, key):
    model = model_of({**WITH_PROGRAM, **WITHOUT}[name])
    x = jl.spec((2, 9))
    assert_same(model.init(key, x), one_by_one(model, key, x))


def test_which_initialisers_have_a_program():
    assert all(initializer_program(init, (7, 5), jnp.float32) for init in WITH_PROGRAM.values())
    assert not any(initializer_program(init, (7, 5), jnp.float32) for init in WITHOUT.values())


def test_one_program_for_all_shapes():
    init = initializers.he_normal()
    shapes = [(3, 3, 8, 16), (5, 7), (1, 1)]
    assert len({initializer_program(init, shape, jnp.float32).steps for shape in shapes}) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(dtype, key):
    with jax.enable_x64(dtype == "float64"):
        layer = jl.serial(jl.Dense(5), jl.LayerNorm())
        x = jl.spec((2, 3), dtype)
        assert_same(layer.init(key, x), one_by_one(layer, key, x))


def test_a_users_own_pair_gets_a_key(key):
    seen = []

    def init(key, x):
        seen.append(key)
        return {"w": jax.random.normal(key, x.shape[-1:])}

    own = jl.stateless(init, lambda params, x: x + params["w"].sum(), name="own")
    model = jl.serial(own, jl.repeat(own, 3), inner=jl.serial(own))
    x = jl.spec((2, 4))
    params, _ = model.init(key, x)
    assert all(isinstance(key, jax.Array) for key in seen)
    expected = jax.random.normal(child_key(child_key(key, "inner"), "own"), (4,))
    np.testing.assert_array_equal(params["inner"]["own"]["w"], expected)
    assert_same(params, one_by_one(model, key, x)[0])


def test_a_pair_that_mixes_its_own_and_ours_gets_a_key(key):
    dense = jl.Dense(3)

    def init(key, x):
        params, _ = dense.init(jax.random.fold_in(key, 1), x)
        return {"inner": params, "gain": jnp.full((3,), 2.0)}

    def apply(params, x):
        return dense.apply(params["inner"], {}, x)[0] * params["gain"].sum()

    own = jl.stateless(init, apply, name="own")
    params, _ = jl.serial(own).init(key, jl.spec((2, 4)))
    alone, _ = dense.init(jax.random.fold_in(child_key(key, "own"), 1), jl.spec((2, 4)))
    assert_same(params["own"]["inner"], alone)


def test_a_global_that_an_initialiser_reads_is_read_anew(key):
    scale = 1.0

    def init(key, shape, dtype):
        return scale * jax.random.normal(key, shape, dtype)

    layer = jl.serial(jl.Dense(3, kernel_init=init))
    first, _ = layer.init(key, jl.spec((2, 4)))
    scale = 2.0
    second, _ = layer.init(key, jl.spec((2, 4)))
    np.testing.assert_array_equal(2 * first["dense"]["kernel"], second["dense"]["kernel"])


def test_other_keys_are_used_as_they_are():
    x = jl.spec((2, 4))
    layer = jl.serial(jl.Dense(3))
    other = jax.random.key(0, impl="rbg")
    committed = jax.device_put(jax.random.key(0), jax.devices()[1])
    assert not _may_draw_together(other)
    assert not _may_draw_together(committed)
    assert layer.init(other, x)[0]["dense"]["kernel"].shape == (4, 3)
    made = layer.init(committed, x)[0]["dense"]["kernel"]
    assert made.devices() == {jax.devices()[1]}
    np.testing.assert_array_equal(made, layer.init(jax.random.key(0), x)[0]["dense"]["kernel"])


def test_more_than_one_block(key, monkeypatch):
    model = jl.serial(*[jl.Dense(70) for _ in range(4)], jl.repeat(jl.Dense(70), 3))
    x = jl.spec((2, 70))
    whole = model.init(key, x)
    monkeypatch.setattr("jlayers.base.initialization._MOST_ROWS", 5)
    assert_same(model.init(key, x), whole)


def test_values_can_be_donated(key):
    model = jl.serial(jl.Dense(64), jl.Dense(64))
    params, _ = model.init(key, jl.spec((2, 64)))
    before = jax.tree.map(np.array, params)
    step = jax.jit(lambda params: jax.tree.map(lambda p: p + 1, params), donate_argnums=0)
    after = step(params)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b + 1)


def test_parameters_of_no_elements(key):
    def body(f, x):
        return x + f.param("empty", initializers.normal(), (0, 3)).sum()

    params, _ = jl.compose(body).init(key, jl.spec((2, 3)))
    assert params["empty"].shape == (0, 3)


def test_bits_of_a_row_are_those_of_the_whole(key):
    whole = jax.random.bits(key, (3 * ROW,))
    np.testing.assert_array_equal(_bits(key, jnp.uint32(ROW)), whole[ROW : 2 * ROW])


def test_a_key_from_outside_of_a_transformation(key):
    model = jl.serial(jl.Dense(4), jl.repeat(jl.Dense(4), 2))
    x = jl.spec((2, 3))
    made = model.init(key, x)
    np.testing.assert_allclose(
        *(tree[0]["dense"]["kernel"] for tree in (jax.jit(lambda: model.init(key, x))(), made)),
        rtol=1e-6,
    )
    assert jax.eval_shape(lambda: model.init(key, x)) == jax.eval_shape(lambda: made)
    _, copies = jax.lax.scan(lambda carry, _: (carry, model.init(key, x)), 0, None, 3)
    assert copies[0]["dense"]["kernel"].shape == (3, 3, 4)
