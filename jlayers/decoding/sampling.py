"""Which id comes next: filters on logits, and the choice among the ids that they leave.

How to read this file: ``temperature``, ``top_k`` and ``top_p`` are pure functions from logits to
logits, with ``-inf`` for what is left out. ``sampler`` chains them and draws; ``greedy`` is the
argmax. All of them compute in float32 at least. ``usable`` says whether logits are those of a
distribution; where they are not, there is no id to choose, and ``NO_ID`` says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.specs import format_short
from ..core.dtypes import at_least_float32

Choose = Callable[[jax.Array, jax.Array | None], jax.Array]
# No model has it: the loops of decoding end a row at any id outside the logits.
NO_ID = -1


def greedy(logits: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """The likeliest id; the lowest one of several that are equally likely.

    Args:
      logits: floats (..., num_embeddings).
      key: not used.

    Returns:
      int32 (...); -1 where the logits hold NaN or ``inf``, or are all ``-inf``.

    >>> import jax.numpy as jnp
    >>> int(greedy(jnp.array([0.0, 2.0, 1.0])))
    1
    """
    return _unless_unusable(logits, jnp.argmax(logits, -1))


def usable(logits: jax.Array) -> jax.Array:
    """Whether logits (..., num_embeddings) are those of a distribution: bools (...).

    They are not with a NaN or ``inf`` among them, nor where all are ``-inf``.
    """
    # One pass: a NaN is the largest of any numbers.
    return jnp.isfinite(jnp.max(logits, -1))


def _unless_unusable(logits: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.where(usable(logits), ids.astype(jnp.int32), NO_ID)


def temperature(logits: jax.Array, value: float | jax.Array) -> jax.Array:
    """``logits / value``: a value below 1 makes likely ids likelier, one above 1 flattens.

    Args:
      logits: floats (..., num_embeddings).
      value: above 0.

    Returns:
      As ``logits``, float32 at least; where the quotients would overflow, less the largest of
      them, which is the same distribution.

    >>> import jax, jax.numpy as jnp
    >>> p = jax.nn.softmax(temperature(jnp.log(jnp.array([0.2, 0.8])), 0.5))
    >>> p.round(3).tolist() == jnp.array([0.04 / 0.68, 0.64 / 0.68]).round(3).tolist()
    True
    """
    logits = _widen(logits)
    # A value outside this range would be rounded to 0 or inf, or its reciprocal, which is what XLA
    # multiplies with, to 0; and 0 / 0 and -inf * 0 are NaN.
    least = float(jnp.finfo(logits.dtype).tiny)  # type: ignore[no-untyped-call]
    if not isinstance(value, jax.Array):
        value = min(max(value, least), 1 / least)
    value = jnp.clip(jnp.asarray(value, logits.dtype), least, 1 / least)
    quotients = logits / value
    overflows = jnp.any(jnp.isinf(quotients) & jnp.isfinite(logits), -1, keepdims=True)
    likeliest = jnp.max(logits, -1, keepdims=True)
    shifted = (logits - jnp.broadcast_to(likeliest, logits.shape)) / value
    overflows = overflows & jnp.isfinite(likeliest)
    return jnp.where(jnp.broadcast_to(overflows, logits.shape), shifted, quotients)


@public_api
def top_k(logits: jax.Array, k: int) -> jax.Array:
    """The ``k`` largest logits, ``-inf`` for the others (Fan et al., 2018, arXiv:1805.04833).

    Args:
      logits: floats (..., num_embeddings).
      k: how many stay, at least 1; of equal logits those of the lower ids.

    Returns:
      As ``logits``, float32 at least.

    >>> import jax.numpy as jnp
    >>> top_k(jnp.array([3.0, 1.0, 2.0]), 2).tolist()
    [3.0, -inf, 2.0]
    """
    logits, k = _widen(logits), arguments.positive("k", k)
    # By index and not by value: of equal logits at the border, no more than k stay.
    # A setting for several models: with fewer ids than k all of them stay.
    _, indices = lax.top_k(logits, min(k, logits.shape[-1]))
    return _keep(logits, indices, jnp.ones(indices.shape, bool))


def top_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """The nucleus, ``-inf`` outside: the likeliest ids that together have probability ``p``.

    They are as few as reach that probability, and at least one (Holtzman et al., 2020,
    arXiv:1904.09751).

    Args:
      logits: floats (..., num_embeddings).
      p: more than 0, at most 1.

    Returns:
      As ``logits``, float32 at least. The likeliest id stays whatever ``p`` is.

    >>> import jax.numpy as jnp
    >>> (top_p(jnp.log(jnp.array([0.5, 0.1, 0.3, 0.1])), 0.7) > -jnp.inf).tolist()
    [True, False, True, False]
    """
    logits = _widen(logits)
    p = jnp.asarray(p, logits.dtype)
    # As a sort, since it says of equal logits which comes first: the one of the lower id.
    ordered, indices = lax.top_k(logits, logits.shape[-1])
    probabilities = jax.nn.softmax(ordered, -1)
    # The probability of all likelier ids.
    before = jnp.cumsum(probabilities, -1) - probabilities
    # With p = 1 all stay, even where a rounded sum reaches one too early; the first one stays with
    # a p that has been rounded to 0.
    first = lax.broadcasted_iota(jnp.int32, before.shape, before.ndim - 1) == 0
    return _keep(logits, indices, (before < p) | (p >= 1) | first)


@public_api
def sampler(
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
) -> Choose:
    """``choose(logits, key) -> id``: a draw from what the filters leave, applied in this order.

    Args:
      temperature: 0 for ``greedy``; a traced one is assumed to be more than 0.
      top_k, top_p: see the functions of these names; None for no such filter.

    Returns:
      ``choose`` for ``decode``: from logits, floats (num_embeddings,), and a typed key to an int32
      scalar; to -1 where the logits hold NaN or ``inf``, or are all ``-inf``. The same function
      for the same numbers, so that ``decode`` finds its program again.

    Raises:
      LayerError: for a temperature below 0, a ``top_k`` below 1 and a ``top_p`` outside (0, 1];
        from the result, without a key.

    >>> import jax, jax.numpy as jnp
    >>> choose = sampler(temperature=0.7, top_k=1)
    >>> int(choose(jnp.array([0.0, 2.0, 1.0]), jax.random.key(0)))
    1
    """
    check_settings(temperature, top_k, top_p)
    # An array may be traced, so its value is not looked at: it is taken to be more than 0.
    if not isinstance(temperature, jax.Array) and temperature == 0:
        return greedy
    settings = (temperature, top_k, top_p)
    if any(isinstance(value, jax.Array) for value in settings):
        return _sampler(*settings)
    return _remembered(*settings)


def _sampler(
    temperature: float | jax.Array, top_k: int | None, top_p: float | jax.Array | None
) -> Choose:
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def choose(logits: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None:
            raise LayerError("sampling needs a key", hint="key=jax.random.key(0)")
        # Temperature first, as everywhere: top_p depends on how flat the distribution is.
        for name, value in settings.items():
            if value is not None:
                logits = _FILTERS[name](logits, value)
        return _unless_unusable(logits, jax.random.categorical(key, logits))

    return choose


_remembered = functools.lru_cache(maxsize=128)(_sampler)


_FILTERS: dict[str, Callable[..., jax.Array]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
}


def check_settings(temperature: object, top_k: object, top_p: object) -> None:
    """Checks what is known of the arguments of ``sampler``.

    Raises:
      LayerError: for an invalid one; a traced value cannot be checked.
    """
    if not isinstance(temperature, jax.core.Tracer):
        number = arguments.number("temperature", _as_number(temperature))
        if number == math.inf:
            raise LayerError(
                "temperature must be finite, got inf",
                hint="1e6 for ids that are all equally likely",
            )
    if top_k is not None:
        arguments.positive("top_k", top_k)
    if top_p is not None and not isinstance(top_p, jax.core.Tracer):
        probability = arguments.number("top_p", _as_number(top_p))
        if not 0 < probability <= 1:
            raise LayerError(f"top_p must be more than 0 and at most 1, got {format_short(top_p)}")


def _as_number(value: object) -> object:
    """A scalar array as a Python number; anything else unchanged."""
    if isinstance(value, jax.Array) and value.shape == ():
        number: object = value.item()
        return number
    return value


def _widen(logits: jax.Array) -> jax.Array:
    return logits.astype(at_least_float32(logits.dtype))


def _keep(logits: jax.Array, indices: jax.Array, keep: jax.Array) -> jax.Array:
    """The logits at those ``indices`` where ``keep`` is True, and ``-inf`` elsewhere."""
    # Scattered, not compared with the smallest that stays: equal logits may be on both sides.
    mask = jnp.zeros(logits.shape, bool)
    mask = jnp.put_along_axis(mask, indices, keep, axis=-1, inplace=False)
    return jnp.where(mask, logits, -jnp.inf)
