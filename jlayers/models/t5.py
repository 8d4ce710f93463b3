"""T5: an encoder and a decoder whose only positions are a table of distances."""

from __future__ import annotations

import functools

import jax
from jax.nn import initializers

from ..base.arguments import AboveZero, Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.once import once
from ..combinators.serial import serial
from ..combinators.transformer import TransformerBlock, TransformerDecoderBlock
from ..layers import CrossAttention, Dense, Dropout, Embedding, RMSNorm, SelfAttention, T5Bias
from .heads import logits
from .parts import Parts, gated_network
from .sizes import named, sized
from .stacks import pair, with_distances

SIZES = named(
    "features hidden_dim num_heads num_layers gated tied",
    {
        "small": (512, 2048, 8, 6, False, True),
        "base": (768, 3072, 12, 12, False, True),
        "large": (1024, 4096, 16, 24, False, True),
        "1.1-small": (512, 1024, 6, 8, True, False),
        "1.1-base": (768, 2048, 12, 12, True, False),
        "1.1-large": (1024, 2816, 16, 24, True, False),
    },
)


@factory
def T5(
    size: str = "small",
    *,
    num_embeddings: Positive = 32128,
    features: Positive | None = None,
    hidden_dim: Positive | None = None,
    num_heads: Positive | None = None,
    head_dim: Positive = 64,
    num_layers: Positive | None = None,
    num_decoder_layers: Positive | None = None,
    num_buckets: Positive = 32,
    max_distance: Positive = 128,
    dropout_rate: Fraction = 0.0,
    epsilon: AboveZero = 1e-6,
    gated: bool | None = None,
    tied: bool | None = None,
    head: bool = True,
) -> Layer:
    """T5, from text to text (Raffel et al., 2020, arXiv:1910.10683).

    Parameters: 60,506,624 (small), 222,903,552 (base), 737,668,096 (large), 76,961,152 (1.1-small).
    ``decoding.generate(model, params, state, begin, steps, context=source)`` writes.

    Args:
      size: ``"small"``, ``"base"`` or ``"large"``, or one of version 1.1 and Flan, ``"1.1-small"``
        and so on, whose networks are gated and whose logits have a kernel of their own.
      num_embeddings: how many ids there are; both texts have one table.
      features, hidden_dim, num_heads, num_layers, gated, tied: instead of those of ``size``: the
        size of a step and of what is inside its network, how many blocks there are, whether the
        network is ``gelu(gate(x)) * up(x)`` and not of relu, and whether the logits are by the
        table of the embedding.
      num_decoder_layers: how many blocks the decoder has, where these are not as many.
      head_dim: of the attention.
      num_buckets, max_distance: as for ``T5Bias``.
      dropout_rate: the probability of dropping a value in training; 0.1 in the paper.
      epsilon: of the norms.
      head: whether the output is logits.

    Shapes:
      x: (ids, source), integer (batch, time) and (batch, steps). The first of ids is the id of
        padding, 0, and the others are what was written so far. y: (batch, time, num_embeddings), or
        (batch, time, features) without ``head``; of the dtype of the parameters.
      params: embedding; encoder and decoder: relative_bias (num_buckets, num_heads), blocks,
        stacked as by ``repeat``, and norm; and head.

    Raises:
      LayerError: for another size, and an input that is not a pair.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.T5("base")
    >>> jl.out_spec(model, (jl.spec((8, 10), jnp.int32), jl.spec((8, 100), jnp.int32))).shape
    (8, 10, 32128)
    """
    width, hidden, heads, layers, has_gate, one_table = sized(size, SIZES, locals())
    norm, drop = RMSNorm(epsilon=epsilon), Dropout(dropout_rate)
    options: Parts = {"norm": norm, "dropout_rate": dropout_rate}
    # Scores are not divided by sqrt(head_dim): with kernels of this size they need not be.
    how: Parts = {
        "head_dim": head_dim,
        "scale": 1.0,
        "bias": False,
        "kernel_init": initializers.normal(width**-0.5 * head_dim**-0.25),
        "dropout_rate": dropout_rate,
    }

    def dense(size: int, inputs: int) -> Layer:
        return Dense(size, bias=False, kernel_init=initializers.normal(inputs**-0.5))

    up, down = dense(hidden, width), dense(width, hidden)
    network = serial(up=up, act=jax.nn.relu, drop=drop, down=down)
    if has_gate:
        network = gated_network(jax.nn.gelu, up, up, down, dropout_rate)
    relative = T5Bias(num_buckets, max_distance, shared=True)
    attend = functools.partial(SelfAttention, heads, relative=relative, **how)
    cross = CrossAttention(heads, **how)
    reads = TransformerBlock(attend(), network, **options)
    writes = TransformerDecoderBlock(attend(causal=True), cross, network, **options)
    stack = functools.partial(with_distances, shape=(num_buckets, heads), drop=drop, norm=norm)
    last: Parts = {"head": dense(num_embeddings, width)} if head and not one_table else {}

    def body(f: Scope, x: PyTree) -> PyTree:
        ids, source = pair(x, "ids", "source")
        memory = f["encoder"]({"x": f["embedding"](source)})
        y = f["decoder"]({"x": f["embedding"](ids), "memory": memory})
        if head and one_table:
            return logits(y, width**-0.5 * f["embedding"].params["embedding"])
        return f["head"](y) if head else y

    return compose(
        body,
        embedding=Embedding(num_embeddings, width, embedding_init=initializers.normal()),
        encoder=once(stack(reads, layers)),
        decoder=stack(writes, num_decoder_layers or layers),
        **last,
    )
