"""clip_gradients: bounds on what flows back through a layer's output."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..core.dtypes import at_least_float32
from ..inspection.selectors import Kinds, Selector, layer_selection, map_selected
from .on_outputs import with_outputs


@public_api
def clip_gradients(
    layer: LayerOrFunction,
    selector: Selector = None,
    *,
    norm: float | None = None,
    value: float | None = None,
    kind: Kinds = None,
) -> Layer:
    """The model with the gradient of the selected layers' outputs clipped on its way back.

    Outputs are as they were. In the backward pass the gradient ``g`` of an output enters the layer
    as ``g * min(1, norm / |g|)`` (Pascanu et al., 2013, arXiv:1211.5063), or each number
    of it is brought between ``-value`` and ``value`` (Graves, 2013, arXiv:1308.0850). So a layer
    where gradients explode harms no layer before it. For the gradient of all parameters at once,
    after the backward pass, there is ``optax.clip_by_global_norm``.

    The norm is that of one example, which is a row of the first axis: it does not depend on the
    other rows of a batch, or on how a batch is spread over devices. Of a mean over a batch, each
    example's gradient is a share: the bound is for that. Each array of an output has its own.

    Inside ``repeat`` the output of each copy is clipped, and in a stream that of each block; the
    steps inside a recurrent layer are not. Forward mode is that of the identity. Forward over
    reverse mode (``jax.hessian``) clips tangents as it clips gradients: second derivatives are
    those of the model as long as both are within the bound.

    Args:
      layer: a model.
      selector: paths of layers: ``"encoder/*"``, ``("**/lstm", "!head/**")``, or a predicate; see
        ``rewrite``. ``"**"`` for all and the model.
      norm: the largest Euclidean norm, above 0.
      value: the largest absolute value, above 0; instead of ``norm``.
      kind: ``"lstm"``, ``jl.LSTM``; see ``rewrite``.

    Raises:
      LayerError: without ``norm`` and ``value``, with both, for a bound that is not above 0,
        without ``selector`` and ``kind``, and for a pattern or a kind that fits no layer.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.transforms.clip_gradients(jl.serial(jnp.square, jnp.exp), "square", norm=1.0)
    >>> model
    serial(clip_gradients(jax.numpy.square, norm=1.0), jax.numpy.exp)
    >>> apply = jl.without_state(model).apply
    >>> jax.grad(lambda x: apply({}, x).sum())(jnp.array([[0.0, 3.0]]))
    Array([[0., 6.]], dtype=float32)
    """
    if (norm is None) == (value is None):
        raise LayerError(
            "takes a norm or a value", expected="norm=1.0 or value=0.1", got=_given(norm, value)
        )
    bound = {"norm": norm} if value is None else {"value": value}
    # Once for all layers: an error does not name one of them.
    bound = {name: arguments.above_zero(name, given) for name, given in bound.items()}
    if selector is None and kind is None:
        # All layers by default would be another thing than the norm of all gradients.
        raise LayerError(
            "takes a selector or a kind", expected='"blocks/*", kind="lstm", or "**" for all layers'
        )
    layer = lift(layer)
    chosen = layer_selection(layer, selector, kind, whole=True)
    return map_selected(layer, chosen, lambda _, one: clipped_layer(one, **bound))


def _given(norm: object, value: object) -> str:
    return "neither" if norm is None else f"norm={norm!r}, value={value!r}"


def _clipped_layer(layer: Layer, *, norm: float | None = None, value: float | None = None) -> Layer:
    again = functools.partial(clipped_layer, norm=norm, value=value)
    if value is None:
        assert norm is not None
        return with_outputs(layer, functools.partial(_passed, norm, _within_norm), again)
    return with_outputs(layer, functools.partial(_passed, value, _within_value), again)


_clipped_layer.__name__, _clipped_layer.__qualname__ = "clip_gradients", "clipped_layer"
clipped_layer = factory(_clipped_layer)


def _passed(bound: float, clip: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """``x`` itself, whose cotangent is clipped.

    JAX takes a custom rule of transposition for the solution of a linear system alone: here the
    system is ``y = x``. ``jax.custom_vjp`` has no forward mode.
    """
    y: jax.Array = lax.custom_linear_solve(
        lambda y: y, x, lambda _, x: x, lambda _, ct: clip(bound, ct)
    )
    return y


def _within_norm(bound: float, ct: jax.Array) -> jax.Array:
    wide = ct.astype(at_least_float32(ct.dtype))
    # Its largest number first: squares of large float32 are infinite, and then nothing is left.
    axes = tuple(range(1, ct.ndim))
    largest = jnp.max(jnp.abs(wide), axes, keepdims=True, initial=0.0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    norm = scale * jnp.sqrt(jnp.sum(jnp.square(wide / scale), axes, keepdims=True))
    return (wide * jnp.where(norm > bound, bound / norm, 1)).astype(ct.dtype)


def _within_value(bound: float, ct: jax.Array) -> jax.Array:
    return jnp.clip(ct, -bound, bound)
