"""GMMAttention: weights from places that only move forwards, and not from the keys' content."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base.arguments import AboveZero, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import join, split
from ...base.specs import cast_like
from ...base.types import Carry, Initializer, Key, Params, PyTree
from ...core.dtypes import at_least_float32
from .base import asked_of_whole, of_attention, of_valid_queries
from .inputs import check_memory, field_of_memory, of_cross, split_pair


@factory
def GMMAttention(
    num_heads: Positive,
    num_components: Positive,
    hidden_dim: Positive,
    *,
    weights: bool = False,
    epsilon: AboveZero = 1e-3,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Attention to places of a memory that move forwards with each step (Graves, 2013).

    For speech and handwriting, where each step of the output is a little further in the memory than
    the one before. In each head, from ``h = relu(x @ hidden_kernel + hidden_bias)``::

        w, d, s = h @ mixture_kernel + mixture_bias      # for each component
        mean_t = mean_t-1 + softplus(d);  s = softplus(s) + epsilon
        y_t = sum_j sum_k softmax_k(w) normal_density((j - mean_t) / s) / s  values_j

    (arXiv:1308.0850, in the normalised form of Battenberg et al., 2020, arXiv:1910.10288, "V2").
    The weights of a step need not add up to 1: what is beyond either end of the memory is lost.
    The input is ``(x, memory)``, or with a mask, ``{"x": x, "memory": memory, "mask": mask}``, as
    for ``CrossAttention``. The places count the valid steps of the memory, and padded steps of
    ``x`` move nothing. In a stream the whole memory is given with each block.

    Args:
      num_heads, num_components: of means in each head.
      hidden_dim: size of the hidden layer of a head.
      weights: whether the output is (y, weights).
      epsilon: the least deviation.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, time, in), memory: (batch, steps, of values), floating and of one dtype.
      y: (batch, time, num_heads * of values). weights: (batch, num_heads, time, steps).
      params: hidden_kernel (in, num_heads * hidden_dim), hidden_bias, mixture_kernel (num_heads,
      hidden_dim, num_components, 3), mixture_bias (num_heads, num_components, 3).
      carry: mean (batch, num_heads, num_components), float32 at least.

    Raises:
      LayerError: for inputs that do not fit, as ``CrossAttention`` says, and for a bias.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GMMAttention(2, 5, 8), (jl.spec((2, 10, 32)), jl.spec((2, 7, 16)))).shape
    (2, 10, 32)
    """

    def init(key: jax.Array, x: PyTree) -> Params:
        given = of_cross(x)
        check_memory(given, num_heads)
        if given.bias is not None:
            raise LayerError("has no scores that a bias is added to", hint="a 'mask'")
        return initialize(
            key,
            given.x,
            hidden_kernel=(kernel_init, (given.x.shape[-1], num_heads * hidden_dim)),
            hidden_bias=(bias_init, (num_heads * hidden_dim,)),
            mixture_kernel=(kernel_init, (num_heads, hidden_dim, num_components, 3)),
            mixture_bias=(bias_init, (num_heads, num_components, 3)),
        )

    def start(params: Params, x: PyTree, capacity: int | None) -> Carry:
        steps = of_cross(x).x
        shape = (steps.shape[0], num_heads, num_components)
        return {"mean": jnp.zeros(shape, at_least_float32(steps.dtype))}

    def step(params: Params, carry: Carry | None, x: PyTree, key: Key) -> tuple[PyTree, Carry]:
        given = of_cross(x)
        q, mask = split(given.x)
        _, values, memory_mask = split_pair(given.keys, given.values)
        p = cast_like(params, q)
        hidden = jax.nn.relu(core.dense(q, p["hidden_kernel"], p["hidden_bias"]))
        hidden = hidden.reshape(*q.shape[:2], num_heads, hidden_dim)
        mixture = jnp.einsum("bthu,hukc->bthkc", hidden, p["mixture_kernel"])
        mixture = mixture + jnp.broadcast_to(p["mixture_bias"], mixture.shape)
        wide = mixture.astype(at_least_float32(q.dtype))
        share, moved, spread = (wide[..., i] for i in range(3))
        moved = jax.nn.softplus(moved)
        if mask is not None:
            here = jnp.broadcast_to(mask[..., None, None], moved.shape)
            moved = jnp.where(here, moved, jnp.zeros_like(moved))
        means = jnp.cumsum(moved, 1)
        last = jnp.sum(moved, 1)
        if carry is not None:
            means = means + jnp.broadcast_to(carry["mean"][:, None], means.shape)
            last = last + carry["mean"]
        of_steps = _densities(
            jax.nn.softmax(share),
            means,
            jax.nn.softplus(spread) + epsilon,
            _places(values, memory_mask),
        )
        visible = given.visible(memory_mask)
        if visible is not None:
            seen = jnp.broadcast_to(visible, of_steps.shape)
            of_steps = jnp.where(seen, of_steps, jnp.zeros_like(of_steps))
        of_steps = of_steps.astype(q.dtype)
        y = jnp.einsum("bhts,bsv->bthv", of_steps, values)
        out = join(y.reshape(*q.shape[:2], num_heads * values.shape[-1]), mask)
        asked = asked_of_whole()
        if not weights and asked is None:
            return out, {"mean": last}
        of_steps = of_valid_queries(of_steps, mask)
        if asked is not None:
            asked.give("weights", of_steps)
        return ((out, of_steps) if weights else out), {"mean": last}

    return of_attention(init, start, step, _field, dropout_rate=0.0)


def _places(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """(batch, steps), which valid step of its row each is."""
    if mask is None:
        mask = jnp.ones(values.shape[:2], bool)
    return core.positions_from_mask(mask)


def _densities(
    share: jax.Array, mean: jax.Array, deviation: jax.Array, places: jax.Array
) -> jax.Array:
    """Of mixtures (batch, time, heads, components) at places (batch, steps): (b, h, t, s)."""
    shape = (*mean.shape, places.shape[1])
    far = jnp.broadcast_to(places[:, None, None, None].astype(mean.dtype), shape)
    far = (far - jnp.broadcast_to(mean[..., None], shape)) / jnp.broadcast_to(
        deviation[..., None], shape
    )
    density = jnp.exp(-jnp.square(far) / 2)
    height = share / (deviation * math.sqrt(2 * math.pi))
    return jnp.einsum("bthks,bthk->bhts", density, height)


def _field(x: PyTree) -> ReceptiveField:
    # The means are sums over the steps so far.
    field = field_of_memory(x)
    return CAUSAL if field == ReceptiveField() else field
