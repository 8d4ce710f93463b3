"""Training on mixtures of two examples and of their labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import DataError, public_api
from ..base.specs import format_spec, specs_of

ArrayLike = jax.typing.ArrayLike


@public_api
def mixup(
    key: jax.Array, x: ArrayLike, labels: ArrayLike, *, alpha: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Each row and its label, averaged with another row of the batch (Zhang et al., 2018).

    ``share * x + (1 - share) * x[partner]``, with a share of its own for each row from Beta(alpha,
    alpha), and partners by a permutation. Pure, and traced by ``jit``.

    Args:
      key: a typed key.
      x: (batch, ...), floating.
      labels: probabilities (batch, ..., classes): ``jax.nn.one_hot`` of indices.
      alpha: small for mixtures that are nearly one of the two.

    Returns:
      x and labels, of the same shapes.

    Raises:
      DataError: for labels that are indices, x that is not floating, and another number of rows.

    >>> import jax, jax.numpy as jnp
    >>> from jlayers import data
    >>> x, labels = jnp.array([[0.0], [1.0]]), jnp.eye(2)
    >>> mixed, label = data.mixup(jax.random.key(0), x, labels)
    >>> bool(jnp.allclose(mixed[:, 0], label[:, 1]))
    True
    """
    x, labels = _floating(x, "mixup"), _probabilities(labels, "mixup")
    arguments.above_zero("alpha", alpha)
    _same_rows(x, labels, "mixup")
    partner, share = _draw(key, len(x), alpha)
    return _mixed(x, partner, share), _mixed(labels, partner, share)


@public_api
def cutmix(
    key: jax.Array, x: ArrayLike, labels: ArrayLike, *, alpha: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Each image with a box of another image of the batch (Yun et al., 2019).

    The box has the place and the size of the paper: a share of ``1 - share`` of the area, with
    share from Beta(alpha, alpha), its centre uniform, cut at the edges; labels are averaged by the
    area that it then has. Pure, and traced by ``jit``.

    Args:
      key: a typed key.
      x: (batch, *spatial, channels).
      labels: probabilities (batch, ..., classes): ``jax.nn.one_hot`` of indices.
      alpha: 1 for boxes of all sizes alike.

    Returns:
      x and labels, of the same shapes.

    Raises:
      DataError: for labels that are indices, x that is not an image, and another number of rows.

    >>> import jax, jax.numpy as jnp
    >>> from jlayers import data
    >>> x = jnp.arange(2.0).reshape(2, 1, 1, 1) + jnp.zeros((2, 8, 8, 1))
    >>> mixed, label = data.cutmix(jax.random.key(0), x, jnp.eye(2))
    >>> bool(jnp.allclose(mixed.mean((1, 2, 3)), label[:, 1]))
    True
    """
    x, labels = jnp.asarray(x), _probabilities(labels, "cutmix")
    arguments.above_zero("alpha", alpha)
    if x.ndim < 3:
        raise DataError(
            "cutmix: x must be (batch, *spatial, channels)", got=format_spec(specs_of(x))
        )
    _same_rows(x, labels, "cutmix")
    sizes = x.shape[1:-1]
    partner, share = _draw(key, len(x), alpha)
    # The sides of the box have the root of its share of the area (of the volume, the cube root).
    side = (1 - share) ** (1 / len(sizes))
    inside = jnp.ones((len(x), *(1,) * len(sizes)), bool)
    for i, (size, own) in enumerate(
        zip(sizes, jax.random.split(jax.random.fold_in(key, 2), len(sizes)), strict=True)
    ):
        centre = jax.random.randint(own, (len(x),), 0, size)
        half = jnp.floor(side * size / 2).astype(centre.dtype)
        at = jnp.arange(size, dtype=centre.dtype)[None]
        along = (at >= (centre - half)[:, None]) & (at < (centre + half)[:, None])
        shape = [len(x)] + [1] * len(sizes)
        shape[i + 1] = size
        inside = inside & along.reshape(shape)
    axes = tuple(range(1, inside.ndim))
    kept = 1 - inside.astype(share.dtype).mean(axes)
    mixed = jnp.where(inside[..., None], x[partner], x)
    return mixed, _mixed(labels, partner, kept)


def _draw(key: jax.Array, rows: int, alpha: float) -> tuple[jax.Array, jax.Array]:
    """A partner and a share for each row."""
    arguments.typed_key(key)
    shares, partners = jax.random.split(key)
    return jax.random.permutation(partners, rows), jax.random.beta(shares, alpha, alpha, (rows,))


def _mixed(x: jax.Array, partner: jax.Array, share: jax.Array) -> jax.Array:
    own = share.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return own * x + (1 - own) * x[partner]


def _floating(x: ArrayLike, what: str) -> jax.Array:
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DataError(
            f"{what}: x must be floating", got=format_spec(specs_of(array)), hint="x / 255"
        )
    return array


def _probabilities(labels: ArrayLike, what: str) -> jax.Array:
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.ndim < 2:
        raise DataError(
            f"{what}: labels must be probabilities (batch, classes)",
            got=format_spec(specs_of(array)),
            hint="jax.nn.one_hot(labels, classes)",
        )
    return array


def _same_rows(x: jax.Array, labels: jax.Array, what: str) -> None:
    if x.shape[:1] != labels.shape[:1]:
        raise DataError(
            f"{what}: x and labels must have the same rows",
            got=f"{format_spec(specs_of(x))} and {format_spec(specs_of(labels))}",
        )
