"""The options of XLA that the library compiles with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training
from jlayers.core import compiler


def test_this_jaxlib_takes_them():
    assert jl.compiler_options("cpu") == compiler._CPU
    assert jl.compiler_options("gpu") == jl.compiler_options("tpu") == {}
    double = jax.jit(lambda x: 2 * x, compiler_options=jl.compiler_options("cpu"))
    assert double(jnp.ones(())) == 2


def test_an_option_that_it_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {**compiler._CPU, "xla_cpu_of_another_day": True})
    compiler._known.cache_clear()
    try:
        assert "xla_cpu_of_another_day" not in jl.compiler_options("cpu")
    finally:
        compiler._known.cache_clear()


def test_an_unknown_platform():
    with pytest.raises(ValueError, match=r"platform 'CPU' is unknown\n  expected: 'cpu', 'gpu'"):
        jl.compiler_options("CPU")


def _fitted(**options):
    x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    loss = lambda y, target: jnp.mean((y - target) ** 2)  # noqa: E731
    step = training.train_step(jl.Dense(1), loss, optax.sgd(0.1))
    state = step.start(jax.random.key(0), x[:8])
    batches = training.Batches((x, x), 8, key=0)
    return training.fit(step, state, batches, steps=2, progress=False, **options).state.params


def test_fit_compiles_with_them_and_without_them():
    for one, other in zip(
        *map(jax.tree.leaves, (_fitted(), _fitted(compiler_options={}))), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # What is given reaches the compiler, whose error names it.
    with pytest.raises(Exception, match="xla_cpu_of_another_day"):
        _fitted(compiler_options={"xla_cpu_of_another_day": True})


def test_explain_shows_them():
    told = jl.explain(jl.Conv(4, 1), jl.spec((1, 4, 4, 2)), platform="cpu")
    assert told.compiler_options == jl.compiler_options("cpu")
    assert "jl.compiler_options(): xla_cpu" in str(told)
    # In one line below a table that is narrower.
    assert f"(): {', '.join(told.compiler_options)}" in str(
        jl.explain(jl.Dense(4), jl.spec((1, 2)), platform="cpu")
    )
