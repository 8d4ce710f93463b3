"""What a step costs a device falls with their number, on tiny models of the table's kinds."""

import jax
import pytest
from tables.tiers import full

import jlayers as jl
from bench import scaling
from bench.data import default_promotion

TINY = {
    "gpt2": scaling.Workload(
        jl.models.GPT2(features=32, num_heads=4, num_layers=2, num_embeddings=64, num_positions=16),
        scaling.ids(8, 16),
        "",
    ),
    "resnet": scaling.Workload(
        jl.models.ResNet((1, 1), width=8, classes=4),
        (jl.spec((8, 16, 16, 3)), jl.spec((8,), int)),
        "",
    ),
    # So many rows and steps that one CPU would take the steps in chunks.
    "lstm": scaling.Workload(
        jl.models.LSTMLM(features=128, num_embeddings=64), scaling.ids(64, 16), ""
    ),
}
FAST = ([4], ["data_parallel", "tensor_parallel"])
ALL = ([2, 4], list(scaling.PRESETS))


@pytest.mark.parametrize("which", [FAST, *full(ALL)], ids=["fast", "all"])
@pytest.mark.parametrize("name", ["gpt2", "lstm", *full("resnet")])
def test_computation_is_divided(name, which):
    """By the number of devices, whichever axis; gradients of whole parameters are summed once."""
    workload, (devices, presets) = TINY[name], which
    with default_promotion():
        alone, *others = scaling.lines(name, workload, devices, presets)
    assert alone.cost.collectives == {}
    assert alone.cost.flops > 0
    params, _ = jax.eval_shape(workload.model.init, jax.random.key(0), workload.batch[0])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    seen = set()
    for line in others:
        seen.add((line.preset, line.devices))
        # By features a small product may not be divided, such as the first one of an image.
        exact = line.preset in ("data_parallel", "fsdp")
        assert line.factor == pytest.approx(line.devices, rel=1e-9 if exact else 0.2), line
        assert line.cost.memory < alone.cost.memory, line
        if line.preset == "data_parallel":
            assert set(line.cost.received) == {"all-reduce"}
            assert size <= line.cost.received["all-reduce"] < 1.5 * size + 1000
        text = scaling.row(line)
        assert text.startswith(f"| {line.preset} | ")
        assert text.count("|") == scaling.HEAD.splitlines()[0].count("|")
    assert len(seen) == (2 if which is FAST else 7)
