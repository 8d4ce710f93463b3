"""VAE, the variational autoencoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.arguments import NonNegative, Positive
from ..base.constructors import LayerOrFunction
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..core.dtypes import at_least_float32
from ..layers import Dense
from .parts import Parts


@factory
def VAE(
    features: Positive = 784,
    *,
    latent: Positive = 20,
    hidden: Positive = 400,
    encoder: LayerOrFunction | None = None,
    decoder: LayerOrFunction | None = None,
    beta: NonNegative | None = None,
) -> Layer:
    """A variational autoencoder (Kingma & Welling, 2013, arXiv:1312.6114).

    ``z = mean + exp(log_var / 2) * noise`` in training, ``z = mean`` otherwise, and the output is
    ``(decoder(z), mean, log_var)``. The loss is the reconstruction's, and the Kullback-Leibler
    divergence from a standard normal, ``-sum(1 + log_var - mean**2 - exp(log_var)) / 2`` of a row.

    Parameters: 652,824, as in PyTorch's example.

    Args:
      features: size of the output of the default decoder, that of x.
      latent: size of z.
      hidden: features between in the default encoder and decoder.
      encoder: from x to what mean and log_var are computed from, (batch, n); by default a dense
        layer with ReLU.
      decoder: from z to the reconstruction; by default two dense layers, which give logits.
      beta: adds ``beta`` times the divergence, averaged over the rows, to the loss of the model
        (Higgins et al., 2017: beta-VAE; 1 for the paper's). None leaves it to you.

    Shapes:
      x: (batch, features), or what ``encoder`` takes. y: a tuple of the reconstruction, (batch,
      features), mean and log_var, (batch, latent).
      params: encoder, mean, log_var, decoder.

    Raises:
      LayerError: for ``train=True`` without a key.

    >>> import jlayers as jl
    >>> model = jl.models.VAE(784, beta=1.0)
    >>> [part.shape for part in jl.out_spec(model, jl.spec((8, 784)))]
    [(8, 784), (8, 20), (8, 20)]
    """
    if encoder is None:
        encoder = serial(Dense(hidden), jax.nn.relu)
    if decoder is None:
        decoder = serial(Dense(hidden), jax.nn.relu, Dense(features))

    def body(f: Scope, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        h = f.encoder(x)
        mean, log_var = f.mean(h), f.log_var(h)
        z = mean
        if f.train:
            # In half precision JAX would draw other numbers.
            noise = jax.random.normal(f.key(), mean.shape, at_least_float32(mean.dtype))
            z = mean + jnp.exp(log_var / 2) * noise.astype(mean.dtype)
        if beta is not None:
            per_row = -jnp.sum(1 + log_var - mean**2 - jnp.exp(log_var), -1) / 2
            f.add_loss(beta * jnp.mean(per_row))
        return f.decoder(z), mean, log_var

    heads: Parts = {"mean": Dense(latent), "log_var": Dense(latent)}
    return compose(body, encoder=encoder, **heads, decoder=decoder)
