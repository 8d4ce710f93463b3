"""NVIDIA's cuDNN where JAX offers it: attention, and the LSTM of ``jax.experimental.rnn``."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from ...ops.attention import lengths
from ...ops.recurrent import layer_inputs
from ...row import Row
from .. import Unavailable
from ..jax_op import JaxOp


def attention(row: Row) -> JaxOp:
    """The flash kernel, with lengths and a window in place of a mask.

    Raises:
      Unavailable: on other devices, and in float32.
    """
    require_gpu()
    if row.dtype == "float32":
        raise Unavailable("cuDNN has attention in 16 bits alone")
    options: dict[str, Any] = {"is_causal": row["causal"], "implementation": "cudnn"}
    if row.options.get("window"):
        options["local_window_size"] = (row["window"] - 1, 0)
    extra = (lengths(row),) if row.options.get("lengths") else ()

    def apply(params: Any, x: Any, *extra: Any) -> Any:
        own = {"key_value_seq_lengths": extra[0]} if extra else {}
        return jax.nn.dot_product_attention(*x, **options, **own)

    return JaxOp(apply, extra=extra)


def lstm(row: Row) -> JaxOp:
    """The LSTM of cuDNN, all layers and directions in one call; its weights are one vector.

    Raises:
      Unavailable: on other devices, and in other dtypes than float32.
    """
    require_gpu()
    if row.dtype != "float32":
        raise Unavailable("jax.experimental.rnn has float32 alone")
    return fused_lstm(row)


def fused_lstm(row: Row) -> JaxOp:
    """``lstm`` without asking for a device."""
    batch, steps, _ = row.x
    size, layers = row["features"], row["layers"]
    channels, copies = layer_inputs(row)[0], layers * (2 if row["bidirectional"] else 1)

    def apply(params: Any, x: Any) -> Any:
        zeros = jnp.zeros((copies, batch, size), x.dtype)
        full = jnp.full((batch,), steps, jnp.int32)
        shape = (channels, size, layers, 0.0, row["bidirectional"])
        # By position: its custom gradient takes no keywords.
        return rnn.lstm(x, zeros, zeros, params["weights"], full, *shape)[0]

    return JaxOp(apply, _flat)


def _flat(weights: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """All matrices, layer by layer and direction by direction, and then all biases."""
    cells = [cell for directions in weights for cell in directions]
    matrices = [cell[name].T for cell in cells for name in ("kernel", "recurrent_kernel")]
    biases = [cell[name] for cell in cells for name in ("bias", "second_bias")]
    return {"weights": np.concatenate([np.ravel(array) for array in (*matrices, *biases)])}


def require_gpu() -> None:
    if jax.default_backend() != "gpu":
        raise Unavailable("cuDNN is for NVIDIA GPUs")
