"""plain: a model as a program of simple operations, for what reads programs."""

from __future__ import annotations

from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..core.inlining import inlined
from .transformed import transformed


@factory
def plain(layer: LayerOrFunction) -> Layer:
    """The same model as a program without anything that hides operations from other tools.

    What ``jax.jit(model.apply)`` and ``jax.make_jaxpr(model.apply)`` trace has no choice by
    platform, no derivatives of its own (``jax.custom_jvp``, ``jax.custom_vjp``), no inner
    ``jax.jit``, no ``jax.checkpoint`` and no ``optimization_barrier``, also where functions of JAX
    and of users bring them: the operations are there instead. Loops (``repeat``, recurrences) stay
    loops. For converters and curvature libraries; a model that is trained or run by JAX gains
    nothing by it.

    The general algorithms run, which are those of GPU and TPU. The derivatives are those of the
    operations: equal up to rounding, but not where a function has another one by intention (a
    reversed gradient), or is given one where its operations have none (``jax.nn.relu`` at 0).

    Transparent: parameters and name are the model's own. Put it around the whole model.

    Args:
      layer: a model.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.plain(jl.serial(jl.Dense(4), jax.nn.relu))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 3)))
    >>> program = jax.make_jaxpr(model.apply)(params, state, jnp.ones((1, 3)))
    >>> [equation.primitive.name for equation in program.eqns]
    ['dot_general', 'broadcast_in_dim', 'add', 'max']
    """
    return transformed(lift(layer), inlined, plain)
