"""The law of meshes: a step of training on devices together gives what it gives on one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from jlayers import sharding, training

# Of four devices. The last axis has the steps in time, where it divides them.
MESHES = {
    "rows": ((4,), ("data",)),
    "rows and features": ((2, 2), ("data", "model")),
    "rows and steps": ((2, 2), ("data", "sequence")),
}
CASES = list(itertools.product(MESHES, (AxisType.Auto, AxisType.Explicit)))


def rules_of(mesh, specs):
    """Rules that split all that can be split."""
    if mesh == "rows":
        return sharding.fsdp("data", least=0)
    if mesh == "rows and features":
        return sharding.tensor_parallel("model") + sharding.fsdp("data", least=0)
    leaves = jax.tree.leaves(specs)
    if all(leaf.ndim > 1 and leaf.shape[1] % 2 == 0 for leaf in leaves):
        return sharding.sequence_parallel("sequence", batch="data")
    return sharding.data_parallel("data")


def values_of(specs, seed=0):
    """Random values; ids are 0 and 1, which all tables have."""
    random = np.random.default_rng(seed)

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return random.normal(size=leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return random.normal(size=leaf.shape) + 1j * random.normal(size=leaf.shape)
        return random.integers(0, 2, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(one, specs)


def loss_of(y):
    """A loss in which every element counts differently."""
    total = jnp.zeros((), jnp.float64)
    for leaf in jax.tree.leaves(y):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            size = jnp.abs(leaf).astype(jnp.float64)
            # Masked steps may hold what is not a number.
            size = jnp.where(jnp.isfinite(size), size, jnp.zeros_like(size))
            total = total + jnp.sum(size**2) + jnp.sum(jnp.sin(size))
    return total


def doubled(specs, rows):
    """Specs with ``rows`` times as many rows."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows * leaf.shape[0], *leaf.shape[1:]), leaf.dtype),
        specs,
    )


def _wide(leaf):
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


class OneDevice:
    """A step of gradient descent on one device: what the others are compared with."""

    def __init__(self, model, specs):
        self.model, self.x = model, values_of(specs)
        step = training.train_step(model, loss_of, optax.sgd(1.0))
        # Ids have parameters of float32, which rounds differently in each order of a sum.
        made = jax.tree.map(_wide, model.init(jax.random.key(0), self.x))
        self.params, self.state = made
        state = step.start(jax.random.key(0), self.x, params=made[0], state=made[1])
        self.end, self.metrics = jax.jit(step)(state, (self.x,))

    def check(self, mesh, kind):
        """The largest difference on a mesh, over the loss, the parameters and the state."""
        sizes, names = MESHES[mesh]
        devices = jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))
        rules = rules_of(mesh, self.x)
        step = training.train_step(self.model, loss_of, optax.sgd(1.0), mesh=devices, rules=rules)
        state = step.start(jax.random.key(0), self.x, params=self.params, state=self.state)
        end, metrics = jax.jit(step)(state, (self.x,))
        worst = 0.0
        pairs = zip(
            jax.tree.leaves((end.params, end.state, metrics)),
            jax.tree.leaves((self.end.params, self.end.state, self.metrics)),
            strict=True,
        )
        for got, expected in pairs:
            got, expected = np.asarray(got), np.asarray(expected)
            if expected.size and np.issubdtype(expected.dtype, np.inexact):
                scale = max(1.0, float(np.max(np.abs(expected))))
                worst = max(worst, float(np.max(np.abs(got - expected))) / scale)
        for path, leaf in jax.tree.leaves_with_path(end.params):
            place = step.layout(self.x).of(end.params)
            for name in path:
                place = place[name.key]
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim), path
        return worst
