"""Llama: a decoder with rotary positions, RMS norms and gated networks, or experts of these."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ..base.arguments import AboveZero, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.mixture_of_experts import MixtureOfExperts
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.tied import tied as with_one_table
from ..combinators.transformer import TransformerBlock
from ..layers import Dense, Embedding, RMSNorm, SelfAttention
from ..layers.attention.base import Biases
from ..layers.attention.options import RopeOption, WindowSize
from .parts import gated_network
from .sizes import named, sized

SIZES = named(
    "num_embeddings features hidden_dim num_heads num_kv_heads num_layers rope num_experts",
    {
        "llama-2-7b": (32000, 4096, 11008, 32, 32, 32, 10000.0, None),
        "llama-2-13b": (32000, 5120, 13824, 40, 40, 40, 10000.0, None),
        "llama-2-70b": (32000, 8192, 28672, 64, 8, 80, 10000.0, None),
        "llama-3-8b": (128256, 4096, 14336, 32, 8, 32, 500000.0, None),
        "llama-3-70b": (128256, 8192, 28672, 64, 8, 80, 500000.0, None),
        "mixtral-8x7b": (32000, 4096, 14336, 32, 8, 32, 1000000.0, 8),
    },
)


@factory
def Llama(
    size: str = "llama-2-7b",
    *,
    num_embeddings: Positive | None = None,
    features: Positive | None = None,
    hidden_dim: Positive | None = None,
    num_heads: Positive | None = None,
    num_kv_heads: Positive | None = None,
    head_dim: Positive | None = None,
    num_layers: Positive | None = None,
    num_experts: Positive | None = None,
    top_k: Positive = 2,
    rope: RopeOption | None = None,
    window: WindowSize | None = None,
    bias: Biases = False,
    epsilon: AboveZero = 1e-5,
    tied: bool = False,
    head: bool = True,
) -> Layer:
    """Llama, a language model (Touvron et al., 2023, arXiv:2307.09288), and those made like it.

    Llama 3 (arXiv:2407.21783) is one, Mistral with a window, and Mixtral with experts (Jiang et
    al., 2024, arXiv:2401.04088). Parameters: 6,738,415,616 (llama-2-7b), 8,030,261,248 (llama-3-8b)
    and 46,702,792,704 (mixtral-8x7b).

    Args:
      size: ``"llama-2-7b"``, ``"llama-2-13b"``, ``"llama-2-70b"``, ``"llama-3-8b"``,
        ``"llama-3-70b"`` or ``"mixtral-8x7b"``.
      num_embeddings, features, hidden_dim, num_heads, num_kv_heads, num_layers, num_experts, rope:
        instead of those of ``size``: how many ids there are, the size of a step and of what is
        inside the network of a step, how many blocks, and how many of these networks a block has.
      head_dim, window, bias: as for ``SelfAttention``.
      top_k: how many experts a step uses. The gate of one alone is its probability among all, where
        Mixtral's would be 1 and its router untrained.
      epsilon: of the norms.
      tied: whether the logits are by the table of the embedding, as in small models.
      head: whether the output is logits.

    Shapes:
      x: (batch, time), integer. y: (batch, time, num_embeddings), or (batch, time, features)
      without ``head``; of the dtype of the parameters.
      params: embedding, layer: blocks, stacked as by ``repeat``, and norm; and head.

    Raises:
      LayerError: for another size.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.Llama("llama-3-8b", num_layers=2)
    >>> jl.out_spec(model, jl.spec((8, 100), jnp.int32)).shape
    (8, 100, 128256)
    """
    # The number of a size need not divide another number of heads.
    num_kv_heads = num_kv_heads or num_heads
    ids, width, hidden, heads, kv_heads, layers, turns, experts = sized(size, SIZES, locals())
    init = initializers.normal(0.02)
    norm = RMSNorm(epsilon=epsilon)

    def dense(size: int) -> Layer:
        return Dense(size, bias=False, kernel_init=init)

    mlp = gated_network(jax.nn.silu, dense(hidden), dense(hidden), dense(width))
    attend = SelfAttention(
        heads,
        causal=True,
        window=window,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope=turns,
        bias=bias,
        kernel_init=init,
    )
    network = MixtureOfExperts(mlp, experts, top_k=top_k) if experts else mlp
    block = TransformerBlock(attend, network, norm=norm)
    embedding = Embedding(ids, width, embedding_init=init)
    layer = serial(blocks=repeat(block, layers), norm=norm)
    if head and tied:
        return with_one_table(embedding, layer)
    last = {"head": dense(ids)} if head else {}
    return serial(embedding=embedding, layer=layer, **last)
