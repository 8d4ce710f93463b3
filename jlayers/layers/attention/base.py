"""What attention layers share: the projections to queries, keys and values, and of the output."""

from __future__ import annotations

import dataclasses

import jax

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.parameters import initialize
from ...base.specs import format_spec
from ...base.types import Initializer, Params

Spec = jax.ShapeDtypeStruct

STEPS = "(batch, time, features)"


@dataclasses.dataclass
class Projections:
    """The layers' own arguments of these names.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``.
    """

    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    features: int | None
    bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    def __post_init__(self) -> None:
        if self.num_heads % self.kv_heads:
            raise LayerError(
                f"num_kv_heads {self.kv_heads} does not divide num_heads {self.num_heads}"
            )

    @property
    def kv_heads(self) -> int:
        """How many heads keys and values have."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def size(self, x: Spec) -> int:
        """Features of one head.

        Raises:
          LayerError: where no size is given and the heads cannot share the features of ``x``.
        """
        width: int = x.shape[-1]
        if self.head_dim is None and width % self.num_heads:
            raise LayerError(
                f"num_heads {self.num_heads} does not divide the {width} features of the input",
                got=format_spec(x),
                hint="head_dim=..., the features of one head",
            )
        return self.head_dim or width // self.num_heads

    def init(self, key: jax.Array, x: Spec, memory: Spec) -> Params:
        """Parameters for queries from ``x``, and keys and values from ``memory``."""
        # Checked before shapes are computed from them, so that errors name the input.
        for steps in (x, memory):
            # Images and ids are what most often comes in another rank.
            hint = "Reshape((time, features)) before it; Embedding for ids"
            arguments.one_array(steps, STEPS, rank=3, lower=hint)
            arguments.floating(steps, "x.astype(jnp.float32); Embedding for integer ids")
            # A softmax of complex scores has no meaning.
            arguments.real(steps)
            arguments.has_features(steps, STEPS)
        size, width = self.size(x), x.shape[-1]
        shapes = {
            "query": (width, self.num_heads * size),
            "key": (memory.shape[-1], self.kv_heads * size),
            "value": (memory.shape[-1], self.kv_heads * size),
            "out": (self.num_heads * size, self.features or width),
        }
        # Flat names (query_kernel) and not a child for each projection: selectors, sharding rules
        # and imported weights then match one level.
        kernels = {f"{name}_kernel": (self.kernel_init, shape) for name, shape in shapes.items()}
        biases = {f"{name}_bias": (self.bias_init, shape[1:]) for name, shape in shapes.items()}
        return initialize(key, x, **kernels, **(biases if self.bias else {}))

    def qkv(
        self, params: Params, x: jax.Array, memory: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of ``x``, keys and values of ``memory``, (batch, time, heads, size) each."""

        def project(name: str, x: jax.Array, count: int) -> jax.Array:
            y = core.dense(x, params[f"{name}_kernel"], params.get(f"{name}_bias"))
            # The kernel has all heads side by side, so one product serves them all.
            return y.reshape(*x.shape[:2], count, y.shape[-1] // count)

        q = project("query", x, self.num_heads)
        k = project("key", memory, self.kv_heads)
        return q, k, project("value", memory, self.kv_heads)

    def output(self, params: Params, y: jax.Array) -> jax.Array:
        """(batch, time, features) of the output of attention, (batch, time, num_heads, size)."""
        y = y.reshape(*y.shape[:2], params["out_kernel"].shape[0])
        return core.dense(y, params["out_kernel"], params.get("out_bias"))
