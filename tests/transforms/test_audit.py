"""audit: a clean model is clean, and what is wrong is named with its layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import transforms
from jlayers.transforms import Precision, audit

X = jl.spec((2, 5, 8))
IDS = jl.spec((2, 5), jnp.int32)
ISLANDS = {"**/norm*": "float32", "head": "float32", "**": "mixed"}


@pytest.fixture
def promoting():
    """As users have it: JAX promotes dtypes by itself."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def transformer(act=jax.nn.gelu):
    mlp = jl.serial(jl.Dense(16), act=act, out=jl.Dense(8))
    block = jl.TransformerBlock(jl.SelfAttention(2, causal=True), mlp)
    return jl.serial(
        jl.Embedding(11, 8), blocks=jl.repeat(block, 3), norm=jl.LayerNorm(), head=jl.Dense(11)
    )


def wrong(model, x, **options):
    found = audit(model, x, **options).unexpected
    return [(row.path, row.where, row.what, row.unexpected) for row in found]


def test_what_is_unexpected_prints_as_a_table():
    model = jl.serial(half=lambda x: x.astype(jnp.float32) / 2, head=jl.Dense(3))
    found = audit(transforms.precision(model, "mixed"), jl.spec((2, 8))).unexpected
    title, _, row = str(found).splitlines()
    assert title.split() == ["path", "where", "dtypes", "of", "times", "unexpected"]
    assert row.split()[:5] == ["half", "forward", "bfloat16", "->", "float32"]
    assert row.endswith("its output is wider than its inputs")
    assert repr(found) == str(found)
    assert isinstance(found, tuple)
    assert str(audit(jl.Dense(3), jl.spec((2, 8))).unexpected) == "()"


def test_a_transformer_with_islands_is_clean():
    report = audit(transforms.precision(transformer(), ISLANDS), IDS)
    assert report.unexpected == ()
    casts = {(row.path, row.where, row.what, row.of): row.times for row in report.rows}
    # In each of three copies.
    entered = ("blocks/norm_attend", "forward", "bfloat16 -> float32", "activations")
    assert casts[entered] == 3
    assert casts["blocks/mlp/dense", "forward", "float32 -> bfloat16", "parameters"] >= 6
    assert casts["norm", "forward", "bfloat16 -> float32", "activations"] == 1
    assert casts["embedding", "backward", "bfloat16 -> float32", "activations"] == 1
    assert ("head", "forward", "float32 -> bfloat16", "parameters") not in casts
    title, _, first, *_ = str(report).splitlines()
    assert title.split() == ["path", "where", "dtypes", "of", "times", "unexpected"]
    assert first.split() == [
        "embedding",
        "forward",
        "float32",
        "->",
        "bfloat16",
        "activations",
        "1",
    ]
    assert repr(report) == str(report)


def test_a_model_in_float32_has_no_cast():
    assert audit(transformer(), IDS).rows == ()
    assert audit(jl.serial(jl.Embedding(3, 2), jnp.argmax), jl.spec((4,), jnp.int32)).rows == ()


def test_a_constant_of_numpy_is_named(promoting):
    scale = np.full((16,), 0.5, np.float32)
    act = jl.serial(half=lambda x: x * scale, gelu=jax.nn.gelu)
    mixed = transforms.precision(transformer(act), ISLANDS)
    text = "its output is wider than its inputs"
    expected = [("blocks/mlp/act/half", "forward", "bfloat16 -> float32", text)]
    assert wrong(mixed, IDS) == expected
    # Also where bfloat16 comes from outside, without a rule.
    model = jl.serial(jl.Dense(16), half=lambda x: x * scale, head=jl.Dense(3))
    given = jl.spec((2, 8), jnp.bfloat16)
    assert ("half", "forward", "bfloat16 -> float32", text) in wrong(model, given)


def test_a_body_that_goes_on_in_float32_is_named(promoting):
    def body(f, x):
        return f.b(f.a(x) * np.float32(3))

    model = transforms.precision(
        jl.serial(net=jl.compose(body, a=jl.Dense(8), b=jl.Dense(8))), "mixed"
    )
    text = "what it gives to 'b' is wider than its inputs"
    assert wrong(model, X) == [("net", "forward", "bfloat16 -> float32", text)]

    def widened(f, x):
        return f.b(f.a(x).astype(jnp.float32))

    meant = jl.serial(net=jl.compose(widened, a=jl.Dense(8), b=jl.Dense(8)))
    assert wrong(transforms.precision(meant, {"net/b": "float32", "**": "mixed"}), X) == []


def test_rounding_for_nothing_is_named():
    def rounded(x):
        return jnp.sin(x.astype(jnp.bfloat16).astype(jnp.float32))

    trip, dtypes = (
        "rounded at 'rounded' and used in float32 alone",
        "float32 -> bfloat16 -> float32",
    )
    assert wrong(jl.serial(jl.Dense(3), rounded), X) == [("rounded", "forward", dtypes, trip)]
    # A body in bfloat16 whose first layer is an island.
    body = jl.compose(lambda f, x: f.dense(f.norm(x)), norm=jl.LayerNorm(), dense=jl.Dense(3))
    model = jl.serial(net=body)
    rules = {"net/norm": "float32", "net": "bfloat16"}
    found = wrong(transforms.precision(model, rules), X)
    trip = "rounded at 'net' and used in float32 alone"
    assert found == [("net/norm", "forward", dtypes, trip)]
    assert wrong(transforms.precision(model, rules | {"net": "float32"}), X) == []


def test_long_sums_in_16_bits_are_named():
    def total(x):
        return jax.lax.reduce(x, jnp.zeros((), x.dtype), jax.lax.add, (1,))

    def running(x):
        return jax.lax.scan(lambda c, row: (c + row, None), x[:, 0], x.swapaxes(0, 1))[0]

    def shifted(x):
        return x + jnp.broadcast_to(jnp.ones((1,), x.dtype), x.shape)

    def bias(f, x):
        # Without the library's care for it: the gradient is a sum over all steps.
        return x + jnp.broadcast_to(f.param("bias", jax.nn.initializers.zeros, (3,)), x.shape)

    x, text = jl.spec((1, 300, 3), jnp.bfloat16), "a sum of 300 terms in bfloat16"
    assert wrong(jl.serial(total=total), x, train=False) == [("total", "forward", "bfloat16", text)]
    model = jl.serial(sums=lambda x: jax.lax.cumsum(x, 1))
    assert wrong(model, x) == [
        ("sums", where, "bfloat16", text) for where in ("forward", "backward")
    ]
    assert wrong(model, jl.spec((1, 256, 3), jnp.bfloat16)) == []
    assert wrong(model, jl.spec((1, 300, 3), jnp.float16)) == []
    assert wrong(jl.serial(loop=running), x, train=False) == [("loop", "forward", "bfloat16", text)]
    assert wrong(jl.serial(shifted), x) == []
    found = wrong(jl.serial(jl.compose(bias, name="own")), x)
    assert found == [("own", "backward", "bfloat16", text)]
    assert wrong(jl.serial(jl.compose(bias, name="own")), x, train=False) == []
    # jnp.sum, and biases and tables of the library, are summed in float32.
    model = transforms.precision(jl.serial(jl.Dense(3), lambda x: jnp.sum(x, 1)), "mixed")
    assert wrong(model, jl.spec((1, 300, 3))) == []


def test_parameters_in_16_bits_are_named_in_training():
    rules = {"blocks": Precision("bfloat16", "bfloat16"), "**": "mixed"}
    model = transforms.precision(transformer(), rules)
    found = wrong(model, IDS)
    text = "stored in bfloat16: small updates are lost"
    assert {row[1:] for row in found} == {("params", "bfloat16", text)}
    assert {row[0] for row in found} == {
        "blocks/norm_attend", "blocks/norm_mlp", "blocks/attend", "blocks/mlp/dense",
        "blocks/mlp/out",
    }  # fmt: skip
    assert wrong(model, IDS, train=False) == []


def test_float64_is_named_where_it_begins(promoting):
    factors = np.full((8,), 0.5)
    model = jl.serial(jl.Dense(8), half=lambda x: x * factors, head=jl.Dense(3))
    with jax.enable_x64(True):
        found = wrong(model, X)
        assert found == [
            ("half", "forward", "float32 -> float64", "no input and no rule has float64")
        ]
        assert wrong(model, jl.spec((2, 8), "float64")) == []
