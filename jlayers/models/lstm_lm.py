"""LSTMLM: a language model of LSTM layers."""

from __future__ import annotations

from ..base.arguments import Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.serial import serial
from ..combinators.tied import tied as with_one_table
from ..layers import LSTM, Dense, Dropout, Embedding
from .sizes import sized

SIZES = {"medium": {"features": 650}, "large": {"features": 1500}}


@factory
def LSTMLM(
    size: str = "medium",
    *,
    num_embeddings: Positive = 10000,
    features: Positive | None = None,
    num_layers: Positive = 2,
    dropout_rate: Fraction = 0.0,
    tied: bool = False,
    head: bool = True,
) -> Layer:
    """A language model of LSTM layers with dropout between them (Zaremba et al., 2014).

    (arXiv:1409.2329). Parameters: 19,775,200 (medium) and 66,022,000 (large), for the 20 and 66
    million of Merity et al. (2017, arXiv:1708.02182).

    Args:
      size: ``"medium"`` or ``"large"``.
      num_embeddings: how many ids there are.
      features: size of a step, and of the states, instead of that of ``size``.
      num_layers: how many LSTM layers.
      dropout_rate: the probability of dropping a value between layers in training; 0.5 (medium) and
        0.65 (large) in the paper.
      tied: whether the logits are by the table of the embedding (arXiv:1608.05859).
      head: whether the output is logits.

    Shapes:
      x: (batch, time), integer. y: (batch, time, num_embeddings), or (batch, time, features)
      without ``head``; of the dtype of the parameters.
      params: embedding, layer: lstm, lstm_1, ...; and head, or a bias where it is ``tied``.

    Raises:
      LayerError: for another size, and ``train=True`` without a key where values are dropped.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.LSTMLM("large", tied=True)
    >>> jl.out_spec(model, jl.spec((8, 100), jnp.int32)).shape
    (8, 100, 10000)
    """
    (width,) = sized(size, SIZES, locals())
    embedding = Embedding(num_embeddings, width)
    pairs = [(Dropout(dropout_rate), LSTM(width)) for _ in range(num_layers)]
    layer = serial(*(each for pair in pairs for each in pair), Dropout(dropout_rate))
    if head and tied:
        return with_one_table(embedding, layer, bias=True)
    last = {"head": Dense(num_embeddings)} if head else {}
    return serial(embedding=embedding, layer=layer, **last)
