"""A model of 2 G parameters by ``repeat``, tensor and data parallel on 256 chips."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jlayers as jl
from bench.data import default_promotion
from bench.frameworks.jlayers.models import block
from bench.frameworks.sizes import Transformer
from jlayers.base.paths import matches

from .programs import compiled, mesh, nbytes, placed

pytestmark = [pytest.mark.tpu, pytest.mark.optimised]

SIZE = Transformer(batch=256, steps=1024, vocabulary=32768, width=2048, heads=16, blocks=40)
# Each chip has its share of the heads, of the MLP's features and of the vocabulary (Shoeybi et al.,
# 2019, arXiv:1909.08053). The first axis of what is in the blocks is that of the copies.
COLUMNS, ROWS = PartitionSpec(None, None, "model"), PartitionSpec(None, "model")
RULES = {
    "tokens/embedding": PartitionSpec("model"),
    "blocks/attend/out_kernel": ROWS,
    "blocks/attend/out_bias": PartitionSpec(),
    "blocks/attend/*_kernel": COLUMNS,
    "blocks/attend/*_bias": ROWS,
    "blocks/up/kernel": COLUMNS,
    "blocks/up/bias": ROWS,
    "blocks/down/kernel": ROWS,
    "head/kernel": PartitionSpec(None, "model"),
    "head/bias": PartitionSpec("model"),
}
GIGA = 1 << 30
MEMORY = 16 * GIGA  # of a v5e chip


def placement(params):
    """The ``PartitionSpec`` of each parameter: by the first rule, or on every chip."""
    paths = jl.flatten(params)

    def of(path):
        rules = (spec for rule, spec in RULES.items() if matches(path, rule))
        return next(rules, PartitionSpec())

    return jl.unflatten({path: of(path) for path in paths})


def test_a_repeat_of_two_billion_parameters(report):
    chips = mesh("16x16", data=16, model=16)
    model = jl.serial(
        tokens=jl.Embedding(SIZE.vocabulary, SIZE.width),
        narrow=lambda x: x.astype(jnp.bfloat16),
        blocks=jl.repeat(block(SIZE, rope=True), SIZE.blocks, remat=True),
        norm=jl.LayerNorm(),
        head=jl.Dense(SIZE.vocabulary),
    )
    optimizer = optax.adamw(1e-3)
    ids = jl.spec((SIZE.batch, SIZE.steps), jnp.int32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), ids)
    moments = jax.eval_shape(optimizer.init, params)
    specs = placement(params)
    moment_specs = optax.tree_map_params(
        optimizer,
        lambda _, spec: spec,
        moments,
        specs,
        transform_non_params=lambda _: PartitionSpec(),
    )

    def step(params, moments, ids, labels):
        def loss_of(params):
            logits, _ = model.apply(params, {}, ids, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), labels
            )
            return losses.mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    carry = placed(chips, (params, moments), (specs, moment_specs))
    batch = placed(chips, ids, PartitionSpec("data"))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, carry)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    with default_promotion():
        program = compiled(
            f"{count / 1e9:.2f} G parameters by repeat, 16 data x 16 model",
            step,
            *carry,
            batch,
            batch,
            donate_argnums=(0, 1),
            out_shardings=(*shardings, NamedSharding(chips, PartitionSpec())),
        )
    report(program)
    assert count > 2e9
    assert program.arguments + program.temporaries < MEMORY
    # Weights and both moments are shared out over the axis of the model, and nothing else is held.
    assert program.arguments < 1.02 * nbytes((params, moments)) / 16
    # A block sums its activations over that axis twice forward, once more when it is made again,
    # and twice backward; the gradients go over the other axis.
    activations = SIZE.batch // 16 * SIZE.steps * SIZE.width * 2
    assert set(program.traffic) == {"all-reduce"}
    sent = 5 * SIZE.blocks * activations + nbytes(params) / 16
    assert program.traffic["all-reduce"].bytes < 1.1 * sent
