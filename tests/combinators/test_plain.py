"""plain: the same numbers and gradients, from a program of simple operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES, STEPS, VECTOR
from tables.tiers import full, named

import jlayers as jl
from jlayers.testing import check_layer, check_sequence

HIDING = {
    *("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "optimization_barrier"),
    *("custom_jvp_call", "custom_vjp_call", "platform_index"),
}
KEY = jax.random.key(3)


def primitives(jaxpr):
    """The names of all primitives in a jaxpr, and in those inside it."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from primitives(value)


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def hiding(layer, x, train=False):
    params, state = jax.eval_shape(layer.init, KEY, x)

    def run(params, state, x, key):
        return layer.apply(params, state, x, key, train)

    return HIDING & set(primitives(jax.make_jaxpr(run)(params, state, x, KEY)))


@pytest.mark.parametrize("train", [False, *full(True)])
@pytest.mark.parametrize("further", [False, *full(True)])
def test_nothing_in_the_program_of_any_layer_hides_operations(train, further):
    found = {
        name: hidden
        for name, row in INSTANCES.items()
        if row.full == further and (hidden := hiding(jl.plain(row.layer), row.x, train))
    }
    assert not found


def test_the_layers_as_they_are_have_what_plain_leaves_out():
    model = jl.remat(jl.serial(jl.Dense(3), jax.nn.relu, jl.LSTM(3)))
    assert hiding(model, STEPS) >= {"jit", "remat2", "custom_jvp_call", "platform_index"}


def numbers(x, seed=0):
    """Random numbers for floats, and 0 and 1 for all else."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not hasattr(leaf, "dtype") or isinstance(leaf, np.ndarray):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.uniform(0.2, 1.0, leaf.shape).astype(leaf.dtype)
        return rng.integers(0, 2, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, x)


MECHANISMS = (
    *("conv 2-D", "transposed conv", "max pool", "layer norm", "group norm"),
    *("self-attention", "lstm", "min gru", "adaptive average pool", "spectral_norm", "ensemble"),
    *("with_losses", "inverse stft", "compose, a child twice, a key", "repeat, rematerialised"),
    "gated delta net",
)


@pytest.mark.parametrize("basic", [False, *full(True)])
@pytest.mark.parametrize("name", named(INSTANCES, *MECHANISMS))
def test_numbers_and_gradients_are_those_of_the_model(name, basic):
    layer, x = INSTANCES[name].layer, numbers(INSTANCES[name].x)
    params, state = layer.init(KEY, x)

    def loss(layer, params):
        y, new = layer.apply(params, state, x, KEY, True)
        leaves = [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        sizes = [jnp.sum(jnp.sin(leaf.astype(jnp.float32) + 1)) for leaf in leaves]
        return sum(sizes, jnp.float32(0)), (y, new, layer.apply(params, state, x, KEY)[0])

    @jax.jit
    def both(params):
        run = jax.value_and_grad(loss, argnums=1, has_aux=True)
        return run(layer, params), run(jl.plain(layer, basic=basic), params)

    wanted, got = both(params)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for have, want in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(have, want, rtol=3e-4, atol=3e-5)


def _block():
    return jl.TransformerBlock(
        jl.SelfAttention(2, causal=True), jl.serial(jl.Dense(6), jax.nn.gelu, jl.Dense(4))
    )


MODELS = {
    "repeat": (jl.repeat(_block(), 2), STEPS),
    "recurrent": (jl.serial(jl.LSTM(3), jl.BatchNorm(), jl.Dropout(0.2)), STEPS),
    "dense": (jl.serial(jl.Dense(3), jax.nn.relu, jl.remat(jl.Dense(2))), VECTOR),
}


@pytest.mark.parametrize("name", named(MODELS, "recurrent"))
def test_it_keeps_the_laws(name):
    model, x = MODELS[name]
    check_layer(jl.plain(model), x, symbolic_axes=(0, 1) if x is STEPS else (0,))


@pytest.mark.parametrize("name", named([n for n in MODELS if n != "dense"], "recurrent"))
def test_it_minds_masks_and_streams(name):
    model, x = MODELS[name]
    check_sequence(jl.plain(model), x)


def test_repeat_stays_a_loop():
    model = jl.plain(jl.repeat(jl.serial(jl.Dense(4), jax.nn.silu), 3))
    params, state = jax.eval_shape(model.init, KEY, VECTOR)
    program = jax.make_jaxpr(model.apply)(params, state, VECTOR)
    (loop,) = [equation for equation in program.eqns if equation.primitive.name == "scan"]
    assert loop.params["length"] == 3


def test_a_step_of_a_stream_is_plain_too():
    model = jl.plain(jl.serial(jl.Conv(4, 2, padding="CAUSAL"), jax.nn.relu, jl.LSTM(3)))
    params, state = model.init(KEY, STEPS)
    start, step = jl.stream(model)
    carry = start(params, state, STEPS)
    block = jnp.ones((2, 1, 4))
    assert not HIDING & set(primitives(jax.make_jaxpr(step)(params, state, carry, block)))


def test_functions_of_users_and_loops_of_all_kinds():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (twice(x), None), lambda _, ct: (2 * ct,))

    def body(x):
        x = jax.lax.while_loop(lambda a: a.sum() < 100, lambda a: jax.jit(twice)(a), x)
        x = jax.lax.fori_loop(0, 2, lambda i, a: jax.nn.softplus(a) + i, x)
        x = jax.lax.cond(x.sum() > 0, jax.nn.relu, jnp.negative, x)
        return jax.lax.switch(x.argmax(), [jax.nn.silu, twice, jnp.sin], x)

    x = jnp.array([0.5, 1.0, 0.25])
    model = jl.plain(body)
    assert not hiding(model, jl.spec((3,)))
    np.testing.assert_allclose(model.apply({}, {}, x)[0], body(x), rtol=1e-5, atol=1e-6)


def test_softplus_keeps_its_slope_at_zero():
    model = jl.plain(jax.nn.softplus)
    slope = jax.grad(lambda x: model.apply({}, {}, x)[0])
    assert [round(float(slope(x)), 6) for x in (0.0, 2.0, -2.0)] == [0.5, 0.880797, 0.119203]
    values, _ = model.apply({}, {}, jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(values, [jnp.inf, 0, jnp.nan])


def test_children_and_names_are_the_models():
    model = jl.plain(jl.serial(jl.Dense(3), head=jl.Dense(2)))
    assert repr(model) == "plain(serial(Dense(3), head=Dense(2)))"
    changed = jl.rewrite(model, "head", lambda layer: jl.Dense(5))
    assert repr(changed) == "plain(serial(Dense(3), head=Dense(5)))"
    params, _ = model.init(KEY, VECTOR)
    assert sorted(params) == ["dense", "head"]


def test_callbacks_stay():
    seen = []

    def seeing(x):
        jax.debug.callback(seen.append, jnp.sum(x))
        return 2 * x

    model = jl.plain(jl.serial(seeing))
    model.apply({}, {}, jnp.ones((2, 3)))
    jax.effects_barrier()
    assert [float(each) for each in seen][-1:] == [6]
