"""transfer: parameters and state of one model for another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from tables.instances import INSTANCES

import jlayers as jl
from jlayers.inspection.renaming import Rename

KEY, OTHER = jax.random.key(0), jax.random.key(1)
X = jl.spec((2, 6))
OLD = jl.serial(
    encoder=jl.serial(jl.Dense(6), jl.Dense(6), jl.Dense(6)), norm=jl.BatchNorm(), head=jl.Dense(5)
)
PARAMS, STATE = OLD.init(KEY, X)
STATE = jax.tree.map(lambda leaf: leaf + 7, STATE)
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(np.array_equal, a, b)
    )


def rows(report):
    return {row.path: row.status for row in report.rows}


def test_a_model_to_itself_is_complete():
    params, state, report = jl.transfer(PARAMS, OLD, OLD.replace(), X, state=STATE, strict=True)
    assert report.complete
    assert same((params, state), (PARAMS, STATE))
    assert str(report) == "12 moved"
    assert repr(report) == "<TransferReport 12 moved>"


def test_every_layer_of_the_table_to_itself_built_again():
    for row in INSTANCES.values():
        if row.full:
            continue
        tables = jl.parameters(row.layer, row.x), jl.variables(row.layer, row.x)
        params, state = (
            jl.unflatten({path: np.zeros(s.shape, s.dtype) for path, s in table.items()})
            for table in tables
        )
        moved = jl.transfer(params, row.layer, row.layer.replace(), row.x, state=state, strict=True)
        assert moved.report.complete
        # The same arrays, not copies of them.
        for old, new in zip(
            jax.tree.leaves((params, state)), jax.tree.leaves(moved[:2]), strict=True
        ):
            assert old is new


def test_a_new_head_and_what_is_left_over():
    new = jl.serial(encoder=OLD["encoder"], norm=jl.BatchNorm(), top=jl.Dense(3))
    params, state, report = jl.transfer(PARAMS, OLD, new, X, state=STATE, key=OTHER)
    mine, _ = new.init(OTHER, X)
    assert same(params["encoder"], PARAMS["encoder"])
    assert same(params["top"], mine["top"])
    assert same(state, STATE)
    assert report.new == ("top/kernel", "top/bias")
    assert report.left_over == ("head/kernel", "head/bias")
    assert len(report.moved) == 10
    assert not report.complete
    assert str(report).splitlines() == [
        "10 moved, 2 new, 2 left over",
        "  new        top/kernel   float32[6, 3]",
        "  new        top/bias     float32[3]",
        "  left over  head/kernel  float32[6, 5]",
        "  left over  head/bias    float32[5]",
    ]
    # The trees are those of the new model.
    assert new.apply(params, state, VALUES)[0].shape == (2, 3)


def test_state_can_be_new():
    _, state, report = jl.transfer(PARAMS, OLD, OLD, X, state={}, key=OTHER)
    assert same(state, OLD.init(OTHER, X)[1])
    assert report.new == ("norm/mean", "norm/var")
    assert "float32[6], state" in str(report)


@pytest.mark.parametrize("partial", ["pad", {"head/*": "pad"}])
def test_padded_arrays_have_old_values_in_the_first_places(partial):
    new = OLD.replace(head=jl.Dense(8))
    params, _, report = jl.transfer(PARAMS, OLD, new, X, state=STATE, key=OTHER, partial=partial)
    mine = new.init(OTHER, X)[0]["head"]["kernel"]
    expected = np.concatenate([PARAMS["head"]["kernel"], mine[:, 5:]], axis=1)
    assert np.array_equal(params["head"]["kernel"], expected)
    assert "padded     head/kernel  float32[6, 5] -> float32[6, 8]" in str(report)
    assert report.complete


def test_sliced_arrays_are_the_first_places_and_need_no_key():
    new = OLD.replace(head=jl.Dense(3))
    params, _, report = jl.transfer(PARAMS, OLD, new, X, state=STATE, partial="slice")
    assert np.array_equal(params["head"]["kernel"], PARAMS["head"]["kernel"][:, :3])
    assert rows(report)["head/bias"] == "sliced"
    # The other way of the two does not apply here.
    _, _, report = jl.transfer(PARAMS, OLD, new, X, state=STATE, key=OTHER, partial="pad")
    assert report.changed == ("head/kernel", "head/bias")
    assert "changed    head/kernel  float32[6, 5] -> float32[6, 3], new values" in str(report)


def test_dtypes_are_kept():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    new = OLD.replace(head=jl.Dense(8))
    params, _, _ = jl.transfer(half, OLD, new, X, state=STATE, key=OTHER, partial="pad")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    # A float is not an integer: these do not fit, whatever their shapes.
    counts = jl.compose(lambda f, x: x + f.variable("n", jax.nn.initializers.zeros, (2,)).value)

    def whole(f, x):
        zeros = lambda key, shape, dtype: jnp.zeros(shape, jnp.int32)  # noqa: E731
        return x + f.variable("n", zeros, (2,), jnp.int32).value.astype(x.dtype)

    _, state = counts.init(KEY, jl.spec((2,)))
    new, report = jl.transfer(
        {}, counts, jl.compose(whole), jl.spec((2,)), state=state, key=KEY, partial="pad"
    )[1:]
    assert (new["n"].dtype, report.changed) == (jnp.int32, ("n",))


def test_another_input_of_the_old_model():
    new = jl.serial(first=jl.Dense(6), head=jl.Dense(5))
    old = jl.serial(first=jl.Dense(6), head=jl.Dense(5))
    params, _ = old.init(KEY, jl.spec((2, 3)))
    moved, _, report = jl.transfer(params, old, new, X, old_x=jl.spec((2, 3)), key=OTHER)
    assert report.changed == ("first/kernel",)
    assert same(moved["head"], params["head"])


def test_a_part_needs_no_key_and_it_all_compiles():
    params, _, report = jl.transfer(PARAMS, OLD, OLD[:"head"], X, state=STATE)
    assert report.left_over == ("head/kernel", "head/bias")
    assert same(params, {name: PARAMS[name] for name in ("encoder", "norm")})
    inner, _, _ = jl.transfer(
        PARAMS, OLD, OLD["encoder"], X, state=STATE, rename={"encoder/**": "**"}
    )
    assert same(inner, PARAMS["encoder"])

    def moved(params, key):
        return jl.transfer(params, OLD, WIDE, X, state=STATE, key=key, partial="pad").params

    assert same(jax.jit(moved)(PARAMS, OTHER), moved(PARAMS, OTHER))


RENAMES = [
    ({"encoder/**": "backbone/**"}, "encoder/dense/kernel", "backbone/dense/kernel"),
    ({"encoder/**": "**"}, "encoder/dense/kernel", "dense/kernel"),
    ({"**": "model/**"}, "encoder/dense/kernel", "model/encoder/dense/kernel"),
    ({"**/kernel": "**/weight"}, "encoder/dense/kernel", "encoder/dense/weight"),
    ({"**/kernel": "**/weight"}, "kernel", "weight"),
    ({"encoder/**": "a/**/b"}, "encoder/dense/kernel", "a/dense/kernel/b"),
    ({"a/**/b": "c/**"}, "a/x/y/b", "c/x/y"),
    ({"layer*/*": "block*/*"}, "layer3/kernel", "block3/kernel"),
    ({"dense_?/bias": "d?/b"}, "dense_2/bias", "d2/b"),
    ({"a.b": "c"}, "axb", "axb"),
    ({"head/bias": "top/bias", "head/*": "other/*"}, "head/bias", "top/bias"),
]


@pytest.mark.parametrize(("rules", "path", "expected"), RENAMES)
def test_renamed_paths(rules, path, expected):
    assert Rename(rules)(path) == expected


def test_rename_moves_a_part_elsewhere():
    new = jl.serial(backbone=OLD["encoder"], norm=jl.BatchNorm(), head=jl.Dense(5))
    params, _, report = jl.transfer(
        PARAMS, OLD, new, X, state=STATE, rename={"encoder/**": "backbone/**"}, strict=True
    )
    assert same(params["backbone"], PARAMS["encoder"])
    row = next(row for row in report.rows if row.path == "backbone/dense_1/bias")
    assert row.sources == ("encoder/dense_1/bias",)
    assert "backbone/dense/kernel    float32[6, 6], from encoder/dense/kernel" in str(report)
    # Without it the report says what would have moved most.
    report = jl.transfer(PARAMS, OLD, new, X, state=STATE, key=KEY).report
    assert report.hint == "rename={'encoder/**': 'backbone/**'}"
    assert str(report).splitlines()[-1].strip() == f"hint: {report.hint}"


def block():
    return jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(6)))


@pytest.mark.parametrize("inside", [False, True])
def test_copies_are_stacked_and_taken_apart(inside):
    side, stacked = jl.serial(*[block() for _ in range(12)]), jl.repeat(block(), 12)
    if inside:
        side, stacked = (jl.serial(blocks=one, head=jl.Dense(2)) for one in (side, stacked))
    params, _ = side.init(KEY, X)
    together, _, report = jl.transfer(params, side, stacked, X, strict=True)
    assert report.complete
    y, _ = side.apply(params, {}, VALUES)
    np.testing.assert_allclose(stacked.apply(together, {}, VALUES)[0], y, rtol=1e-4, atol=1e-4)
    again, _, report = jl.transfer(together, stacked, side, X, strict=True)
    assert same(again, params)
    assert "12 x float32[6, 6] -> float32[12, 6, 6]" in str(
        jl.transfer(params, side, stacked, X).report
    )
    assert "float32[12, 6, 6] -> float32[6, 6], from " in str(report)


def test_copies_move_with_rename_and_inside_other_copies():
    side = jl.repeat(jl.serial(jl.Dense(6), jl.Dense(6)), 3)
    stacked = jl.serial(deep=jl.repeat(jl.repeat(jl.Dense(6), 2), 3))
    params, _ = side.init(KEY, X)
    together, _, report = jl.transfer(params, side, stacked, X, rename={"**": "deep/**"})
    assert report.complete
    assert together["deep"]["kernel"].shape == (3, 2, 6, 6)
    assert np.array_equal(together["deep"]["kernel"][:, 1], params["dense_1"]["kernel"])
    again, _, report = jl.transfer(together, stacked, side, X, rename={"deep/**": "**"})
    assert report.complete
    assert same(again, params)


def test_a_path_of_both_models_may_mean_another_layer():
    block = jl.serial(jl.serial(jl.Dense(3)), jl.Dense(6))
    stacked, side = jl.repeat(block, 2), jl.serial(block, block)
    params, _ = stacked.init(KEY, X)
    # The inner layer of a copy, and the outer one of the first of two.
    assert "serial/dense/kernel" in jl.flatten(params)
    apart, _, report = jl.transfer(params, stacked, side, X)
    assert report.complete
    assert np.array_equal(apart["serial"]["dense"]["kernel"], params["dense"]["kernel"][0])
    inner = params["serial"]["dense"]["kernel"][1]
    assert np.array_equal(apart["serial_1"]["serial"]["dense"]["kernel"], inner)
    again, _, report = jl.transfer(apart, side, stacked, X)
    assert report.complete
    assert same(again, params)


def test_states_of_copies_move_with_them():
    def block():
        return jl.residual(jl.serial(jl.BatchNorm(), jl.Dense(6)))

    side, stacked = jl.serial(block(), block()), jl.repeat(block(), 2)
    params, state = side.init(KEY, X)
    _, state = side.apply(params, state, VALUES, train=True)
    together, states, report = jl.transfer(params, side, stacked, X, state=state, strict=True)
    assert report.complete
    y, _ = side.apply(params, state, VALUES)
    np.testing.assert_allclose(stacked.apply(together, states, VALUES)[0], y, rtol=1e-4, atol=1e-4)


def test_copies_of_another_number_are_not_mixed_up():
    side = jl.serial(*[jl.Dense(6) for _ in range(3)])
    params, _ = side.init(KEY, X)
    report = jl.transfer(params, side, jl.repeat(jl.Dense(6), 2), X, key=KEY).report
    assert report.new == ("kernel", "bias")
    more = jl.repeat(jl.Dense(6), 3)
    params, _ = more.init(KEY, X)
    wide, _, report = jl.transfer(params, more, more.replace(n=4), X, key=KEY, partial="pad")
    assert rows(report) == {"kernel": "padded", "bias": "padded"}
    assert np.array_equal(wide["kernel"][:3], params["kernel"])


def move(new=OLD, **options):
    options = {"state": STATE, "key": KEY, **options}
    return jl.transfer(PARAMS, OLD, new, X, **options)


WIDE = OLD.replace(head=jl.Dense(8))

CASES = [
    (
        lambda: move(state=None),
        "serial: the old model has state, and none is given",
        "expected: state with norm/mean, norm/var",
        "hint:     transfer(..., state=state); state={} for the new model's initial one",
    ),
    (lambda: move(state={"norm": {}}), "serial: state does not fit the model*", "missing"),
    (lambda: move(state=3), "serial: state must be a tree of arrays"),
    (
        lambda: jl.transfer(PARAMS["head"], OLD, WIDE, X, state=STATE),
        "serial: params do not fit the model: 10 missing, 2 extra",
        "missing    encoder/dense/kernel",
    ),
    (lambda: jl.transfer(PARAMS, OLD, WIDE, jl.spec((2, 9)), state=STATE), "*params do not fit*"),
    (
        lambda: move(WIDE, key=None),
        "transfer: a key is needed: 2 arrays of the new model are initialised",
        "got:      head/kernel, head/bias",
        "hint:     transfer(..., key=jax.random.key(0)); rename= or partial= to move more",
    ),
    (lambda: move(WIDE, key=3), "transfer: the key must be*"),
    (
        lambda: move(WIDE, strict=True),
        "transfer: the old model's arrays are not those of the new one: 10 moved, 2 changed",
        "changed    head/kernel  float32[6, 5] -> float32[6, 8], new values",
        "hint:     strict=False to initialise what is new",
    ),
    (
        lambda: move(jl.serial(top=OLD), strict=True),
        "*: 12 new, 12 left over",
        "rename={'**': 'top/**'}",
        "and 4 more",
    ),
    (lambda: move(strict=1), "transfer: strict must be True or False*"),
    (
        lambda: move(rename={"encoder/*": "backbone/**"}),
        "transfer: the two sides of a rule of rename have other wildcards: 'encoder/*' and "
        "'backbone/\u002a*'",
        'hint:     rename={"encoder/**": "backbone/**"}',
    ),
    (
        lambda: move(rename={"encodr/**": "backbone/**"}),
        "transfer: the rule 'encodr/\u002a*' of rename fits no path of the old model",
        "got:      encoder/dense/kernel",
        "hint:     did you mean 'encoder/**'?",
    ),
    (lambda: move(rename={"encoder": "a"}), "*the rule 'encoder' of*", "hint:     'encoder/**'"),
    (lambda: move(rename="encoder"), "transfer: rename must be a mapping*", "got:      'encoder'"),
    (lambda: move(rename={"a": 3}), "transfer: rename must be a mapping*"),
    (
        lambda: move(rename={"encoder/dense/*": "encoder/dense_1/*"}),
        "transfer: two old arrays become 'encoder/dense_1/kernel'",
        "got:      encoder/dense/kernel and encoder/dense_1/kernel",
        "hint:     rename= with other paths",
    ),
    (
        lambda: move(partial="padd"),
        "transfer: partial must be 'pad', 'slice', or one of them by path",
        "got:      'padd'",
        'hint:     partial={"head/*": "pad"}',
    ),
    (lambda: move(partial={"head/*": "cut"}), "transfer: partial must be 'pad', 'slice'*"),
    (lambda: move(partial={"haed/*": "pad"}), "transfer: the pattern 'haed/\u002a' fits no path"),
    (
        lambda: jl.transfer(PARAMS, STATE, OLD, WIDE, X),
        "transfer: takes 4 arguments by position, got 5",
    ),
]


@each(CASES)
def test_errors(case):
    read(case)


def by_lengths(layer):
    return jl.weight_norm(layer, "**/kernel")


def low_rank(layer):
    return jl.transforms.dora(layer, "**/kernel", rank=1)


@pytest.mark.parametrize("wrap", [by_lengths, low_rank])
def test_what_is_computed_of_a_weight_is_so_of_the_one_that_moved(wrap):
    """The transformed model computes what the old one did, in copies and under another path."""
    old = jl.serial(a=jl.repeat(jl.Dense(3), 2), b=jl.Dense(2))
    new = wrap(jl.serial(c=jl.repeat(jl.Dense(3), 2), b=jl.Dense(2)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    params, state = old.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: 2 * p + 0.5, params)
    moved, own, report = jl.transfer(
        params, old, new, x, key=jax.random.key(1), rename={"a/**": "c/**"}
    )
    assert {row.status for row in report.rows} == {"moved", "new"}
    wanted, _ = old.apply(params, state, x)
    np.testing.assert_allclose(new.apply(moved, own, x)[0], wanted, rtol=1e-5, atol=1e-5)


def test_singular_vectors_are_those_of_the_weight_that_moved():
    old, new = jl.Dense(3), jl.spectral_norm(jl.Dense(3))
    x = jl.spec((4, 5))
    params, _ = old.init(jax.random.key(0), x)
    moved, state, _ = jl.transfer(params, old, new, x, key=jax.random.key(1))
    _, wanted = new.init(jax.random.key(0), x)
    assert state.keys() == wanted.keys() == {"kernel_u", "kernel_v"}
    for name, vector in wanted.items():
        np.testing.assert_allclose(state[name], vector, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved["kernel"], params["kernel"])


def test_the_state_that_is_missing_is_named_in_part():
    deep = jl.serial(*[jl.BatchNorm() for _ in range(3)])
    params, _ = deep.init(KEY, X)
    with pytest.raises(jl.LayerError, match="batch_norm_1/mean, batch_norm_1/var, and 2 more"):
        jl.transfer(params, deep, deep, X)


def test_arguments_that_give_moved_numbers_another_meaning_are_named():
    heads = [jl.serial(jl.SelfAttention(n), jl.Dense(3)) for n in (2, 4)]
    x = jl.spec((2, 3, 4))
    params, _ = heads[0].init(jax.random.key(0), x)
    _, _, report = jl.transfer(params, *heads, x)
    assert report.complete
    assert [str(one) for one in report.differs] == ["num_heads 2 -> 4"]
    assert str(report) == "10 moved\n  differs    self_attention: num_heads 2 -> 4"
    # Another initialiser made other values, which are those of the old model now.
    zeros = heads[0].replace(dense=jl.Dense(3, kernel_init=jax.nn.initializers.zeros))
    assert not jl.transfer(params, heads[0], zeros, x).report.differs
