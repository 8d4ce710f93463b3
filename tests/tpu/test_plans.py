"""Plans of steps for TPUs that are not there, by the rules of ``jlayers.sharding``."""

import jax.numpy as jnp
import optax
import pytest

import jlayers as jl
from bench.data import default_promotion
from jlayers import sharding, training

from .programs import mesh

pytestmark = [pytest.mark.tpu, pytest.mark.optimised]
IDS = (jl.spec((256, 512), jnp.int32),) * 2
RULES = sharding.tensor_parallel("model") + sharding.fsdp("data")


def plan(num_layers, batch=IDS, hidden_dim=2816, **axes):
    model = jl.models.Llama(
        num_embeddings=32000, features=1024, hidden_dim=hidden_dim, num_heads=16, num_kv_heads=8,
        num_layers=num_layers,
    )  # fmt: skip

    def loss(logits, labels):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    chips = mesh("16x16", **axes)
    step = training.train_step(model, loss, optax.adam(1e-3), mesh=chips, rules=RULES)
    with default_promotion():
        return sharding.plan(step, batch, memory="16 GiB")


def test_a_transformer_on_256_chips():
    found = plan(2, data=32, model=8)
    own = sum(found.parts[name] for name in ("parameters", "optimizer", "state", "batch"))
    # A TPU holds arrays in tiles, which the small ones do not fill.
    assert own <= found.compiled.arguments < 1.1 * own
    assert found.fits
    traffic = found.compiled.traffic
    assert not traffic.loops_unknown
    assert {"all-gather", "all-reduce"} <= set(traffic.collectives)
    # Loops count as often as they run: four more blocks compute four more times as much.
    more = plan(6, data=32, model=8).compiled.traffic.flops - traffic.flops
    rows, steps, width = 256, 512, 1024
    kernels = width * (2 * width + 2 * width // 2 + 3 * 2816)
    scores = 2 * steps * width
    assert more == pytest.approx(4 * 6 * rows * steps * (kernels + scores) / 256, rel=0.1)


def test_what_does_not_fit_is_told():
    found = plan(1, (jl.spec((1 << 16, 512), jnp.int32),) * 2, data=32, model=8)
    assert found.compiled is None
    assert found.fits is False
    assert "does not fit: Ran out of memory" in str(found)
