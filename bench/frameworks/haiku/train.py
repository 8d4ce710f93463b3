"""Training in Haiku, with optax."""

from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from ..optax_step import Model, train
from ..step import Optimizer, Training
from ..weights import Weights
from . import PARTS, layout
from .models import MODELS


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    pure = hk.without_apply_rng(hk.transform_with_state(partial(MODELS[model], size)))
    return train(Model(pure.init, pure.apply), size, optimizer, weights, layout, PARTS)


def init(model: Any, size: Any) -> None:
    pure = hk.transform_with_state(partial(model, size))
    x = jnp.zeros((size.batch, size.image, size.image, 3))
    jax.block_until_ready(jax.jit(pure.init)(jax.random.key(0), x))
