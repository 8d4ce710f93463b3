"""Wrappers that change how a model is run, not what it computes: ``inference``, ``with_losses``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.added_losses import total
from ..base.collecting import add_collected, collected, wanted
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import error_context, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.specs import storage_dtype
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..inspection.selectors import Kinds, Selector, layer_selection, map_selected
from .transparent import start_of, traced, wrapper


@public_api
def inference(
    layer: LayerOrFunction, selector: Selector = "**", *, train: bool = False, kind: Kinds = None
) -> Layer:
    """The model with a part of it in evaluation mode, whatever ``apply(train=)`` says.

    ``BatchNorm`` then uses its running statistics and leaves them as they are, and ``Dropout`` is
    the identity: what a frozen, pretrained part needs. With ``train=True`` the part is in training
    mode instead, as Monte-Carlo dropout needs it (Gal & Ghahramani, 2016, arXiv:1506.02142); it
    then needs a key in evaluation too. ``apply(train=False)`` still returns the state unchanged.

    Names, and so the paths of parameters, stay as they are. Where one selected layer is inside
    another, the outer one is selected. A layer that has a mode already keeps it.

    Args:
      layer: a model.
      selector: paths of layers: ``"encoder/**"``, ``("**/dropout*", "!head/**")``, or a predicate;
        see ``rewrite``. The whole model by default.
      train: the mode.
      kind: ``"dropout"``, ``jl.BatchNorm``; see ``rewrite``.

    Raises:
      LayerError: for a pattern or a kind that fits no layer.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.serial(encoder=jl.serial(jl.Dense(8), jl.BatchNorm()), head=jl.Dense(3))
    >>> jl.inference(model, "encoder")
    serial(encoder=inference(serial(Dense(8), BatchNorm())), head=Dense(3))
    >>> jl.inference(model, kind=jl.BatchNorm)
    serial(encoder=serial(Dense(8), inference(BatchNorm())), head=Dense(3))
    >>> sampled = jl.inference(jl.Dropout(0.5), train=True)
    >>> sampled.apply({}, {}, jnp.ones(6), key=jax.random.key(1))[0]
    Array([2., 0., 2., 2., 0., 0.], dtype=float32)
    """
    layer, train = lift(layer), arguments.flag("train", train)
    # Every layer, and not those inside alone: the body of a compose has a mode too.
    chosen = layer_selection(layer, selector, kind, whole=True)
    return map_selected(layer, chosen, lambda _, found: _mode(found, train), outermost=True)


def _mode(layer: Layer, train: bool) -> Layer:
    # The argument is in the repr where it is not the default, as users write it.
    return _inference(layer, train=True) if train else _inference(layer)


def _in_mode(layer: Layer, *, train: bool = False) -> Layer:
    mode = train

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        with error_context(layer):
            y, new = layer._apply(params, state, x, key=key, train=mode)
        return y, new if train else state

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        with error_context(layer):
            step = stream_of(layer).advance
            y, after, new = step(params, state, carry, x, key=key, train=mode)
        return y, after, new if train else state

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(layer, key, x)

    return wrapper(
        layer, abstract, apply, lambda new: _mode(new, mode), Stepping(start_of(layer), advance)
    )


# The name that its repr shows: the function that users call selects, and then builds this.
_in_mode.__name__, _in_mode.__qualname__ = "inference", "_inference"
_inference = factory(_in_mode)


@factory
def with_losses(layer: LayerOrFunction) -> Layer:
    """The same layer, whose output is ``(y, loss)``: the sum of all that was added inside it.

    A ``compose`` body adds a loss with ``f.add_loss(value)``: a penalty on activations, the
    Kullback-Leibler term of a variational layer, a router's balance. ``train_step`` and
    ``make_evaluator`` collect them by themselves; this is for a training loop of your own.
    ``repeat`` and ``ensemble`` add those of all their copies.

    Shapes:
      loss: (), float32, or float64 for a float64 ``x``; 0 where nothing was added.

    Raises:
      LayerError: where a body adds a loss inside a transformation of JAX that it calls.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> def penalised(f, x):
    ...     f.add_loss(0.01 * jnp.mean(x**2))
    ...     return f.dense(x)
    >>> model = jl.with_losses(jl.compose(penalised, dense=jl.Dense(3)))
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 4)))
    >>> (y, loss), state = model.apply(params, state, 2 * jnp.ones((2, 4)))
    >>> y.shape, loss
    ((2, 3), Array(0.04, dtype=float32))
    """
    inner = lift(layer)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        def run_inner() -> tuple[PyTree, State]:
            return inner._apply(params, state, x, key=key, train=train)

        with error_context(inner):
            (y, new), found = collected(run_inner, wanted()._replace(losses=True))
            add_collected(found._replace(losses=[]))
            return (y, total(found.losses).astype(storage_dtype(x))), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        return found, (y, jnp.zeros((), storage_dtype(x)))

    unstreamed = "its losses are those of whole sequences"
    return wrapper(inner, abstract, apply, with_losses, unstreamed)
