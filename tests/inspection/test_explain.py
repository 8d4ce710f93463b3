"""explain: what is computed how, and why; and method=, which overrules it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

IMAGE = jl.spec((2, 9, 9, 4))
STEPS = jl.spec((2, 7, 3))

# layer, input, methods that can compute it
METHODS = [
    (jl.Conv, (4, 1), {}, IMAGE, ("direct", "matmul", "patches", "rows")),
    (jl.Conv, (8, 3), {"groups": 4}, IMAGE, ("direct", "shifted", "blocks")),
    (jl.Conv, (4, 3), {}, jl.spec((1, 4, 4, 4, 2)), ("direct", "patches", "planes")),
    (jl.ConvTranspose, (3, 4), {"strides": 2}, IMAGE, ("direct", "phases")),
    (jl.MaxPool, (3,), {"strides": 2}, IMAGE, ("direct", "axes")),
    (jl.AvgPool, (3,), {"strides": 2}, IMAGE, ("direct", "axes")),
    (jl.SimpleRNN, (4,), {}, STEPS, ("store", "recompute")),
    (jl.LSTM, (4,), {}, STEPS, ("store", "recompute")),
    (jl.GRU, (4,), {}, STEPS, ("store", "recompute")),
]


@pytest.mark.parametrize(("make", "given", "options", "x", "methods"), METHODS)
def test_a_layer_with_its_method(make, given, options, x, methods):
    values = jax.random.normal(jax.random.key(1), x.shape)
    plain = make(*given, **options)
    params, state = plain.init(jax.random.key(0), x)
    expected, _ = plain.apply(params, state, values)
    for method in methods:
        layer = make(*given, **options, method=method)
        assert f"method={method!r}" in repr(layer)
        y, _ = layer.apply(params, state, values)
        np.testing.assert_allclose(y, expected, atol=1e-5)
        (decision,) = jl.explain(layer, x).decisions[:1]
        assert decision.method == method
        assert decision.reason == "given by method="
    (decision,) = jl.explain(plain, x, platform="cpu").decisions[:1]
    assert decision.method in methods
    with pytest.raises(jl.LayerError) as raised:
        make(*given, **options, method="magic").init(jax.random.key(0), x)
    text = str(raised.value)
    # Of recurrent layers the methods do not depend on the input: the layer is not even built.
    expected = [
        f"{decision.operation} has no method 'magic' for these arguments, but "
        + ", ".join(map(repr, methods)),
        "method must be " + " or ".join(map(repr, methods)) + ", got 'magic'",
    ]
    assert any(words in text for words in expected)


def test_every_layer_of_a_model_has_its_path():
    block = jl.serial(jl.Conv(4, 1), jl.residual(jl.Conv(4, 3, groups=4, padding="SAME")))
    model = jl.serial(jl.Dense(4), jl.repeat(block, 3), jl.MaxPool(2), jl.each_step(jl.LSTM(3)))
    rows = jl.explain(model, IMAGE, platform="cpu").decisions
    assert [(row.path, row.method) for row in rows] == [
        ("serial/conv", "matmul"),
        ("serial/residual/body", "shifted"),
        ("max_pool", "axes"),
        ("lstm", "store"),
    ]
    elsewhere = jl.explain(model, IMAGE, platform="gpu").decisions
    assert [row.method for row in elsewhere] == ["matmul", "direct", "direct", "store"]


def test_calls_of_other_shapes_have_rows_of_their_own():
    def body(f, x):
        return f.conv(f.conv(x)[:, ::2, ::2])

    twice = jl.compose(body, conv=jl.Conv(4, 3, padding="SAME", groups=4))
    assert [row.operation for row in jl.explain(twice, IMAGE).decisions] == ["conv", "conv"]


def test_it_prints_as_a_table():
    text = str(jl.explain(jl.Conv(4, 1), IMAGE, platform="cpu"))
    assert "why on cpu" in text
    assert "a kernel of one element is a matrix product" in text


def test_an_unknown_platform():
    with pytest.raises(ValueError, match=r"platform 'abacus' is unknown\n  expected: 'cpu', 'gpu'"):
        jl.explain(jl.Conv(4, 1), IMAGE, platform="abacus")


def test_what_the_rule_chose_is_what_runs():
    """A program with a shifted depthwise convolution has no convolution in it."""
    layer = jl.Conv(8, 3, groups=4)
    params, _ = layer.init(jax.random.key(0), IMAGE)
    program = jax.jit(lambda x: layer.apply(params, {}, x)[0]).lower(jnp.ones(IMAGE.shape))
    assert "stablehlo.convolution" not in program.as_text()
