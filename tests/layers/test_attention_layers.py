"""Layers of attention and their caches, against a NumPy loop over each row alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import attention_reference, convert
from tables.tiers import sample

import jlayers as jl
from jlayers.testing import check_sequence

LENGTHS = (9, 4, 0, 1)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _turn(**how):
    return lambda x: attention_reference.rotated(x, **how)


# Options of the layer, and where the reference has other ones, those.
CASES = {
    "plain": {},
    "causal, shared heads": {"causal": True, "num_kv_heads": 2},
    "window": {"causal": True, "window": 3, "soft_cap": 0.8},
    "rope": {"causal": True, "rope": 100.0, "num_kv_heads": 1},
    "rope, window": {"causal": True, "rope": True, "window": 4},
    "rope, all see all": {"rope": True, "soft_cap": 2.0},
    "rope, part of a head": {
        "causal": True,
        "rope": jl.Rope(50.0, interleaved=True, fraction=0.67),
        "head_dim": 6,
    },
    "rope, longer": {"causal": True, "rope": jl.Rope(50.0, scaling=jl.LinearScaling(3.0))},
    "alibi": {"causal": True, "alibi": True},
    "alibi, window": {"causal": True, "alibi": True, "window": 2},
    "alibi, all see all": {"alibi": (0.1, 0.5, 0.0, 2.0), "num_kv_heads": 2},
    "both sides": {"window": (2, 1), "num_kv_heads": 2},
    "dilated": {"causal": True, "pattern": lambda q, k: (q - k) % 2 == 0, "num_kv_heads": 2},
    "dilated, window": {"causal": True, "window": 5, "pattern": lambda q, k: (q - k) % 2 == 0},
    "prefix": {"pattern": lambda q, k: (k < 3) | (k <= q)},
    "blocks": {"pattern": lambda q, k: q // 3 == k // 3, "rope": True},
    "t5": {"causal": True, "relative": jl.T5Bias(6, 5), "scale": 1.0},
    "t5, window": {"causal": True, "relative": jl.T5Bias(6, 5), "window": 3},
    "t5, all see all": {"relative": jl.T5Bias(8, 6)},
    "shaw": {"causal": True, "relative": jl.ShawPositions(2), "value_dim": 3},
    "shaw, window": {"causal": True, "relative": jl.ShawPositions(2), "window": 4},
    "shaw, keys alone": {"relative": jl.ShawPositions(3, values=False), "num_kv_heads": 2},
    "xl": {"causal": True, "relative": jl.TransformerXLPositions(5), "num_kv_heads": 2},
    "xl, all see all": {"relative": jl.TransformerXLPositions(20, position_dim=6), "soft_cap": 2.0},
    "sinks": {"causal": True, "sinks": True, "num_kv_heads": 2},
    "sinks, window": {"causal": True, "sinks": True, "window": 3, "bias": ("query", "out")},
    "normalised, gated": {"causal": True, "qk_norm": "rms", "gate": True, "value_dim": 3},
    "normalised, rotated": {"causal": True, "qk_norm": "layer", "rope": True, "value_dim": 1},
}
THEIRS = {
    "rope": {"rotate": _turn(base=100.0)},
    "rope, window": {"rotate": _turn()},
    "rope, all see all": {"rotate": _turn()},
    "rope, part of a head": {"rotate": _turn(base=50.0, interleaved=True, size=4)},
    "rope, longer": {"rotate": _turn(frequencies=[1 / 3])},
    "blocks": {"rotate": _turn()},
    "t5": {"t5": (6, 5)},
    "t5, window": {"t5": (6, 5)},
    "t5, all see all": {"t5": (8, 6)},
    "shaw": {"shaw": 2},
    "shaw, window": {"shaw": 2},
    "shaw, keys alone": {"shaw": 3},
    "xl": {"xl": 5},
    "xl, all see all": {"xl": 20},
    "normalised, gated": {"head_norm": "rms"},
    "normalised, rotated": {"head_norm": "layer", "rotate": _turn()},
}
STREAMED = [case for case, options in CASES.items() if options.get("causal")]


def _layer(case, steps=9):
    layer = jl.SelfAttention(4, **({"head_dim": 2, "features": 5} | CASES[case]))
    return layer, _random(layer, jl.spec((4, steps, 6), jnp.float64))


def _random(layer, x):
    return convert.draw(jax.eval_shape(layer.init, jax.random.key(0), x)[0])


def _values(steps=9, features=6):
    return jnp.asarray(np.random.default_rng(steps).normal(size=(4, steps, features)))


def _reference(case, params, row):
    options = CASES[case] | THEIRS.get(case, {})
    for ours in ("rope", "relative", "qk_norm", "gate", "bias", "head_dim", "value_dim"):
        options.pop(ours, None)
    options.pop("sinks", None)  # they are in the parameters
    return attention_reference.self_attention(params, np.asarray(row), heads=4, **options)


def _with_holes():
    """Masks of all kinds: full, with holes, empty, and one that begins late."""
    mask = np.random.default_rng(2).random((4, 9)) < 0.6
    mask[0], mask[2], mask[3] = True, False, np.arange(9) > 4
    return jnp.asarray(mask)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("case", CASES)
def test_each_row_is_that_of_its_valid_steps_alone(case):
    layer, params = _layer(case)
    values, mask = _values(), _with_holes()
    x = jl.Sequence(jnp.where(mask[..., None], values, jnp.nan), mask)
    y, _ = jax.jit(layer.apply)(params, {}, x)
    np.testing.assert_array_equal(y.mask, mask)
    for row, here, got in zip(*map(np.asarray, (values, mask, y.values)), strict=True):
        wanted = _reference(case, params, row[here])
        np.testing.assert_allclose(got[here], wanted, rtol=1e-9, atol=1e-12)
    # No mask at all: the first row had none.
    alone, _ = jax.jit(layer.apply)(params, {}, values[:1])
    np.testing.assert_allclose(alone[0], y.values[0], rtol=1e-12)


def test_layers_that_share_a_table_of_distances():
    """With padding and in a stream, the same as a layer with the table of its own."""
    own = jl.SelfAttention(4, causal=True, relative=jl.T5Bias(6, 5))
    shared = jl.SelfAttention(4, causal=True, relative=jl.T5Bias(6, 5, shared=True))
    x = jl.Sequence(_values(9, 8), _with_holes())
    params = _random(own, x.values)
    rest = {name: value for name, value in params.items() if name != "relative_bias"}
    table = params["relative_bias"]
    wanted, _ = jax.jit(own.apply)(params, {}, x)
    y, _ = jax.jit(shared.apply)(rest, {}, {"x": x, "relative_bias": table})
    np.testing.assert_allclose(y.fill(), wanted.fill(), rtol=1e-12)
    start, step = map(jax.jit, jl.stream(shared, capacity=9))
    given = {"x": x[:, :4], "relative_bias": table}
    carry = start(rest, {}, given)
    first, carry = step(rest, {}, carry, given)
    second, _ = step(rest, {}, carry, given | {"x": x[:, 4:]})
    streamed = np.concatenate([first.fill(), second.fill()], 1)
    np.testing.assert_allclose(streamed, wanted.fill(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("CrossAttention with a mask, which PyTorch checks")
def test_keys_of_another_sequence_beside_the_steps():
    """With padding in either, whole and in blocks: a causal window of a cross-attention."""
    layer = jl.SelfAttention(4, causal=True, window=3, head_dim=2)
    x, memory = _values(9, 8), jnp.cos(_values(9, 5))
    masks = _with_holes(), _with_holes()[:, ::-1]
    given = {"x": jl.Sequence(x, masks[0]), "memory": jl.Sequence(memory, masks[1])}
    params = _random(layer, given)
    y, _ = jax.jit(layer.apply)(params, {}, given)
    here = np.asarray(masks[0] & masks[1])
    np.testing.assert_array_equal(y.mask, here)
    place = np.cumsum(here, 1)
    back = place[:, :, None] - place[:, None]
    seen = (back >= 0) & (back < 3) & here[:, None]
    wanted, _ = jax.jit(jl.CrossAttention(4, head_dim=2).apply)(
        params, {}, {"x": x, "memory": memory, "mask": seen}
    )
    values, wanted = np.asarray(y.values), np.asarray(wanted)
    np.testing.assert_allclose(values[here], wanted[here], rtol=1e-9, atol=1e-12)
    start, step = map(jax.jit, jl.stream(layer))
    carry, outputs = start(params, {}, {name: part[:, :1] for name, part in given.items()}), []
    for cut in (slice(0, 5), slice(5, 6), slice(6, 9)):
        block = {name: part[:, cut] for name, part in given.items()}
        out, carry = step(params, {}, carry, block)
        outputs.append(out.fill())
    np.testing.assert_allclose(np.concatenate(outputs, 1), y.fill(), rtol=1e-9, atol=1e-12)


def _blocks_of(x, cuts):
    first = 0
    for size in cuts:
        yield x[:, first : first + size]
        first += size
    assert first == x.shape[1]


def _streamed(layer, params, x, cuts, capacity=None):
    """The outputs of all blocks, put together, and the last carry."""
    start, step = map(jax.jit, jl.stream(layer, capacity=capacity))
    carry, outputs = start(params, {}, x[:, :1]), []
    avals = jax.tree.map(jax.typeof, carry)
    for block in _blocks_of(x, cuts):
        y, carry = step(params, {}, carry, block)
        outputs.append(y)
        assert jax.tree.map(jax.typeof, carry) == avals
    return jnp.concatenate(
        [y.fill() if isinstance(y, jl.Sequence) else y for y in outputs], 1
    ), carry


def _step_by_step(layer, params, x, capacity):
    """``_streamed`` of a Sequence in blocks of one step, in a program of one block."""
    start, step = jl.stream(layer, capacity=capacity)

    def advance(carry, block):
        y, carry = step(params, {}, carry, block)
        return carry, y.fill()

    blocks = jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, None], 1, 0), x)
    carry, outputs = jax.lax.scan(advance, start(params, {}, x[:, :1]), blocks)
    return jnp.moveaxis(outputs[:, :, 0], 0, 1), carry


@pytest.mark.parametrize("case", sample(STREAMED, 0))
def test_a_stream_is_the_whole_sequence_gradients_too(case):
    """Rows of different lengths, an empty one, holes; prompts longer than the window."""
    layer, params = _layer(case)
    x = jl.Sequence(_values(), _with_holes())
    weights = jnp.cos(jnp.arange(4 * 9 * 5.0)).reshape(4, 9, 5)

    def loss(run):
        def of(params, values):
            y, *rest = run(params, jl.Sequence(values, x.mask))
            y = y.fill() if isinstance(y, jl.Sequence) else y
            return jnp.sum(jnp.sin(y) * weights), (y, *rest)

        return jax.jit(jax.grad(of, (0, 1), has_aux=True))(params, x.values)

    wanted, (whole, _) = loss(lambda params, x: layer.apply(params, {}, x))
    for run in (
        lambda params, x: _step_by_step(layer, params, x, 9),
        lambda params, x: _streamed(layer, params, x, (6, 0, 1, 2), 9),
    ):
        got, (y, carry) = loss(run)
        np.testing.assert_array_equal(carry["count"], jnp.sum(x.mask, 1))
        np.testing.assert_allclose(y, whole, rtol=1e-9, atol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), got, wanted
        )


def test_plain_arrays_stream_as_well():
    layer, params = _layer("rope, window")
    values = _values()
    whole, _ = jax.jit(layer.apply)(params, {}, values)
    for cuts in ((1,) * 9, (7, 2)):
        y, carry = _streamed(layer, params, values, cuts)
        np.testing.assert_allclose(y, whole, rtol=1e-9, atol=1e-12)
        assert carry["keys"].shape == (4, 4, 4, 2)  # batch, heads, slots, size
        assert carry["count"].tolist() == [9] * 4


def test_padding_is_no_step_of_the_cache():
    """Step by step: an invalid one leaves its row of the carry as it is, to the bit."""
    layer, params = _layer("window")
    start, step = jl.stream(layer)
    step = jax.jit(step)
    _, carry = step(params, {}, start(params, {}, _values()), _values())
    for block in (_values(1), _values(3)):
        mask = jnp.zeros(block.shape[:2], bool).at[1].set(True)
        y, after = step(params, {}, carry, jl.Sequence(block * jnp.nan, mask))
        for name, value in after.items():
            np.testing.assert_array_equal(value[::2], carry[name][::2])
        assert after["count"].tolist() == [9, 9 + block.shape[1], 9, 9]
        assert bool(jnp.isfinite(y.values[::2]).all())


def test_the_slot_of_a_step_is_its_position():
    layer = jl.SelfAttention(1, causal=True, window=3, bias=False, kernel_init=_identity)
    params, _ = layer.init(jax.random.key(0), jl.spec((1, 1, 2), jnp.float64))
    values = jnp.arange(14.0).reshape(1, 7, 2)
    for cuts in ((1,) * 7, (7,), (2, 5)):
        _, carry = _streamed(layer, params, values, cuts)
        assert carry["keys"][0, 0, :, 0].tolist() == [12.0, 8.0, 10.0]


def _identity(key, shape, dtype):
    return jnp.eye(*shape, dtype=dtype)


@pytest.mark.parametrize("cuts", [(1,) * 9, (9,), (4, 5)], ids=str)
def test_steps_without_room_are_nan(cuts):
    layer, params = _layer("rope")
    mask = jnp.asarray(np.arange(9) < np.array(LENGTHS)[:, None])
    whole, _ = jax.jit(layer.apply)(params, {}, jl.Sequence(_values(), mask))
    y, carry = _streamed(layer, params, jl.Sequence(_values(), mask), cuts, capacity=6)
    assert carry["count"].tolist() == list(LENGTHS)
    assert bool(jnp.isnan(y[0, 6:]).all())
    np.testing.assert_allclose(y[:, :6], whole.fill()[:, :6], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y[1:], whole.fill()[1:], rtol=1e-9, atol=1e-12)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "steps", "options"),
    [
        (3, 4, 4, 1, {}),
        (1, 4, 4, 1, {}),
        (1, 2, 1, 1, {}),
        (3, 4, 2, 4, {}),
        (2, 4, 4, 1, {"window": 512}),
        (2, 4, 4, 4, {"window": 512}),
    ],
)
def test_a_loop_of_steps_copies_no_cache(batch, heads, kv_heads, steps, options):
    """Also for one row and one head, where XLA has other operations for the same program."""
    layer = jl.SelfAttention(heads, num_kv_heads=kv_heads, causal=True, rope=True, **options)
    x = jl.spec((batch, steps, 32 * heads))
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    start, step = jl.stream(layer, capacity=512)
    carry = jax.eval_shape(lambda p, x: start(p, {}, x), params, x)

    def one(params, carry, x):
        return step(params, {}, carry, x)

    def loop(params, carry, x):
        # What is written depends on what was read, as in decoding.
        return jax.lax.fori_loop(0, 7, lambda _, now: one(params, now[1], now[0]), (x, carry))

    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))
    for run in (one, loop):
        program = jax.jit(run, donate_argnums=1).lower(params, carry, x).compile()
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= size
        assert memory.temp_size_in_bytes < size / 2
        shape = ",".join(map(str, carry["keys"].shape))
        assert not re.search(rf"f32\[{shape}\]\S* copy\(", program.as_text())


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_sees_the_memory_s_valid_steps(masked):
    layer = jl.CrossAttention(4, num_kv_heads=2, head_dim=3, features=5, soft_cap=1.5)
    values, memory = _values(), _values(7, 3)
    params = _random(layer, (values, memory))
    seen = jnp.asarray(np.random.default_rng(0).random((4, 7)) < 0.5).at[1].set(False)
    mask = _with_holes()
    x = (values, memory)
    if masked:
        x = tuple(
            jl.Sequence(jnp.where(m[..., None], a, jnp.nan), m)
            for a, m in zip(x, (mask, seen), strict=True)
        )
    y, _ = jax.jit(layer.apply)(params, {}, x)
    start, step = jl.stream(layer)
    assert start(params, {}, x) == {}
    assert jl.receptive_field(layer, (values, memory)).lookahead == np.inf
    block, _ = step(params, {}, {}, (x[0][:, 2:5], x[1]))
    got, part = (a.values if masked else a for a in (y, block))
    np.testing.assert_allclose(part, got[:, 2:5], rtol=1e-12)
    if masked:
        np.testing.assert_array_equal(y.mask, mask)
    for b in range(4):
        q, k, v = (
            (a @ params[f"{name}_kernel"] + params[f"{name}_bias"]).reshape(len(a), heads, 3)
            for name, a, heads in (
                ("query", np.asarray(values[b]), 4),
                ("key", np.asarray(memory[b]), 2),
                ("value", np.asarray(memory[b]), 2),
            )
        )
        out = attention_reference.attention(
            q, k, v, lambda t, s, b=b: not masked or bool(seen[b, s]), soft_cap=1.5
        )
        wanted = out.reshape(9, -1) @ params["out_kernel"] + params["out_bias"]
        here = np.asarray(mask[b]) if masked else np.ones(9, bool)
        np.testing.assert_allclose(got[b][here], wanted[here], rtol=1e-9, atol=1e-12)


def test_a_memory_of_another_sequence_kind_mixes():
    """The output has the mask of x, and none where x has none."""
    layer = jl.CrossAttention(2)
    values = _values()
    params = _random(layer, (values, values))
    memory = jl.Sequence(values, _with_holes())
    y, _ = layer.apply(params, {}, (values, memory))
    assert isinstance(y, jax.Array)
    y, _ = layer.apply(params, {}, (memory, values))
    np.testing.assert_array_equal(y.mask, memory.mask)


@pytest.mark.full
def test_the_contract_of_sequences():
    """The plain layers are in the table over which it is checked."""
    layer = jl.residual(jl.SelfAttention(2, causal=True, window=2, rope=True))
    check_sequence(jl.repeat(layer, 2), jl.spec((3, 5, 4)))


def test_reaches():
    x = jl.spec((2, 5, 4))
    assert jl.receptive_field(jl.SelfAttention(2, causal=True, window=4), x) == jl.ReceptiveField(
        1, 3, 0
    )
    assert jl.receptive_field(jl.SelfAttention(2, causal=True), x).lookback == np.inf
    assert jl.receptive_field(jl.SelfAttention(2), x).lookahead == np.inf
