"""WaveNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.arguments import Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.types import PyTree
from ..combinators.compose import compose
from ..layers import Conv, Embedding
from .parts import Parts
from .sizes import Counts

_CYCLE = tuple(2**i for i in range(10))


@factory
def WaveNet(
    classes: Positive = 256,
    *,
    features: Positive = 32,
    skip_features: Positive = 256,
    kernel_size: Positive = 2,
    dilations: Counts = 3 * _CYCLE,
) -> Layer:
    """A model of raw audio, sample by sample (van den Oord et al., 2016, arXiv:1609.03499).

    Each block computes ``z = tanh(filter(x)) * sigmoid(gate(x))`` with dilated causal convolutions,
    adds ``residual(z)`` to x, and ``skip(z)`` to what the output is made of. The paper gives the
    dilations of a cycle, and no numbers of channels.

    Args:
      classes: how many values a sample has, 256 for 8-bit mu-law.
      features: channels between the blocks, and of the filters and gates.
      skip_features: channels of what the output is made of.
      kernel_size: samples that a convolution sees.
      dilations: of each block; by default three times 1, 2, 4, ..., 512.

    Shapes:
      x: (batch, time), integer samples from 0 to classes - 1. y: (batch, time, classes), the logits
      of the sample that follows each.
      params: embed, block_0, ..., out_0, out_1.

    It streams, so that ``jl.decoding.generate`` continues audio at the cost of one step a sample.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.WaveNet()
    >>> jl.out_spec(model, jl.spec((2, 16000), jnp.int32)).shape
    (2, 16000, 256)
    """
    blocks: Parts = {}
    for i, dilation in enumerate(dilations):
        layers: Parts = {
            "gated": Conv(2 * features, kernel_size, padding="CAUSAL", dilation=dilation),
            "residual": Conv(features, 1),
            "skip": Conv(skip_features, 1),
        }
        if i == len(dilations) - 1:
            del layers["residual"]  # nothing would use it
        blocks[f"block_{i}"] = compose(_block, **layers)
    return compose(
        _sum_of_skips,
        embed=Embedding(classes, features),
        **blocks,
        out_0=Conv(skip_features, 1),
        out_1=Conv(classes, 1),
    )


def _block(f: Scope, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, gates = jnp.split(f.gated(x), 2, -1)
    z = jnp.tanh(values) * jax.nn.sigmoid(gates)
    return x + f.residual(z) if "residual" in f.children else x, f.skip(z)


def _sum_of_skips(f: Scope, ids: jax.Array) -> PyTree:
    x = f.embed(ids)
    skips = []
    for name in f.children:
        if name.startswith("block_"):
            x, skip = f[name](x)
            skips.append(skip)
    total = sum(skips[1:], skips[0])
    return f.out_1(jax.nn.relu(f.out_0(jax.nn.relu(total))))
