"""plain: a model as a program of simple operations, for what reads programs."""

from __future__ import annotations

import jax

from ..base.added_losses import add_loss, is_collecting
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core.dispatch import compiled_when_eager
from ..core.inlining import inlined
from .stack import Advanced, Losses, Mode, advanced, run_collecting
from .transparent import traced, wrapper


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
    inner = lift(layer)

    @compiled_when_eager("train", "collects")
    def program(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool, collects: bool
    ) -> tuple[tuple[PyTree, State], Losses]:
        def run(
            params: Params, state: State, x: PyTree, key: Key
        ) -> tuple[tuple[PyTree, State], Losses]:
            with error_context(inner):
                return run_collecting(inner, params, state, x, key, train, collects)

        return inlined(run, params, state, x, key)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        (y, new), losses = program(params, state, x, key=key, train=train, collects=is_collecting())
        for loss in losses:
            add_loss(loss)
        return y, new if train else state

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(inner, key, x)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        with error_context(inner):
            return stream_of(inner).start(params, state, x, capacity=capacity)

    @compiled_when_eager("mode")
    def block(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, mode: Mode
    ) -> Advanced:
        def run(params: Params, state: State, carry: Carry, x: PyTree, key: Key) -> Advanced:
            return advanced(inner, mode, params, state, carry, x, key)

        return inlined(run, params, state, carry, x, key)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        found, losses = block(params, state, carry, x, key=key, mode=Mode.here(train))
        for loss in losses:
            add_loss(loss)
        return found

    return wrapper(inner, abstract, apply, plain, Stepping(start, advance))
