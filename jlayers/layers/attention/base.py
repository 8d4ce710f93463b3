"""What layers of attention share: the maps to queries, keys and values, and the one out of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.parameters import Initializer, initialize
from ...base.specs import Params, format_spec

STEPS = "(batch, time, features)"


class Heads(NamedTuple):
    """The layers' own arguments of these names, checked by ``num_heads_of``."""

    num_heads: int
    num_kv_heads: int
    head_dim: int | None
    features: int | None
    bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    def size(self, x: Any) -> int:
        """Features of one head.

        Raises:
          LayerError: where ``x`` has no number of features to be shared out.
        """
        width: int = x.shape[-1]
        if self.head_dim is None and width % self.num_heads:
            raise LayerError(
                f"num_heads {self.num_heads} does not divide the {width} features of the input",
                got=format_spec(x),
                hint="head_dim=..., the features of one head",
            )
        return self.head_dim or width // self.num_heads

    def init(self, key: jax.Array, x: Any, memory: Any) -> Params:
        """Parameters for queries from ``x``, and keys and values from ``memory``."""
        for steps in (x, memory):
            hint = "Reshape((time, features)) before it; Embedding for ids"
            arguments.one_array(steps, STEPS, rank=3, lower=hint)
            arguments.floating(steps, "x.astype(jnp.float32); Embedding for integer ids")
            arguments.real(steps)
            arguments.has_features(steps, STEPS)
        size, width = self.size(x), x.shape[-1]
        maps = {
            "query": (width, self.num_heads * size),
            "key": (memory.shape[-1], self.num_kv_heads * size),
            "value": (memory.shape[-1], self.num_kv_heads * size),
            "out": (self.num_heads * size, self.features or width),
        }
        kernels = {f"{name}_kernel": (self.kernel_init, shape) for name, shape in maps.items()}
        biases = {f"{name}_bias": (self.bias_init, shape[1:]) for name, shape in maps.items()}
        return initialize(key, x, **kernels, **(biases if self.bias else {}))

    def split(self, p: Params, x: jax.Array, memory: jax.Array) -> tuple[jax.Array, ...]:
        """Queries of ``x``, keys and values of ``memory``, (batch, time, num_heads, size) each."""

        def heads(name: str, x: jax.Array, count: int) -> jax.Array:
            y = core.dense(x, p[f"{name}_kernel"], p.get(f"{name}_bias"))
            return y.reshape(*x.shape[:2], count, y.shape[-1] // count)

        num_kv_heads = self.num_kv_heads
        q = heads("query", x, self.num_heads)
        return q, heads("key", memory, num_kv_heads), heads("value", memory, num_kv_heads)

    def merge(self, p: Params, y: jax.Array) -> jax.Array:
        """(batch, time, features) of what attention gives."""
        y = y.reshape(*y.shape[:2], p["out_kernel"].shape[0])
        return core.dense(y, p["out_kernel"], p.get("out_bias"))


def heads_of(
    num_heads: int,
    num_kv_heads: int | None,
    head_dim: int | None,
    features: int | None,
    bias: bool,
    kernel_init: Initializer,
    bias_init: Initializer,
) -> Heads:
    """The arguments, checked.

    Raises:
      LayerError: for an invalid argument, and for a ``num_kv_heads`` that does not divide
        ``num_heads``.
    """
    num_heads, bias = arguments.positive("num_heads", num_heads), arguments.flag("bias", bias)
    if num_kv_heads is None:
        num_kv_heads = num_heads
    num_kv_heads = arguments.positive("num_kv_heads", num_kv_heads)
    if num_heads % num_kv_heads:
        raise LayerError(f"num_kv_heads {num_kv_heads} does not divide num_heads {num_heads}")
    if head_dim is not None:
        head_dim = arguments.positive("head_dim", head_dim)
    if features is not None:
        features = arguments.positive("features", features)
    return Heads(num_heads, num_kv_heads, head_dim, features, bias, kernel_init, bias_init)


def above_zero(name: str, value: Any) -> float | None:
    """``value`` as a float above 0, or None.

    Raises:
      LayerError: for what is none.
    """
    if value is None:
        return None
    number = arguments.number(name, value)
    if number == 0:
        raise LayerError(f"{name} must be a number above 0, got {value!r}")
    return number
