"""Attention written out in NumPy loops, from its definition, in float64."""

import math

import jax.numpy as jnp
import numpy as np


def arrays(seed, batch, steps, keys, heads, num_kv_heads, size):
    """Random queries, keys and values."""
    numbers = np.random.default_rng(seed)
    shapes = [(batch, steps, heads, size), *[(batch, keys, num_kv_heads, size)] * 2]
    return tuple(jnp.asarray(numbers.normal(size=shape)) for shape in shapes)


def attention(q, k, v, visible, *, bias=None, soft_cap=None, scale=None, **more):
    """One row of the batch: q (T, N, H), k and v (S, K, H); ``visible(t, s)`` says who sees whom.

    ``bias(head, t, s)`` is added to the score. ``more``: ``sinks`` (N,), the score of a key without
    a value; ``keys`` and ``values``, functions of (t, s) to what is added to them; ``further``, a
    function of (head, t, s) to what is added to the product.
    """
    steps, heads, size = q.shape
    out = np.zeros((steps, heads, v.shape[-1]))
    sinks, to_keys, to_values = (more.get(name) for name in ("sinks", "keys", "values"))
    further = more.get("further")
    for n in range(heads):
        own = n * k.shape[1] // heads
        for t in range(steps):
            seen = [s for s in range(len(k)) if visible(t, s)]
            if not seen:
                continue
            keys = [k[s, own] + (to_keys(t, s) if to_keys else 0) for s in seen]
            scores = np.array([q[t, n] @ key for key in keys])
            scores = scores + np.array([further(n, t, s) if further else 0.0 for s in seen])
            scores = scores * (scale or size**-0.5)
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            if bias:
                scores = scores + np.array([bias(n, t, s) for s in seen])
            largest = scores.max() if sinks is None else max(scores.max(), sinks[n])
            weights = np.exp(scores - largest)
            total = weights.sum() + (0 if sinks is None else np.exp(sinks[n] - largest))
            values = [v[s, own] + (to_values(t, s) if to_values else 0) for s in seen]
            out[t, n] = (weights / total) @ np.array(values)
    return out


def slope(head, heads):
    """Of ALiBi, for numbers of heads that are powers of two."""
    return 2.0 ** (-8.0 * (head + 1) / heads)


def rotated(x, base=10000.0, interleaved=False, size=None, frequencies=None):
    """Steps (T, N, H) turned by their index: pairs of the first ``size`` features as complex ones.

    ``frequencies`` of pairs where they are not those of ``base``.
    """
    size = size or x.shape[-1]
    half = size // 2
    out = x.copy()
    for t in range(len(x)):
        for i in range(half):
            one, other = (2 * i, 2 * i + 1) if interleaved else (i, half + i)
            angle = t * (base ** (-i / half) if frequencies is None else frequencies[i])
            turned = (x[t, :, one] + 1j * x[t, :, other]) * np.exp(1j * angle)
            out[t, :, one], out[t, :, other] = turned.real, turned.imag
    return out


def t5_bucket(distance, buckets, farthest, causal):
    """The row of a distance, key less query, as T5's code has it, in exact arithmetic."""
    row, back = 0, -distance
    if not causal:
        buckets //= 2
        row, back = (buckets if distance > 0 else 0), abs(distance)
    back, exact = max(back, 0), buckets // 2
    if back < exact:
        return row + back
    grown = math.log(back / exact) / math.log(farthest / exact) * (buckets - exact)
    return row + min(exact + int(grown + 1e-9), buckets - 1)


def self_attention(params, x, *, heads, rotate=None, head_norm=None, **options):
    """The layer on one row (T, D) without padding.

    ``rotate(x)`` turns queries and keys. ``options``: num_kv_heads, causal, window, pattern, alibi,
    soft_cap, scale, t5 (buckets, farthest), shaw, xl (farthest).
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def split(name, count):
        y = x @ p[f"{name}_kernel"] + p.get(f"{name}_bias", 0)
        return y.reshape(len(x), count, y.shape[-1] // count)

    def normed(name, y):
        if head_norm is None:
            return y
        y = y - (y.mean(-1, keepdims=True) if head_norm == "layer" else 0)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}_scale"]

    causal, window, alibi = (options.get(name) for name in ("causal", "window", "alibi"))
    q = normed("query", split("query", heads))
    k, v = (split(name, options.get("num_kv_heads") or heads) for name in ("key", "value"))
    k = normed("key", k)
    if rotate:
        q, k = rotate(q), rotate(k)
    before, after = window if isinstance(window, tuple) else ((window or len(x)) - 1, len(x))

    def visible(t, s):
        near = t - s <= before and s - t <= after
        pattern = options.get("pattern")
        return near and (not causal or s <= t) and (pattern is None or pattern(t, s))

    def bias(n, t, s):
        if options.get("t5"):
            return p["relative_bias"][t5_bucket(s - t, *options["t5"], causal), n]
        slopes = [slope(i, heads) for i in range(heads)] if alibi is True else alibi
        return -slopes[n] * abs(t - s) if alibi else 0.0

    more = {"sinks": p.get("sinks")}
    if reach := options.get("shaw"):
        more["keys"] = lambda t, s: p["relative_keys"][np.clip(s - t, -reach, reach) + reach]
        if "relative_values" in p:
            rows = p["relative_values"]
            more["values"] = lambda t, s: rows[np.clip(s - t, -reach, reach) + reach]
    if farthest := options.get("xl"):
        kernel, u, v_bias = (p[n] for n in ("relative_kernel", "content_bias", "position_bias"))

        def further(n, t, s):
            """Terms b, c and d of the paper's section 3.3."""
            angles = np.clip(t - s, -farthest, farthest) / 10000 ** (
                np.arange(0, len(kernel), 2) / len(kernel)
            )
            waves = np.concatenate([np.sin(angles), np.cos(angles)])
            of_head = kernel.reshape(len(kernel), heads, -1)[:, n]
            own = n * k.shape[1] // heads
            return (q[t, n] + v_bias[n]) @ (waves @ of_head) + u[n] @ k[s, own]

        more["further"] = further
    how = {name: options.get(name) for name in ("soft_cap", "scale")}
    out = attention(q, k, v, visible, bias=bias, **how, **more)
    if "gate_kernel" in p:
        gate = split("gate", heads)
        out = out / (1 + np.exp(-gate))
    out = out.reshape(len(x), out.shape[1] * out.shape[2])
    return out @ p["out_kernel"] + p.get("out_bias", 0)
