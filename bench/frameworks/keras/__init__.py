"""Keras 3 on JAX."""

import os
from typing import Any

import numpy as np

from .. import Unavailable
from ..weights import Arrays, gate_count, own_names, renamed

os.environ["KERAS_BACKEND"] = "jax"  # before its first import

PARTS = {"attend_out": "attend_attention_output"}


def layout(arrays: Arrays) -> Arrays:
    """In the order of a layer's variables."""
    if "recurrent_kernel" in arrays and gate_count(arrays) == 3:
        return _gru(arrays)
    if "kernel" in arrays:
        return own_names(arrays)
    return renamed(arrays, gamma="scale", beta="bias", embeddings="embedding")


def _gru(arrays: Arrays) -> Arrays:
    """The gates are z, r, h; there is a bias for the input and one for the hidden state."""

    def zrh(value: Any) -> Any:
        r, z, n = np.split(value, 3, axis=-1)
        return np.concatenate([z, r, n], axis=-1)

    second = np.concatenate([arrays["second_bias"], arrays["recurrent_bias"]])
    return {
        "kernel": zrh(arrays["kernel"]),
        "recurrent_kernel": zrh(arrays["recurrent_kernel"]),
        "bias": np.stack([zrh(arrays["bias"]), zrh(second)]),
    }


def require_jax() -> None:
    """Raises ``Unavailable`` where Keras was imported earlier, with another backend."""
    import keras

    if keras.backend.backend() != "jax":
        raise Unavailable("keras was imported with another backend; set KERAS_BACKEND=jax")
