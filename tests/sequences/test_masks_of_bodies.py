"""Which mask a value of a body has: that of the Sequences that are in it, and of no other."""

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

F = 4
MASK = jnp.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
OTHER = jnp.asarray([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], bool)
KEYS = jax.random.split(jax.random.key(0), 3)
X = jl.Sequence(jax.random.normal(KEYS[0], (3, 6, F)), MASK)
Y = jl.Sequence(jax.random.normal(KEYS[1], (3, 6, F)), OTHER)
SHORT = jl.Sequence(jax.random.normal(KEYS[2], (3, 5, F)), MASK[:, 1:])
mean = jl.GlobalAvgPool


def test_each_sequence_has_its_own_mask_until_they_are_joined():
    def body(f, x):
        x, y = jnp.tanh(x[0]), jnp.tanh(x[1])
        return f.mean(2 * x), f.mean(2 * y), f.mean(x + y), 2 * x, x + y

    model = jl.compose(body, mean=mean())
    found, _ = model.apply({}, {}, (X, Y))
    both = MASK & OTHER
    x, y = jnp.tanh(X.fill()), jnp.tanh(Y.fill())
    wanted = (
        [(2 * x[r, MASK[r]]).mean(0) for r in range(3)],
        [(2 * y[r, OTHER[r]]).mean(0) for r in range(3)],
        [(x + y)[r, both[r]].mean(0) for r in range(3)],
    )
    for one, rows in zip(found, wanted, strict=False):
        np.testing.assert_allclose(one, jnp.stack(rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[3].mask, MASK)
    np.testing.assert_array_equal(found[4].mask, both)


def test_a_child_that_shortens_a_mask_shortens_no_other():
    shorter = jl.on_sequence(lambda x: jl.Sequence(x.values, x.mask & (x.values[..., 0] > 0)))

    def body(f, x):
        x = jnp.tanh(x)
        y = f.shorter(x)
        return f.mean(2 * x), f.mean(2 * y)

    (x, y), _ = jl.compose(body, shorter=shorter, mean=mean()).apply({}, {}, X)
    values = 2 * jnp.tanh(X.fill())
    for found, mask in ((x, MASK), (y, MASK & (values[..., 0] > 0))):
        rows = [values[r, mask[r]].mean(0) for r in range(3)]
        np.testing.assert_allclose(found, jnp.stack(rows), rtol=1e-5, atol=1e-6)


def test_a_sequence_that_a_body_makes_has_its_own_mask():
    model = jl.compose(lambda f, x: f.mean(jl.Sequence(jnp.tanh(x), x[..., 0] > 0)), mean=mean())
    found, _ = model.apply({}, {}, X)
    values = jnp.tanh(X.fill())
    rows = [values[r, values[r, :, 0] > 0].mean(0) for r in range(3)]
    np.testing.assert_allclose(found, jnp.stack(rows), rtol=1e-5, atol=1e-6)


def test_three_sequences_of_which_two_are_joined():
    model = jl.compose(lambda f, x: (jnp.tanh(x[0]) + x[1], f.conv(2 * x[2])), conv=jl.Conv(F, 2))
    x = (X, Y, SHORT)
    params, state = model.init(jax.random.key(3), x)
    (joined, alone), _ = model.apply(params, state, x)
    np.testing.assert_array_equal(joined.mask, MASK & OTHER)
    np.testing.assert_array_equal(alone.mask, SHORT.mask[:, :-1] & SHORT.mask[:, 1:])


def test_a_body_may_give_a_summary_alone():
    model = jl.compose(lambda f, x: f.head(f.mean(jnp.tanh(x))), mean=mean(), head=jl.Dense(F))
    params, state = model.init(jax.random.key(3), X)
    y, _ = model.apply(params, state, X)
    for row in range(3):
        alone, _ = model.apply(params, state, X.values[row : row + 1, np.asarray(MASK[row])])
        np.testing.assert_allclose(y[row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_function_of_each_step_alone_takes_a_mask():
    model = jl.each_step(jl.serial(jl.Dense(F), jax.nn.relu))
    params, state = model.init(jax.random.key(3), X)
    y, _ = model.apply(params, state, X)
    alone, _ = model.apply(params, state, X.values)
    np.testing.assert_array_equal(y.mask, MASK)
    np.testing.assert_allclose(y.values[MASK], alone[MASK], rtol=1e-5)


def test_an_array_beside_a_sequence_under_each_step():
    def both(x):
        return jnp.tanh(x[0]) + x[1], 2 * x[1]

    for layer in (jl.lift(both), jl.compose(lambda f, x: both(x))):
        y, _ = jl.each_step(layer).apply({}, {}, (X, Y.values))
        np.testing.assert_array_equal(y[0].mask, MASK)
        np.testing.assert_array_equal(y[1], 2 * Y.values)
