"""once: in a stream, a layer on an input that is the same for all blocks is computed once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..base.collecting import Collected, add_collected, collected, wanted
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.receptive_field import EVERYWHERE
from ..base.sequence import is_sequence, made_of_steps
from ..base.sequence_mode import with_receptive_field
from ..base.step_pair import Stepping
from ..base.tracing import Trace, trace_given
from ..base.types import Carry, Key, Params, PyTree, State
from .transparent import traced, wrapper


@factory
def once(layer: LayerOrFunction) -> Layer:
    """The same layer; in a stream it runs at the first block, and its output is carried on.

    For what a decoder reads beside its own steps: the encoder of a translator, the network that
    reads an image. Its input is given with each block and has to be the same each time. The layer
    may look ahead, as it has all of its input. A layer on the steps of the block itself is refused
    by ``stream``, if the block is its only input, and by ``decoding``.

    Transparent: parameters and name are the layer's own.

    Args:
      layer: any layer.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> from jlayers import decoding
    >>> def translate(f, inputs):
    ...     target, source = inputs
    ...     memory = f.encoder(source)
    ...     y = f.lstm(f.embed(target))
    ...     return f.head(y + f.attend((y, memory)))
    >>> model = jl.compose(
    ...     translate,
    ...     encoder=jl.once(jl.serial(jl.Embedding(9, 8), jl.bidirectional(jl.GRU(4)))),
    ...     embed=jl.Embedding(7, 8), lstm=jl.LSTM(8),
    ...     attend=jl.CrossAttention(2), head=jl.Dense(7))
    >>> source, begin = jnp.ones((2, 5), jnp.int32), jnp.zeros((2, 1), jnp.int32)
    >>> params, state = model.init(jax.random.key(0), (begin, source))
    >>> decoding.generate(model, params, state, begin, 4, context=source).shape
    (2, 4)
    """
    inner = lift(layer)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        with error_context(inner):
            y, new = inner._apply(params, state, x, key=key, train=train)
        return _read_all(x, y), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        return found, _read_all(x, y)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        leaves = jax.tree.leaves(trace_given(inner, params, state, x).out)
        output = {str(i): jnp.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)}
        return {"done": jnp.zeros((), bool), "output": output}

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        structure: Any = None

        def compute() -> tuple[list[jax.Array], State | None, list[jax.Array]]:
            nonlocal structure
            with error_context(inner):
                (y, new), (losses, captured) = collected(
                    lambda: inner._apply(params, state, x, key=key, train=train), wanted()
                )
                if captured:
                    raise LayerError(
                        "a value is captured that only the first block of a stream computes",
                        got=repr(captured[0].name),
                        hint="capture it of whole sequences, by apply",
                    )
            leaves, structure = jax.tree.flatten(y)
            return leaves, new if train else None, losses

        def remember() -> tuple[list[jax.Array], State | None, list[jax.Array]]:
            losses = jax.eval_shape(compute)[2]
            leaves = [carry["output"][str(i)] for i in range(len(carry["output"]))]
            return leaves, state if train else None, [jnp.zeros_like(loss) for loss in losses]

        done = carry["done"]
        # Outside jit a conditional would be compiled at each call, as its branches are new ones.
        if isinstance(done, jax.core.Tracer):
            leaves, new, losses = lax.cond(done, remember, compute)
        else:
            leaves, new, losses = remember() if done else compute()
        add_collected(Collected(losses, []))
        after = {
            "done": jnp.ones_like(carry["done"]),
            "output": {str(i): leaf for i, leaf in enumerate(leaves)},
        }
        return jax.tree.unflatten(structure, leaves), after, state if new is None else new

    return wrapper(inner, abstract, apply, once, Stepping(start, advance))


def _read_all(x: PyTree, y: PyTree) -> PyTree:
    """``y``, which depends on all steps of ``x`` where these are tracked."""
    if any(made_of_steps(leaf) for leaf in jax.tree.leaves(x, is_leaf=is_sequence)):
        return with_receptive_field(y, EVERYWHERE)
    return y
