"""Restore plans, and trees that cannot be saved or restored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read
from test_checkpoints import assert_exact

import jlayers as jl
from jlayers import training

SAVED = {
    "params": {"body": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}, "head": {"w": jnp.ones((3, 4))}},
    "step": jnp.int32(3),
    "rate": 0.5,
}
WANTED = {
    "params": {"body": {"w": jnp.zeros((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}, "head": {}},
    "step": jnp.zeros((2,), jnp.int16),
    "rate": jnp.float32(1),
    "new": jnp.full(2, 7.0),
}


PLAN = """\
step_00000003: 1 of 6 paths match; 1 missing, 1 extra, 1 wrong shape, 3 wrong dtype
  missing                      'new'            expected float32[2], not in the checkpoint
  extra                        'params/head/w'  the checkpoint has float32[3, 4]
  wrong shape and wrong dtype  'step'           expected int16[2], the checkpoint has int32[]
  wrong dtype                  'params/body/b'  expected bfloat16[3], the checkpoint has float32[3]
  wrong dtype                  'rate'           expected float32[], the checkpoint has Python float"""  # noqa: E501


def test_a_plan_has_every_path(tmp_path):
    path = training.save_checkpoint(tmp_path, SAVED, step=3)
    plan = training.restore_plan(path, WANTED)
    assert plan.matched == ("params/body/w",)
    assert plan.missing == ("new",)
    assert plan.extra == ("params/head/w",)
    assert plan.wrong_shape == ("step",)
    assert plan.wrong_dtype == ("params/body/b", "rate", "step")
    assert str(plan) == PLAN
    with pytest.raises(jl.CheckpointError) as caught:
        training.read_checkpoint(path, WANTED)
    assert all(f"\n  {line}" in str(caught.value) for line in PLAN.splitlines()[1:])


def test_allowed_paths_keep_the_values_of_the_template(tmp_path):
    path = training.save_checkpoint(tmp_path, SAVED, step=3)
    allow = ("params/head/**", "params/*/b", "step", "rate", "new")
    restored = training.read_checkpoint(path, WANTED, allow=allow)
    kept = jax.tree.map(lambda leaf: leaf, WANTED)
    kept["params"]["body"]["w"] = SAVED["params"]["body"]["w"]
    assert_exact(restored.tree, kept)
    assert "(allowed: dropped)" in str(restored.plan)
    assert "(allowed: keeps the template's)" in str(restored.plan)
    head = {"params": {**SAVED["params"], "head": {"w": jnp.zeros((3, 9))}}}
    head = {**SAVED, **head}
    tree = training.read_checkpoint(path, head, allow=["params/head/**"]).tree
    assert_exact(tree, head | {"params": tree["params"]})
    assert_exact(tree["params"]["body"], SAVED["params"]["body"])


def saved(tmp_path_factory, tree=SAVED, **options):
    return training.save_checkpoint(tmp_path_factory, tree, step=3, **options)


class Opaque:
    def __repr__(self):
        return "Opaque()"


# What is saved, the first line, parts of later lines.
UNSAVABLE = [
    ({"a/b": 1, "a": {"b": 2}}, "two leaves of the tree have the path 'a/b'", "['a']['b']"),
    (
        {"__metadata__": 1},
        "a leaf of the tree has the path '__metadata__', which safetensors reserves",
    ),
    (
        {1: 1, "1": 2},
        "the keys of a dict in the tree cannot be sorted",
        "keys of one kind in each dict",
    ),
    ({"a": Opaque()}, "a checkpoint cannot hold 'a' of the tree", "Opaque()"),
    ({"a": ["text"]}, "a checkpoint cannot hold 'a/0' of the tree", "typed keys"),
    ({"a": np.array(["x"])}, "a checkpoint cannot hold 'a' of the tree"),
    ({"a": np.zeros(2, "M8[s]")}, "a checkpoint cannot hold 'a' of the tree"),
    ({"a": 2**63}, "'a' of the tree is an int that does not fit in 64 bits", "9223372036854775808"),
    ({"a": jl.spec((3,))}, "'a' of the tree must be an array", "float32[3]"),
]


@pytest.mark.parametrize("case", UNSAVABLE, ids=lambda case: case[1][:40])
def test_invalid_leaves_are_refused_before_anything_is_written(tmp_path, case):
    tree, first, *later = case
    read((lambda: saved(tmp_path, tree), f"save_checkpoint: {first}", *later))
    assert list(tmp_path.iterdir()) == []


def test_a_donated_tree_and_a_traced_one_are_refused(tmp_path):
    x = jnp.ones(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    read(
        (
            lambda: saved(tmp_path, [x]),
            "save_checkpoint: the memory of '0'*donated",
            "returned",
        )
    )
    traced = jax.jit(lambda x: saved(tmp_path, [x]))
    read((lambda: traced(1.0), "*a checkpoint cannot hold '0'*", "outside jax.jit"))


OPTIONS = [
    ({"step": -1}, "step must be an int of at least 0, got -1"),
    ({"position": {1, 2}}, "position must be a JSON value", "with strings as keys"),
    ({"extra": {"a": [{1: 2}]}}, "extra['a'][0] must be a JSON value"),
    ({"extra": {"$float": "nan"}}, "extra must be a JSON value"),
    ({"history": [Opaque()]}, "history[0] must be a JSON value", "Opaque()"),
    ({"metrics": {"loss": "high"}}, "the metric 'loss' must be a number", "'high'"),
]


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case[1][:40])
def test_wrong_options(tmp_path, case):
    options, first, *later = case
    options = {"step": 3, **options}
    wrong = lambda: training.save_checkpoint(tmp_path, SAVED, **options)  # noqa: E731
    read((wrong, f"save_checkpoint: {first}", *later))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("checkpoints"))


RESTORING = [
    (
        lambda path: training.read_checkpoint(path, WANTED, allow=["params/*/head"]),
        "read_checkpoint: the pattern 'params/?/head' matches no path".replace("?", "*"),
        "params/body/w",
    ),
    (
        lambda path: training.read_checkpoint(path, SAVED, allow="params/head/**"),
        "read_checkpoint: allow must be a sequence of patterns",
        "allow=('params/head/**',)",
    ),
    (
        lambda path: training.read_checkpoint(
            path, {**SAVED, "step": jl.spec((2,), jnp.int32)}, allow=["step"]
        ),
        "read_checkpoint: the template has no value to keep at 'step'",
        "int32[2]",
    ),
    (
        lambda path: training.read_checkpoint(path, {**SAVED, "rate": Opaque()}),
        "read_checkpoint: a checkpoint cannot hold 'rate' of the template",
        "Opaque()",
    ),
    (
        lambda path: training.read_arrays(path / "none"),
        "read_arrays: the checkpoint * cannot be read: No such file or directory",
        "manifest.json",
    ),
    (
        lambda path: training.read_checkpoint(path.parent, SAVED),
        "read_checkpoint: * is a folder of checkpoints, not one of them",
        "1 of them, the newest of step 3",
        "/step_0",
        "CheckpointManager(",
    ),
    (
        lambda path: training.read_manifest(path.parent.parent),
        "read_manifest: * is not a checkpoint: it has no manifest.json",
        "such as step_00000400",
    ),
]


@each(RESTORING)
def test_errors(case, path):
    wrong, *texts = case
    read((lambda: wrong(path), *texts))


def test_64_bits_that_are_not_enabled_in_jax(tmp_path):
    path = saved(tmp_path, {"x": np.ones(3)})
    like = {"x": jax.ShapeDtypeStruct((3,), jnp.float64)}
    wrong = lambda: training.read_checkpoint(path, like)  # noqa: E731
    read((wrong, "read_checkpoint: float64 is not enabled in JAX", "jax_enable_x64"))
