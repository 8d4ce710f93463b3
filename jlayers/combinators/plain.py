"""plain: a model as a program of simple operations, for what reads programs."""

from __future__ import annotations

import functools

from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..core.basic_operations import in_basic_operations
from ..core.inlining import inlined
from .transformed import transformed


@factory
def plain(layer: LayerOrFunction, *, basic: bool = False) -> Layer:
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

    With ``basic=True`` the program also makes do with few operations, for converters that know few,
    such as OpenVINO's: loops of known length are unrolled, dilated and one-dimensional convolutions
    are sums of convolutions of images, rows of a table are a product with rows of the identity (a
    table with an infinite number gives NaN), and so on. It is larger, and as a rule slower. What
    has no such form (``log1p``, ``sin``, a loop until a condition holds) stays.

    Transparent: parameters and name are the model's own. Put it around the whole model.

    Args:
      layer: a model.
      basic: whether to write it in few operations.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.plain(jl.serial(jl.Dense(4), jax.nn.relu))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 3)))
    >>> program = jax.make_jaxpr(model.apply)(params, state, jnp.ones((1, 3)))
    >>> [equation.primitive.name for equation in program.eqns]
    ['dot_general', 'broadcast_in_dim', 'add', 'max']
    """
    call = in_basic_operations if basic else inlined
    return transformed(lift(layer), call, functools.partial(plain, basic=basic))
