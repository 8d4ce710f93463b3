"""BERT: an encoder of post-norm blocks that sees both sides."""

from __future__ import annotations

import jax.numpy as jnp
from jax.nn import initializers

from ..base.arguments import Fraction, Positive
from ..base.constructors import on_sequence
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.transformer import TransformerBlock
from ..layers import Dense, Dropout, Embedding, LayerNorm, PositionEmbedding, SelfAttention
from .heads import first_step, logits
from .parts import Parts, exact_gelu, network
from .sizes import sized
from .stacks import pair

SIZES = {
    "base": {"features": 768, "num_heads": 12, "num_layers": 12},
    "large": {"features": 1024, "num_heads": 16, "num_layers": 24},
}
HEADS = ("pool", "ids", None)


@factory
def BERT(
    size: str = "base",
    *,
    num_embeddings: Positive = 30522,
    features: Positive | None = None,
    num_heads: Positive | None = None,
    num_layers: Positive | None = None,
    hidden_dim: Positive | None = None,
    num_positions: Positive = 512,
    num_types: Positive = 2,
    dropout_rate: Fraction = 0.0,
    head: str | None = "pool",
) -> Layer:
    """BERT, an encoder of text (Devlin et al., 2019, arXiv:1810.04805).

    Parameters: 109,482,240 (base) and 335,141,888 (large), with ``head="pool"``. Padding is the
    mask of a ``Sequence``.

    Args:
      size: ``"base"`` or ``"large"``.
      num_embeddings: how many ids there are.
      features, num_heads, num_layers: instead of those of ``size``.
      hidden_dim: of the hidden layer of a block; four times ``features`` if None.
      num_positions: the longest sequence.
      num_types: how many kinds of segments.
      dropout_rate: the probability of dropping a value in training; 0.1 in the paper.
      head: ``"pool"`` for a vector of the first step; ``"ids"`` for the logits of masked ids, by
        the table of the embedding; None for the features of each step.

    Shapes:
      x: ids (batch, time), integer, or (ids, types), the segment of each step, 0 by default.
      y: (batch, features), (batch, time, num_embeddings) or (batch, time, features); of the
        dtype of the parameters.
      params: embedding, types, layer: positions, norm, and blocks, stacked as by ``repeat``; head.

    Raises:
      LayerError: for another size, head or input.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.BERT("large")
    >>> jl.out_spec(model, jl.spec((8, 100), jnp.int32)).shape
    (8, 1024)
    """
    if head not in HEADS:
        raise LayerError(f"unknown head {head!r}", expected=", ".join(map(repr, HEADS)))
    width, heads, layers = sized(size, SIZES, locals())
    init = initializers.normal(0.02)
    norm, dense = LayerNorm(epsilon=1e-12), Dense(width, kernel_init=init)
    block = TransformerBlock(
        SelfAttention(heads, dropout_rate=dropout_rate, kernel_init=init),
        network(hidden_dim or 4 * width, width, exact_gelu, init),
        norm=norm,
        norm_first=False,
        dropout_rate=dropout_rate,
    )
    children: Parts = {
        "embedding": Embedding(num_embeddings, width, embedding_init=init),
        "types": Embedding(num_types, width, embedding_init=init),
        "layer": serial(
            positions=PositionEmbedding(num_positions),
            norm=norm,
            drop=Dropout(dropout_rate),
            blocks=repeat(block, layers),
        ),
    }
    if head == "pool":
        children["head"] = serial(first=on_sequence(first_step), dense=dense, act=jnp.tanh)
    elif head == "ids":
        children["head"] = serial(dense=dense, act=exact_gelu, norm=norm)

    def body(f: Scope, x: PyTree) -> PyTree:
        two = isinstance(x, tuple | list | dict)
        ids, types = pair(x, "ids", "types") if two else (x, jnp.zeros_like(x))
        if ids.shape != types.shape:
            got = format_spec(specs_of((ids, types)))
            raise LayerError("ids and types are of different shapes", got=got)
        y = f["layer"](f["embedding"](ids) + f["types"](types))
        if head == "pool":
            return f["head"](y)
        if head is None:
            return y
        bias = f.param("bias", initializers.zeros, (num_embeddings,))
        return logits(f["head"](y), f["embedding"].params["embedding"], bias)

    return compose(body, **children)
