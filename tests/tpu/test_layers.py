"""Every row of the table of layers compiles for TPU: forward and gradient, on four chips.

The batch is spread over the chips. No layer lets one row of a batch reach another in eval mode, so
no forward program may send anything; a gradient is a sum over the batch, so it may send sums.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from tables.instances import INSTANCES

from .programs import compiled, mesh, placed

pytestmark = [pytest.mark.tpu, pytest.mark.optimised]

CHIPS = 4
WHOLE, SPREAD = PartitionSpec(), PartitionSpec("data")
# Rows whose forward program sends something: its kind, and why.
SENDS = {
    "with_losses": ("all-reduce", "the penalty is a mean over the batch"),
    # Given by method=; the choice on a TPU is "direct".
    "self-attention in blocks, heads that share": (
        "all-gather",
        "blocks are computed for one row and head after the other, and a loop over an axis that is "
        "spread over chips runs on all of it on every chip",
    ),
}


def batch_of(row, dtype):
    """The row's input for one row of the batch on each chip, with floats of this dtype."""

    def leaf(spec):
        floating = jnp.issubdtype(spec.dtype, jnp.floating)
        return jax.ShapeDtypeStruct((CHIPS, *spec.shape[1:]), dtype if floating else spec.dtype)

    return jax.tree.map(leaf, row.x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", INSTANCES)
def test_layer(name, dtype, report):
    chips, layer = mesh("2x2", data=CHIPS), INSTANCES[name].layer
    x = batch_of(INSTANCES[name], dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(layer.init, key, x)

    def forward(params, state, x):
        return layer.apply(params, state, x)[0]

    def loss(params, x, state, key):
        y, state = layer.apply(params, state, x, key=key, train=True)
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(y)), state

    def gradient(*arguments):
        return jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True)(*arguments)

    whole = placed(chips, (params, state, key), WHOLE)
    spread = placed(chips, x, SPREAD)
    first = compiled(f"{name}, {dtype}", forward, *whole[:2], spread)
    report(first)
    second = compiled(f"{name}, {dtype}, gradient", gradient, whole[0], spread, *whole[1:])
    report(second)
    kinds = {SENDS[name][0]} if name in SENDS else set()
    assert set(first.traffic) == kinds
    assert set(second.traffic) <= kinds | {"all-reduce"}
