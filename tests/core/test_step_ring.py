"""The last steps in a ring are those of the sequence so far, whatever the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlayers.core.step_ring import StepRing


@pytest.mark.parametrize("batch", [1, 3])
def test_the_last_steps_in_order(batch):
    numbers = np.arange(batch * 28 * 2.0).reshape(batch, 28, 2)
    ring = StepRing(jnp.asarray(numbers[:, :4]), jnp.zeros(batch, jnp.int32))
    append, end = jax.jit(StepRing.append), 4
    for size in (1,) * 6 + (3, 1, 1, 9, 1, 2, 1):
        ring = append(ring, jnp.asarray(numbers[:, end : end + size]))
        end += size
        np.testing.assert_array_equal(ring.in_order(), numbers[:, end - 4 : end])


def test_rows_of_different_streams_go_on_together():
    """A beam, or a stream that joins a batch, brings the place of its oldest step along."""
    numbers = np.arange(16.0).reshape(2, 8)
    rings = []
    for row, count in enumerate((2, 3)):
        ring = StepRing(jnp.zeros((1, 3)), jnp.zeros(1, jnp.int32))
        for at in range(count):
            ring = ring.append(jnp.asarray(numbers[row : row + 1, at : at + 1]))
        rings.append(ring)
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rings)
    both = both.append(jnp.array([[20.0], [30.0]]))
    assert both.in_order().tolist() == [[0, 1, 20], [9, 10, 30]]
