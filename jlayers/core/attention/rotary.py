"""Rotary embeddings of positions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ..dtypes import at_least_float32
from .rope_scaling import RopeScaling


@dataclasses.dataclass(frozen=True)
class Rope:
    """How queries and keys are rotated by their positions (Su et al., 2021, arXiv:2104.09864).

    Attributes:
      base: of the angles: pair i of n turns by ``base ** (-i / n)`` with each position.
      interleaved: whether neighbouring features are a pair, as in the paper, GPT-J and Llama's own
        code; otherwise feature i of the first half and feature i of the second, as in GPT-NeoX and
        in Llama's weights of the transformers library.
      fraction: of a head's features, from the first on, that are rotated, above 0 up to 1.
      scaling: for longer sequences: ``LinearScaling``, ``NTKScaling``, ``YarnScaling`` or
        ``Llama3Scaling``.

    Raises:
      ValueError: for numbers out of range.

    >>> import jlayers as jl
    >>> jl.Rope(interleaved=True).frequencies(4).tolist()
    [1.0, 0.01]
    """

    base: float = 10000.0
    interleaved: bool = False
    fraction: float = 1.0
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for name, most in (("base", None), ("fraction", 1)):
            value = getattr(self, name)
            wanted = "above 0" if most is None else f"above 0 up to {most}"
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            if not fits or value <= 0 or (most is not None and value > most):
                raise ValueError(f"{name} must be a number {wanted}, got {value!r}")
        if not isinstance(self.interleaved, bool):
            raise ValueError(f"interleaved must be True or False, got {self.interleaved!r}")
        if self.scaling is not None and not hasattr(self.scaling, "frequencies"):
            raise ValueError(f"scaling must be a LinearScaling or the like, got {self.scaling!r}")

    def rotated(self, head_dim: int) -> int:
        """How many features of a head are rotated."""
        return int(head_dim * self.fraction)

    def frequencies(self, head_dim: int) -> np.ndarray:
        """The angle of each pair of features at position 1, float64."""
        pairs = self.rotated(head_dim) // 2
        plain: np.ndarray = float(self.base) ** (-np.arange(pairs) / max(pairs, 1))
        return plain if self.scaling is None else self.scaling.frequencies(plain, self.base)


def apply_rope(x: jax.Array, positions: jax.Array, base: float | Rope = 10000.0) -> jax.Array:
    """Rotary position embedding: rotates pairs of features by angles that grow with the position.

    With ``theta_i = position * base ** (-2 i / head_dim)``, feature i of the first half and feature
    i of the second half are a pair, as in GPT-NeoX and Llama::

        y_i        = x_i cos(theta_i) - x_half+i sin(theta_i)
        y_half+i   = x_half+i cos(theta_i) + x_i sin(theta_i)

    So the product of a query and a key depends on their distance alone (Su et al., 2021,
    arXiv:2104.09864). Angles are float32 at least.

    Args:
      x: (batch, T, num_heads, head_dim), ``head_dim`` even.
      positions: int32 (T,), or (batch, T).
      base: the larger it is, the more slowly the slowest pair rotates; or a ``Rope``.

    Returns:
      An array like ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> y = jl.core.apply_rope(x, jnp.array([1], jnp.int32)).ravel()
    >>> bool(jnp.allclose(y, jnp.array([jnp.cos(1.0), jnp.sin(1.0)])))
    True
    """
    rope = base if isinstance(base, Rope) else None
    if rope is not None and (rest := rope.rotated(x.shape[-1])) < x.shape[-1]:
        whole = dataclasses.replace(rope, fraction=1.0)
        turned = apply_rope(x[..., :rest], positions, whole)
        return jnp.concatenate([turned, x[..., rest:]], -1)
    # Not in bfloat16: it has no integers above 256, and positions are larger.
    wide = at_least_float32(x.dtype)
    half = x.shape[-1] // 2
    if rope is None or rope.scaling is None:
        number = base if rope is None else rope.base
        frequencies = jnp.asarray(number, wide) ** (-jnp.arange(half, dtype=wide) / half)
    else:
        frequencies = jnp.asarray(rope.frequencies(x.shape[-1]), wide)
    shape = (*positions.shape, half)
    angles = jnp.broadcast_to(positions[..., None].astype(wide), shape)
    angles = angles * jnp.broadcast_to(frequencies, shape)
    halves = (x.shape[0], x.shape[1], x.shape[2], half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if rope is not None and rope.scaling is not None and rope.scaling.amplitude != 1:
        cos, sin = (a * np.array(rope.scaling.amplitude, wide) for a in (cos, sin))
    cos, sin = (jnp.broadcast_to(a[..., None, :], halves) for a in (cos, sin))
    if rope is not None and rope.interleaved:
        first, second = x[..., 0::2].astype(wide), x[..., 1::2].astype(wide)
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], -1)
        return turned.reshape(x.shape).astype(x.dtype)
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    # Halves and not neighbours: whole vectors are rotated, without a gather.
    parts = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(parts, -1).astype(x.dtype)
