"""The parameters of a model, as each framework's users make them: done when all are there."""

from typing import Any


def _pure(model: Any, size: Any) -> None:
    import jax

    x = jax.ShapeDtypeStruct((size.batch, size.image, size.image, 3), "float32")
    jax.block_until_ready(model(size).init(jax.random.key(0), x))


def _linen(model: Any, size: Any) -> None:
    import jax
    import jax.numpy as jnp

    x = jnp.zeros((size.batch, size.image, size.image, 3))
    # One program: without jit it computes the layers too, and takes longer.
    jax.block_until_ready(jax.jit(model(size).init)(jax.random.key(0), x))


def _haiku(model: Any, size: Any) -> None:
    import haiku as hk
    import jax
    import jax.numpy as jnp

    pure = hk.transform_with_state(model(size))
    x = jnp.zeros((size.batch, size.image, size.image, 3))
    jax.block_until_ready(jax.jit(pure.init)(jax.random.key(0), x))


def _equinox(model: Any, size: Any) -> None:
    import equinox as eqx
    import jax

    made = eqx.nn.make_with_state(model)(size, key=jax.random.key(0))
    jax.block_until_ready(eqx.filter(made, eqx.is_array))


def _nnx(model: Any, size: Any) -> None:
    import jax
    from flax import nnx

    jax.block_until_ready(jax.tree.leaves(nnx.state(model(size, rngs=nnx.Rngs(0)))))


def _keras(model: Any, size: Any) -> None:
    import jax

    jax.block_until_ready([variable.value for variable in model(size).variables])


def _torch(model: Any, size: Any) -> None:
    model(size)


MAKERS = {
    "jlayers": _pure,
    "linen": _linen,
    "haiku": _haiku,
    "equinox": _equinox,
    "nnx": _nnx,
    "keras": _keras,
    "torch": _torch,
}
