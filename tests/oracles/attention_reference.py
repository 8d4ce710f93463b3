"""Attention written out in NumPy loops, from its definition, in float64."""

import jax.numpy as jnp
import numpy as np


def arrays(seed, batch, steps, keys, heads, num_kv_heads, size):
    """Random queries, keys and values."""
    numbers = np.random.default_rng(seed)
    shapes = [(batch, steps, heads, size), *[(batch, keys, num_kv_heads, size)] * 2]
    return tuple(jnp.asarray(numbers.normal(size=shape)) for shape in shapes)


def attention(q, k, v, visible, *, bias=None, soft_cap=None, scale=None):
    """One row of the batch: q (T, N, H), k and v (S, K, H); ``visible(t, s)`` says who sees whom.

    ``bias(head, t, s)`` is added to the score.
    """
    steps, heads, size = q.shape
    out = np.zeros((steps, heads, size))
    for n in range(heads):
        own = n * k.shape[1] // heads
        for t in range(steps):
            seen = [s for s in range(len(k)) if visible(t, s)]
            if not seen:
                continue
            scores = np.array([q[t, n] @ k[s, own] for s in seen]) * (scale or size**-0.5)
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            if bias:
                scores = scores + np.array([bias(n, t, s) for s in seen])
            weights = np.exp(scores - scores.max())
            out[t, n] = (weights / weights.sum()) @ np.array([v[s, own] for s in seen])
    return out


def slope(head, heads):
    """Of ALiBi, for numbers of heads that are powers of two."""
    return 2.0 ** (-8.0 * (head + 1) / heads)


def rotated(x, base=10000.0):
    """Steps (T, N, H) turned by their index: feature i as a complex number with i + H / 2."""
    half = x.shape[-1] // 2
    out = np.empty_like(x)
    for t in range(len(x)):
        for i in range(half):
            turned = (x[t, :, i] + 1j * x[t, :, half + i]) * np.exp(1j * t * base ** (-i / half))
            out[t, :, i], out[t, :, half + i] = turned.real, turned.imag
    return out


def self_attention(params, x, *, heads, num_kv_heads=None, rope=None, window=None, **options):
    """The layer on one row (T, D) without padding. ``options``: causal, alibi, soft_cap."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def split(name, count):
        y = x @ p[f"{name}_kernel"] + p[f"{name}_bias"]
        return y.reshape(len(x), count, y.shape[-1] // count)

    q = split("query", heads)
    k, v = (split(name, num_kv_heads or heads) for name in ("key", "value"))
    if rope:
        q, k = rotated(q, rope), rotated(k, rope)
    falls = options.get("alibi")
    out = attention(
        q,
        k,
        v,
        lambda t, s: (not options.get("causal") or s <= t) and (not window or t - s < window),
        bias=(lambda n, t, s: -slope(n, heads) * abs(t - s)) if falls else None,
        soft_cap=options.get("soft_cap"),
    )
    return out.reshape(len(x), out.shape[1] * out.shape[2]) @ p["out_kernel"] + p["out_bias"]
