"""Whisper: an encoder of log mel spectrograms and a decoder of text."""

from __future__ import annotations

from jax.nn import initializers

from ..base.arguments import Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.once import once
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.transformer import TransformerBlock, TransformerDecoderBlock
from ..layers import (
    Conv,
    CrossAttention,
    Dropout,
    Embedding,
    LayerNorm,
    PositionEmbedding,
    SelfAttention,
    SinusoidalPositions,
)
from .heads import logits
from .parts import Parts, exact_gelu, network
from .sizes import sized
from .stacks import pair, stacked

SIZES = {
    "tiny": {"features": 384, "num_heads": 6, "num_layers": 4},
    "base": {"features": 512, "num_heads": 8, "num_layers": 6},
    "small": {"features": 768, "num_heads": 12, "num_layers": 12},
    "medium": {"features": 1024, "num_heads": 16, "num_layers": 24},
    "large": {"features": 1280, "num_heads": 20, "num_layers": 32},
}


@factory
def Whisper(
    size: str = "tiny",
    *,
    num_embeddings: Positive = 51865,
    features: Positive | None = None,
    num_heads: Positive | None = None,
    num_layers: Positive | None = None,
    num_decoder_layers: Positive | None = None,
    hidden_dim: Positive | None = None,
    num_positions: Positive = 448,
    dropout_rate: Fraction = 0.0,
    head: bool = True,
) -> Layer:
    """Whisper, from speech to text (Radford et al., 2022, arXiv:2212.04356).

    Parameters: 37,184,640 (tiny), 71,825,920 (base), 240,582,912 (small); transformers counts the
    encoder's fixed sinusoids too, 576,000 numbers of the tiny one.
    ``decoding.generate(model, params, state, begin, steps, context=mel)`` writes.

    Args:
      size: ``"tiny"``, ``"base"``, ``"small"``, ``"medium"`` or ``"large"``.
      num_embeddings: how many ids there are.
      features, num_heads, num_layers: instead of those of ``size``.
      num_decoder_layers: how many blocks the decoder has, where these are not as many.
      hidden_dim: of the hidden layer of a block; four times ``features`` if None.
      num_positions: the longest text.
      dropout_rate: the probability of dropping a value in training.
      head: whether the output is logits, by the table of the embedding.

    Shapes:
      x: (ids, mel), integer (batch, time) and floating (batch, frames, bands), of 80 bands and 100
        frames a second; a step of the encoder is two frames. y: (batch, time, num_embeddings), or
        (batch, time, features) without ``head``; of the dtype of ``mel``.
      params: encoder: conv, shrink, blocks and norm; embedding, positions, blocks and norm. Blocks
        are stacked as by ``repeat``.

    Raises:
      LayerError: for another size, and an input that is not a pair.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.Whisper("base")
    >>> jl.out_spec(model, (jl.spec((8, 10), jnp.int32), jl.spec((8, 3000, 80)))).shape
    (8, 10, 51865)
    """
    width, heads, layers = sized(size, SIZES, locals())
    init = initializers.normal(0.02)
    norm, drop = LayerNorm(epsilon=1e-5), Dropout(dropout_rate)
    # A key's bias adds the same to all scores of a query, which changes nothing.
    how: Parts = {"bias": ("query", "value", "out"), "kernel_init": init}
    options: Parts = {"norm": norm, "dropout_rate": dropout_rate}
    mlp = network(hidden_dim or 4 * width, width, exact_gelu, init)
    # The longest wave is that of the last feature, and not of the one behind it.
    base = 10000.0 ** (width / max(width - 2, 1))
    encoder = serial(
        conv=Conv(width, 3, padding=1),
        act=exact_gelu,
        shrink=Conv(width, 3, strides=2, padding=1),
        act_1=exact_gelu,
        positions=SinusoidalPositions(base=base),
        drop=drop,
        blocks=repeat(TransformerBlock(SelfAttention(heads, **how), mlp, **options), layers),
        norm=norm,
    )
    causal, cross = SelfAttention(heads, causal=True, **how), CrossAttention(heads, **how)
    block = TransformerDecoderBlock(causal, cross, mlp, **options)

    def body(f: Scope, x: PyTree) -> PyTree:
        ids, mel = pair(x, "ids", "mel")
        memory = f["encoder"](mel)
        # Embeddings have the dtype of the parameters, whatever that of the sound.
        y = f["embedding"](ids).astype(memory.dtype)
        y = f["drop"](f["positions"](y))
        y = f["norm"](f["blocks"]({"x": y, "memory": memory})["x"])
        return logits(y, f["embedding"].params["embedding"]) if head else y

    return compose(
        body,
        encoder=once(encoder),
        embedding=Embedding(num_embeddings, width, embedding_init=init),
        positions=PositionEmbedding(num_positions),
        drop=drop,
        blocks=stacked(block, num_decoder_layers or layers),
        norm=norm,
    )
