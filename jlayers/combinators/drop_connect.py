"""drop_connect: a layer whose weights are dropped at random while training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import child_key
from ..base.paths import fits, fitting, flatten, unflatten
from ..base.patterns import Patterns, each_pattern
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core.weights import array_of
from ..layers.regularization.base import kept_or_zero
from .transparent import copies_at, start_of, traced, wrapper


@factory
def drop_connect(layer: LayerOrFunction, rate: float, pattern: Patterns = "**/*kernel") -> Layer:
    """The same layer; in training each weight is zero with probability ``rate``.

    The others are divided by ``1 - rate``, so that their means stay as they are (Wan et al., 2013,
    ICML; evaluation uses the means, and not the paper's Gaussian approximation). All rows of a
    batch have the same weights. Names, and so the paths of parameters, stay as they are.

    ``drop_connect(LSTM(64), 0.5, "**/recurrent_kernel")`` is the weight-dropped LSTM of AWD-LSTM
    (Merity et al., 2017, arXiv:1708.02182): one draw for all steps, or for a block of a stream.

    Args:
      layer: any layer.
      rate: the probability of dropping, from 0 to 1.
      pattern: paths of parameters, one or a tuple, as for ``select``; by default all kernels.

    Raises:
      LayerError: for a pattern that fits no parameter; for ``train=True`` without a key, unless the
        rate is 0.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.drop_connect(jl.Dense(3), 0.5)
    >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
    >>> y, _ = layer.apply(params, {}, jnp.eye(4), key=jax.random.key(0), train=True)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """
    inner, patterns = lift(layer), each_pattern(pattern)
    rate = arguments.number("rate", rate, most=1.0)

    def dropped(params: Params, key: Key, train: bool) -> Params:
        if not train or rate == 0:
            return params
        if key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        # Not the key of the layer inside, which may draw by it.
        own = child_key(key, "drop_connect")
        flat = flatten(params)
        for path, leaf in flat.items():
            if fits(path, patterns) and jnp.issubdtype(leaf.dtype, jnp.inexact):
                leaf = array_of(leaf, copies_at(inner, path))
                flat[path] = kept_or_zero(child_key(own, path), leaf, rate, leaf.shape)
        return unflatten(flat)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        params = dropped(params, key, train)
        with error_context(inner):
            return inner._apply(params, state, x, key=key, train=train)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        params = dropped(params, key, train)
        with error_context(inner):
            step = stream_of(inner).advance
            return step(params, state, carry, x, key=key, train=train)

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        fitting(patterns, flatten(found.params))
        return found, y

    def again(new: Layer) -> Layer:
        return drop_connect(new, rate, pattern)

    return wrapper(inner, abstract, apply, again, Stepping(start_of(inner), advance))
