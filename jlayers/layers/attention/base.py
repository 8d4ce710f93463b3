"""What attention layers share: the projections to queries, keys and values, and of the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.collecting import Asked, asked_of_layer
from ...base.constructors import of_step
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import ReceptiveField
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_short, format_spec
from ...base.step_pair import StepPair
from ...base.types import Carry, Initializer, Key, Params, PyTree

Spec = jax.ShapeDtypeStruct

STEPS = "(batch, time, features)"
PROJECTIONS = ("query", "key", "value", "gate", "out")
# All of them go through ``core.dense``.
KERNELS = tuple(f"{name}_kernel" for name in PROJECTIONS)


def _biases(name: str, value: Any) -> bool | tuple[str, ...]:
    """Which projections have a bias: all, none, or those of these names."""
    if isinstance(value, tuple | list) and value and set(value) <= set(PROJECTIONS):
        return tuple(value)
    if isinstance(value, tuple | list):
        names = ", ".join(map(repr, PROJECTIONS))
        raise LayerError(f"{name} must be True, False or a tuple of {names}, got {value!r}")
    return arguments.flag(name, value)


def _head_norm(name: str, value: Any) -> str:
    if value not in ("rms", "layer"):
        raise LayerError(f"{name} must be 'rms', 'layer' or None, got {format_short(value)}")
    return str(value)


def _pattern(name: str, value: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    arguments.function(name, value, "queries, keys")
    function: Callable[[jax.Array, jax.Array], jax.Array] = value
    return function


Biases = Annotated[bool | tuple[str, ...], _biases]
HeadNorm = Annotated[str, _head_norm]
Pattern = Annotated[Callable[[jax.Array, jax.Array], jax.Array], _pattern]


@dataclasses.dataclass
class Projections:
    """The layers' own arguments of these names.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``.
    """

    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    value_dim: int | None
    features: int | None
    qk_norm: str | None
    epsilon: float
    sinks: bool
    gate: bool
    bias: bool | tuple[str, ...]
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
        """Features of one head of queries and keys.

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

    def value_size(self, x: Spec) -> int:
        """Features of one head of values."""
        return self.value_dim or self.size(x)

    def init(self, key: jax.Array, x: Spec, keys: Spec, values: Spec, **more: Any) -> Params:
        """Parameters for queries from ``x``, keys and values of those, and ``more``."""
        # Checked before shapes are computed from them, so that errors name the input.
        for steps in (x, keys, values):
            check_steps(steps)
        size, of_values, width = self.size(x), self.value_size(x), x.shape[-1]
        shapes = {
            "query": (width, self.num_heads * size),
            "key": (keys.shape[-1], self.kv_heads * size),
            "value": (values.shape[-1], self.kv_heads * of_values),
            "out": (self.num_heads * of_values, self.features or width),
        }
        if self.gate:
            shapes["gate"] = (width, self.num_heads * of_values)
        # Flat names (query_kernel) and not a child for each projection: selectors, sharding rules
        # and imported weights then match one level.
        wanted: dict[str, Any] = {
            f"{name}_kernel": (self.kernel_init, shape) for name, shape in shapes.items()
        }
        with_bias = PROJECTIONS if self.bias is True else self.bias or ()
        wanted |= {
            f"{name}_bias": (self.bias_init, shape[1:])
            for name, shape in shapes.items()
            if name in with_bias
        }
        if self.qk_norm:
            more |= {f"{name}_scale": (initializers.ones, (size,)) for name in ("query", "key")}
        if self.sinks:
            more["sinks"] = (initializers.zeros, (self.num_heads,))
        return initialize(key, x, **wanted, **more)

    def qkv(
        self, params: Params, x: jax.Array, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of ``x``, and keys and values of those, (batch, time, heads, size) each."""
        q = self._heads("query", params, x, self.num_heads)
        k = self._heads("key", params, keys, self.kv_heads)
        if self.qk_norm:
            q, k = (
                core.position_norm(
                    a, params[f"{name}_scale"], None, self.epsilon, self.qk_norm == "layer"
                )
                for name, a in (("query", q), ("key", k))
            )
        return q, k, self._heads("value", params, values, self.kv_heads)

    def output(self, params: Params, y: jax.Array, x: jax.Array) -> jax.Array:
        """(batch, time, features) of the output of attention, (batch, time, num_heads, size)."""
        if self.gate:
            y = y * jax.nn.sigmoid(self._heads("gate", params, x, self.num_heads))
        y = y.reshape(*y.shape[:2], params["out_kernel"].shape[0])
        return core.dense(y, params["out_kernel"], params.get("out_bias"))

    def _heads(self, name: str, params: Params, x: jax.Array, count: int) -> jax.Array:
        y = core.dense(x, params[f"{name}_kernel"], params.get(f"{name}_bias"))
        # The kernel has all heads side by side, so one product serves them all.
        return y.reshape(*x.shape[:2], count, y.shape[-1] // count)


def check_steps(steps: Spec) -> None:
    """Raises unless these are steps of floating features."""
    # Images and ids are what most often comes in another rank.
    hint = "Reshape((time, features)) before it; Embedding for ids"
    arguments.one_array(steps, STEPS, rank=3, lower=hint)
    arguments.floating(steps, "x.astype(jnp.float32); Embedding for integer ids")
    # A softmax of complex scores has no meaning.
    arguments.real(steps)
    arguments.has_features(steps, STEPS)


def of_attention(
    init: Callable[[jax.Array, Any], Params],
    start: Callable[[Params, Any, int | None], Carry],
    step: Callable[[Params, Carry | None, Any, Key], tuple[PyTree, Carry]],
    receptive_field: Callable[[Any], ReceptiveField] | None,
    *,
    dropout_rate: float,
    unstreamed: str | None = None,
    lazy_weights: tuple[str, ...] = (),
) -> Layer:
    """``of_steps`` for a ``step`` that takes a key in training, where weights are dropped."""

    def random_step(
        params: Params, state: Any, carry: Carry | None, x: Any, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry]:
        if not train or not dropout_rate:
            return step(params, carry, x, None)
        if key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        return step(params, carry, x, key)

    pair = StepPair(lambda params, state, x, *, capacity: start(params, x, capacity), random_step)
    return Layer(
        lambda key, x: (init(key, x), {}),
        of_step(random_step),
        sequence_mode=SequenceMode("whole", receptive_field),
        stream=unstreamed or pair,
        lazy_weights=lazy_weights,
    )._replace(_values=("weights",))


def asked_of_whole(carry: Carry | None = None) -> Asked | None:
    """What is asked of attention by name: its weights.

    Raises:
      LayerError: where a block of a stream attends to what is cached.
    """
    asked = asked_of_layer()
    if asked is not None and carry is not None:
        raise LayerError(
            "the weights of attention are captured in a stream, which has blocks of them",
            hint="capture them of whole sequences, by apply",
        )
    return asked


def of_valid_queries(weights: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Weights (batch, heads, queries, keys), zeros where a query is padding."""
    if mask is None:
        return weights
    here = jnp.broadcast_to(mask[:, None, :, None], weights.shape)
    return jnp.where(here, weights, jnp.zeros_like(weights))


def attended(
    maps: Projections,
    params: Params,
    x: tuple[jax.Array, jax.Array | None],
    qkv: tuple[jax.Array, jax.Array, jax.Array],
    *,
    weights: bool,
    method: str | None = None,
    **how: Any,
) -> PyTree:
    """The output (batch, time, features), and the weights of attention where they are wanted.

    Args:
      x: the values and the mask of the queries' steps.
      how: for ``core.attention``.
    """
    values, mask = x
    asked = asked_of_whole()
    if not weights and asked is None:
        return maps.output(params, core.attention(*qkv, method=method, **how), values)
    y, of_keys = core.attention_with_weights(*qkv, **how)
    of_keys = of_valid_queries(of_keys, mask)
    if asked is not None:
        asked.give("weights", of_keys)
    y = maps.output(params, y, values)
    return (y, of_keys) if weights else y
