"""ViT, the vision transformer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ..base.arguments import AboveZero, Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.transformer import TransformerBlock
from ..layers import Conv, Dense, Dropout, LayerNorm, SelfAttention
from .parts import Parts, exact_gelu
from .sizes import sized

SIZES = {
    "tiny": {"features": 192, "num_heads": 3, "num_layers": 12},
    "small": {"features": 384, "num_heads": 6, "num_layers": 12},
    "base": {"features": 768, "num_heads": 12, "num_layers": 12},
    "large": {"features": 1024, "num_heads": 16, "num_layers": 24},
    "huge": {"features": 1280, "num_heads": 16, "num_layers": 32},
}


@factory
def ViT(
    size: str = "base",
    *,
    patch_size: Positive = 16,
    features: Positive | None = None,
    num_heads: Positive | None = None,
    num_layers: Positive | None = None,
    hidden_dim: Positive | None = None,
    epsilon: AboveZero = 1e-6,
    dropout_rate: Fraction = 0.0,
    classes: Positive | None = 1000,
) -> Layer:
    """A transformer over the patches of an image (Dosovitskiy et al., 2020, arXiv:2010.11929).

    Parameters for images of 224 pixels: 86,567,656 (base), 304,326,632 (large), and with patches of
    32 pixels 88,224,232 (base) and 306,535,400 (large).

    Args:
      size: ``"base"``, ``"large"`` or ``"huge"`` of the paper, or ``"tiny"`` or ``"small"``
        (Touvron et al., 2020, arXiv:2012.12877).
      patch_size: height and width of a patch in pixels; what is over at the edges is left out.
      features, num_heads, num_layers: instead of those of ``size``.
      hidden_dim: of the hidden layer of a block; four times ``features`` if None.
      epsilon: of layer norm; 1e-12 in the configurations of transformers.
      dropout_rate: of the tokens, and of what each block adds, in training.
      classes: size of the output; None for the tokens.

    Shapes:
      x: (batch, height, width, channels). y: (batch, classes), or (batch, 1 + patches, features)
      without classes, the class token first. The size of the image is fixed by ``init``.
      params: embed, blocks, norm and head; those of ``blocks`` are stacked, as by ``repeat``.

    Raises:
      LayerError: for another size, and ``train=True`` without a key where values are dropped.

    >>> import jlayers as jl
    >>> model = jl.models.ViT("base", patch_size=16)
    >>> jl.out_spec(model, jl.spec((8, 224, 224, 3))).shape
    (8, 1000)
    """
    width, heads, layers = sized(size, SIZES, locals())
    mlp = serial(expand=Dense(hidden_dim or 4 * width), gelu=exact_gelu, contract=Dense(width))
    norm = LayerNorm(epsilon=epsilon)
    block = TransformerBlock(SelfAttention(heads), mlp, norm=norm, dropout_rate=dropout_rate)
    patches = Conv(width, (patch_size, patch_size), strides=patch_size)
    drop: Parts = {"drop": Dropout(dropout_rate)} if dropout_rate else {}
    parts: Parts = {"embed": compose(_embed, patches=patches), **drop}
    parts |= {"blocks": repeat(block, layers), "norm": norm}
    if classes is not None:
        parts |= {"class_token": _first, "head": Dense(classes)}
    return serial(**parts)


def _first(tokens: jax.Array) -> jax.Array:
    return tokens[:, 0]


def _embed(f: Scope, x: jax.Array) -> jax.Array:
    patches = f.patches(x)
    batch, height, width, features = patches.shape
    tokens = patches.reshape(batch, height * width, features)
    first = f.param("cls_token", initializers.zeros, (1, 1, features))
    tokens = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, features)), tokens], 1)
    shape = (1, 1 + height * width, features)
    return tokens + f.param("position_embeddings", initializers.normal(0.02), shape)
