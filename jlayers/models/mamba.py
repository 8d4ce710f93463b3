"""MambaLM: a language model of selective state spaces."""

from __future__ import annotations

from jax.nn import initializers

from ..base.arguments import AboveZero, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.merge import residual
from ..combinators.serial import serial
from ..combinators.stack import repeat
from ..combinators.tied import tied
from ..layers import Embedding, Mamba, RMSNorm
from .sizes import sized

SIZES = {
    "130m": {"features": 768, "num_layers": 24},
    "370m": {"features": 1024, "num_layers": 48},
    "790m": {"features": 1536, "num_layers": 48},
    "1.4b": {"features": 2048, "num_layers": 48},
    "2.8b": {"features": 2560, "num_layers": 64},
}


@factory
def MambaLM(
    size: str = "130m",
    *,
    num_embeddings: Positive = 50280,
    features: Positive | None = None,
    num_layers: Positive | None = None,
    state_size: Positive = 16,
    expand: Positive = 2,
    kernel_size: Positive = 4,
    epsilon: AboveZero = 1e-5,
    head: bool = True,
) -> Layer:
    """A language model of ``Mamba`` blocks (Gu & Dao, 2023, arXiv:2312.00752).

    Parameters: 129,135,360 (130m), 371,516,416 (370m), 793,204,224 (790m).

    Args:
      size: ``"130m"``, ``"370m"``, ``"790m"``, ``"1.4b"`` or ``"2.8b"``.
      num_embeddings: how many ids there are.
      features, num_layers: instead of those of ``size``.
      state_size, expand, kernel_size: as for ``Mamba``.
      epsilon: of the norms.
      head: whether the output is logits, by the table of the embedding.

    Shapes:
      x: (batch, time), integer. y: (batch, time, num_embeddings), or (batch, time, features)
      without ``head``; of the dtype of the parameters.
      params: embedding, and layer: blocks, stacked as by ``repeat``, and norm.

    Raises:
      LayerError: for another size.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.MambaLM("370m")
    >>> jl.out_spec(model, jl.spec((8, 100), jnp.int32)).shape
    (8, 100, 50280)
    """
    width, layers = sized(size, SIZES, locals())
    norm = RMSNorm(epsilon=epsilon)
    mix = Mamba(state_size, expand=expand, kernel_size=kernel_size)
    embedding = Embedding(num_embeddings, width, embedding_init=initializers.normal(0.02))
    layer = serial(blocks=repeat(residual(serial(norm=norm, mix=mix)), layers), norm=norm)
    return tied(embedding, layer) if head else serial(embedding=embedding, layer=layer)
