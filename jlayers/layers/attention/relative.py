"""Positions that are distances: rows of a table that attention adds to scores, keys and values.

How to read this file: a class for each kind, with the ``parameters`` that the layer gets, the
``tables`` that ``core.attention`` takes, and what becomes of the ``queries``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.errors import LayerError, public_api
from ...base.repr_text import value_text
from ...base.specs import format_spec
from ...base.types import Initializer, Params
from ...core.attention.relative import DistanceBuckets, RelativeTables
from ...core.positions import sinusoids

_NORMAL, _GLOROT = initializers.normal(0.02), initializers.glorot_uniform()


class _Described:
    """A value whose repr is the call that made it."""

    def queries(self, params: Params, q: jax.Array) -> jax.Array:
        """The queries that meet the keys: by default as they are."""
        return q

    def __repr__(self) -> str:
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        }
        parts = [f"{name}={value_text(value)}" for name, value in given.items()]
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclasses.dataclass(frozen=True, repr=False)
class T5Bias(_Described):
    """A number for each head and each range of distances, added to the scores (T5).

    Half of ``num_buckets`` are for one distance each, the others for ranges that grow like powers
    up to ``max_distance``, from where on all distances have one (Raffel et al., 2020,
    arXiv:1910.10683). Without ``causal``, half of all are for keys after the query. The parameter
    is ``relative_bias`` (num_buckets, num_heads).

    Attributes:
      num_buckets: how many numbers a head has.
      max_distance: the last distance that is told from larger ones.
      shared: whether the table is an input beside the steps and not a parameter, ``{"x": x,
        "relative_bias": table}``: that of a model whose layers share one, as those of T5 do.
      embedding_init: as in ``jax.nn.initializers``.

    Raises:
      LayerError: for numbers that are not positive ints, and where the layer is applied for a table
        that is missing, not asked for, or of another shape.

    >>> import jlayers as jl
    >>> layer = jl.SelfAttention(4, causal=True, relative=jl.T5Bias(num_buckets=8))
    >>> params, _ = layer.init(__import__("jax").random.key(0), jl.spec((1, 5, 32)))
    >>> params["relative_bias"].shape
    (8, 4)
    """

    num_buckets: int = 32
    max_distance: int = 128
    shared: bool = False
    embedding_init: Initializer = _NORMAL

    @public_api
    def __post_init__(self) -> None:
        arguments.integer("num_buckets", self.num_buckets, 2)
        arguments.integer("max_distance", self.max_distance, 1)
        arguments.flag("shared", self.shared)
        arguments.initializer("embedding_init", self.embedding_init)

    def parameters(self, num_heads: int, size: int, value_size: int) -> dict[str, Any]:
        """What ``initialize`` takes."""
        if self.shared:
            return {}
        return {"relative_bias": (self.embedding_init, (self.num_buckets, num_heads))}

    def tables(self, params: Params, causal: bool) -> RelativeTables:
        """What ``core.attention`` takes."""
        buckets = DistanceBuckets(self.num_buckets, self.max_distance, causal)
        return RelativeTables(buckets, bias=params["relative_bias"])

    def check(self, table: Any, num_heads: int) -> None:
        """Raises unless the table of an input is there where it has to be, and fits."""
        wanted = (self.num_buckets, num_heads) if self.shared else None
        if getattr(table, "shape", None) != wanted:
            raise LayerError(
                "takes a table of its own size" if self.shared else "has a table of its own",
                expected=f"{{'x': x, 'relative_bias': table}}, {list(wanted)}" if wanted else "x",
                got=None if table is None else format_spec(table),
                hint=None if self.shared else "T5Bias(shared=True)",
            )


@dataclasses.dataclass(frozen=True, repr=False)
class ShawPositions(_Described):
    """A vector for each distance, added to keys, and another to values (Shaw et al., 2018).

    Distances beyond ``max_distance`` to either side are taken for it (arXiv:1803.02155). The
    parameters are ``relative_keys`` (2 * max_distance + 1, head_dim), that of distance
    ``key - query`` in row ``distance + max_distance``, and ``relative_values`` likewise; all heads
    share them.

    Attributes:
      max_distance: the last distance with a vector of its own.
      values: whether there are vectors for values, too.
      embedding_init: as in ``jax.nn.initializers``.

    Raises:
      LayerError: for a ``max_distance`` that is not a positive int.

    >>> import jlayers as jl
    >>> layer = jl.SelfAttention(4, relative=jl.ShawPositions(2, values=False))
    >>> params, _ = layer.init(__import__("jax").random.key(0), jl.spec((1, 5, 32)))
    >>> params["relative_keys"].shape
    (5, 8)
    """

    max_distance: int
    values: bool = True
    embedding_init: Initializer = _GLOROT

    @public_api
    def __post_init__(self) -> None:
        arguments.integer("max_distance", self.max_distance, 1)
        arguments.flag("values", self.values)
        arguments.initializer("embedding_init", self.embedding_init)

    def parameters(self, num_heads: int, size: int, value_size: int) -> dict[str, Any]:
        """What ``initialize`` takes."""
        rows = 2 * self.max_distance + 1
        found = {"relative_keys": (self.embedding_init, (rows, size))}
        if self.values:
            found["relative_values"] = (self.embedding_init, (rows, value_size))
        return found

    def tables(self, params: Params, causal: bool) -> RelativeTables:
        """What ``core.attention`` takes."""
        buckets = DistanceBuckets(2 * self.max_distance + 1)
        keys, values = params["relative_keys"], params.get("relative_values")
        return RelativeTables(buckets, keys=keys, values=values)


@dataclasses.dataclass(frozen=True, repr=False)
class TransformerXLPositions(_Described):
    """Scores of the distance, from waves of many lengths and learned vectors (Dai et al., 2019).

    The score of query i and key j is ``(q_i + content_bias) . k_j + (q_i + position_bias) . r``,
    with ``r = sinusoids(i - j) @ relative_kernel`` (arXiv:1901.02860). Distances beyond
    ``max_distance`` to either side are taken for it. The parameters are relative_kernel
    (position_dim, num_heads * head_dim), content_bias and position_bias (num_heads, head_dim).

    Attributes:
      max_distance: the last distance that is told from larger ones; with the paper's memory, all
        steps that a query may see.
      position_dim: features of the waves, even; num_heads * head_dim if None, as in the paper.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Raises:
      LayerError: for numbers that are not positive ints, and waves of an odd number of features.

    >>> import jlayers as jl
    >>> layer = jl.SelfAttention(4, causal=True, relative=jl.TransformerXLPositions(512))
    >>> params, _ = layer.init(__import__("jax").random.key(0), jl.spec((1, 5, 32)))
    >>> params["relative_kernel"].shape, params["content_bias"].shape
    ((32, 32), (4, 8))
    """

    max_distance: int
    position_dim: int | None = None
    kernel_init: Initializer = _GLOROT
    bias_init: Initializer = initializers.zeros

    @public_api
    def __post_init__(self) -> None:
        arguments.integer("max_distance", self.max_distance, 1)
        if self.position_dim is not None:
            arguments.integer("position_dim", self.position_dim, 1)
        arguments.initializer("kernel_init", self.kernel_init)
        arguments.initializer("bias_init", self.bias_init)

    def parameters(self, num_heads: int, size: int, value_size: int) -> dict[str, Any]:
        """What ``initialize`` takes."""
        waves = self.position_dim or num_heads * size
        if waves % 2:
            raise LayerError(
                f"waves are pairs of features, and there are {waves}",
                hint="TransformerXLPositions(..., position_dim=...), an even number",
            )
        bias = (self.bias_init, (num_heads, size))
        return {
            "relative_kernel": (self.kernel_init, (waves, num_heads * size)),
            "content_bias": bias,
            "position_bias": bias,
        }

    def queries(self, params: Params, q: jax.Array) -> jax.Array:
        """With what meets the content of keys."""
        return q + jnp.broadcast_to(params["content_bias"], q.shape)

    def tables(self, params: Params, causal: bool) -> RelativeTables:
        """What ``core.attention`` takes."""
        content, position = params["content_bias"], params["position_bias"]
        kernel = params["relative_kernel"]
        # Row n + d of the table is of key - query = d, and the waves are of query - key.
        back = jnp.arange(self.max_distance, -self.max_distance - 1, -1, dtype=jnp.int32)
        waves = sinusoids(back, kernel.shape[0]).astype(kernel.dtype)
        keys = jnp.matmul(waves, kernel).reshape(-1, *content.shape)
        buckets = DistanceBuckets(2 * self.max_distance + 1)
        # The queries hold ``content_bias`` already.
        return RelativeTables(buckets, keys=keys, shift=position - content)


Relative = T5Bias | ShawPositions | TransformerXLPositions
