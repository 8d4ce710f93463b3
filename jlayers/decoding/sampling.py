"""Which id comes next: filters on logits, and the choice among what they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import core
from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.specs import format_short

Choose = Callable[[jax.Array, Any], jax.Array]


def greedy(logits: jax.Array, key: Any = None) -> jax.Array:
    """The likeliest id; of several the lowest.

    Args:
      logits: floats (..., num_embeddings).
      key: not used.

    Returns:
      int32 (...).

    >>> import jax.numpy as jnp
    >>> int(greedy(jnp.array([0.0, 2.0, 1.0])))
    1
    """
    return jnp.argmax(logits, -1).astype(jnp.int32)


def temperature(logits: jax.Array, value: float | jax.Array) -> jax.Array:
    """``logits / value``: below one the likely ids become likelier still.

    >>> import jax, jax.numpy as jnp
    >>> p = jax.nn.softmax(temperature(jnp.log(jnp.array([0.2, 0.8])), 0.5))
    >>> p.round(3).tolist() == jnp.array([0.04 / 0.68, 0.64 / 0.68]).round(3).tolist()
    True
    """
    logits = _wide(logits)
    return logits / jnp.asarray(value, logits.dtype)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """The ``k`` largest logits, ``-inf`` for the others (Fan et al., 2018, arXiv:1805.04833).

    Args:
      logits: floats (..., num_embeddings).
      k: how many stay; of equal ones those of lower ids.

    >>> import jax.numpy as jnp
    >>> top_k(jnp.array([3.0, 1.0, 2.0]), 2).tolist()
    [3.0, -inf, 2.0]
    """
    logits = _wide(logits)
    _, places = lax.top_k(logits, min(k, logits.shape[-1]))
    return _only(logits, places, jnp.ones(places.shape, bool))


def top_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """The nucleus, ``-inf`` outside: the likeliest ids that together have probability ``p``.

    They are as few as reach it, and at least one (Holtzman et al., 2020, arXiv:1904.09751).

    Args:
      logits: floats (..., num_embeddings).
      p: more than 0, at most 1.

    >>> import jax.numpy as jnp
    >>> (top_p(jnp.log(jnp.array([0.5, 0.1, 0.3, 0.1])), 0.7) > -jnp.inf).tolist()
    [True, False, True, False]
    """
    logits = _wide(logits)
    p = jnp.asarray(p, logits.dtype)
    ordered, places = lax.top_k(logits, logits.shape[-1])
    probabilities = jax.nn.softmax(ordered, -1)
    before = jnp.cumsum(probabilities, -1) - probabilities
    # A sum that was rounded up to one leaves nothing out where all is asked for.
    return _only(logits, places, (before < p) | (p >= 1))


@public_api
def sampler(
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
) -> Choose:
    """``choose(logits, key) -> id``: a draw from what the filters leave, applied in this order.

    Args:
      temperature: 0 for ``greedy``; a traced one is taken to be more than 0.
      top_k, top_p: see the functions of these names; None for no such filter.

    Args of the result:
      logits: floats (num_embeddings,).
      key: a typed key.

    Raises:
      LayerError: for a temperature below 0, a ``top_k`` below 1 and a ``top_p`` outside (0, 1];
        from the result, without a key.

    >>> import jax, jax.numpy as jnp
    >>> choose = sampler(temperature=0.7, top_k=1)
    >>> int(choose(jnp.array([0.0, 2.0, 1.0]), jax.random.key(0)))
    1
    """
    check_settings(temperature, top_k, top_p)
    if not isinstance(temperature, jax.Array) and temperature == 0:
        return greedy
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def choose(logits: jax.Array, key: Any) -> jax.Array:
        if key is None:
            raise LayerError("draws ids, and has no key", hint="key=jax.random.key(0)")
        for name, value in settings.items():
            if value is not None:
                logits = _FILTERS[name](logits, value)
        return jax.random.categorical(key, logits).astype(jnp.int32)

    return choose


_FILTERS: dict[str, Callable[..., jax.Array]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
}


def check_settings(temperature: Any, top_k: Any, top_p: Any) -> None:
    if not isinstance(temperature, jax.core.Tracer):
        arguments.number("temperature", _number(temperature))
    if top_k is not None:
        arguments.positive("top_k", top_k)
    if top_p is not None and not isinstance(top_p, jax.core.Tracer):
        most = arguments.number("top_p", _number(top_p))
        if not 0 < most <= 1:
            raise LayerError(f"top_p must be more than 0 and at most 1, got {format_short(top_p)}")


def _number(value: Any) -> Any:
    """The number in an array of one."""
    one = isinstance(value, jax.Array) and value.shape == ()
    return value.item() if one else value


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(core.at_least_float32(logits.dtype))


def _only(logits: jax.Array, places: jax.Array, keep: jax.Array) -> jax.Array:
    """The logits at those of ``places`` that are to ``keep``."""
    nowhere = jnp.zeros(logits.shape, bool)
    kept = jnp.put_along_axis(nowhere, places, keep, axis=-1, inplace=False)
    return jnp.where(kept, logits, -jnp.inf)
