"""GPT-2: a decoder of pre-norm blocks with learned positions."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ..base.arguments import Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.tied import tied
from ..combinators.transformer import TransformerBlock
from ..layers import Dropout, Embedding, LayerNorm, PositionEmbedding, SelfAttention
from .parts import network
from .sizes import sized

SIZES = {
    "small": {"features": 768, "num_heads": 12, "num_layers": 12},
    "medium": {"features": 1024, "num_heads": 16, "num_layers": 24},
    "large": {"features": 1280, "num_heads": 20, "num_layers": 36},
    "xl": {"features": 1600, "num_heads": 25, "num_layers": 48},
}


@factory
def GPT2(
    size: str = "small",
    *,
    num_embeddings: Positive = 50257,
    features: Positive | None = None,
    num_heads: Positive | None = None,
    num_layers: Positive | None = None,
    hidden_dim: Positive | None = None,
    num_positions: Positive = 1024,
    dropout_rate: Fraction = 0.0,
    head: bool = True,
) -> Layer:
    """GPT-2, a language model (Radford et al., 2019, "Language models are unsupervised ...").

    Parameters: 124,439,808 (small), 354,823,168 (medium), 774,030,080 (large), 1,557,611,200 (xl).

    Args:
      size: ``"small"``, ``"medium"``, ``"large"`` or ``"xl"``.
      num_embeddings: how many ids there are.
      features, num_heads, num_layers: instead of those of ``size``.
      hidden_dim: of the hidden layer of a block; four times ``features`` if None.
      num_positions: the longest sequence.
      dropout_rate: the probability of dropping a value in training; 0.1 in the paper.
      head: whether the output is logits, by the table of the embedding.

    Shapes:
      x: (batch, time), integer. y: (batch, time, num_embeddings), or (batch, time, features)
      without ``head``; of the dtype of the parameters.
      params: embedding, and layer: positions, blocks, stacked as by ``repeat``, and norm.

    Raises:
      LayerError: for another size.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.GPT2("medium")
    >>> jl.out_spec(model, jl.spec((8, 100), jnp.int32)).shape
    (8, 100, 50257)
    """
    width, heads, layers = sized(size, SIZES, locals())
    init = initializers.normal(0.02)
    norm = LayerNorm(epsilon=1e-5)
    block = TransformerBlock(
        SelfAttention(heads, causal=True, dropout_rate=dropout_rate, kernel_init=init),
        network(hidden_dim or 4 * width, width, jax.nn.gelu, init),
        norm=norm,
        dropout_rate=dropout_rate,
    )
    embedding = Embedding(num_embeddings, width, embedding_init=init)
    layer = serial(
        positions=PositionEmbedding(num_positions),
        drop=Dropout(dropout_rate),
        blocks=repeat(block, layers),
        norm=norm,
    )
    return tied(embedding, layer) if head else serial(embedding=embedding, layer=layer)
