"""MixtureOfExperts: a router sends each token to a few of many copies of a layer.

How to read this file: ``MixtureOfExperts`` checks its arguments and makes the two children;
``_mixture`` is the layer, ``_Tokens`` its input taken apart. The routing itself is in
``core.routing``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.arguments import AboveZero, Fraction, NonNegative, Positive
from ..base.collecting import asked_of_layer
from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.paths import own_paths
from ..base.receptive_field import EVERYWHERE
from ..base.scope import Scope, composite
from ..base.sequence import Sequence, Steps
from ..base.specs import format_short, format_spec, specs_of
from ..base.step_pair import StepPair, Stepping
from ..base.tracing import trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core import routing as routes
from ..core.dtypes import at_least_float32, sharded_as
from ..layers.linear.dense import Dense
from .stack import ensemble

ROUTINGS = ("top_k", "expert_choice")


class _Options(NamedTuple):
    num_experts: int
    top_k: int
    routing: str
    renormalize: bool
    capacity_factor: float | None
    jitter: float
    balance_loss: float
    z_loss: float

    @property
    def dropless(self) -> bool:
        return self.routing == "top_k" and self.capacity_factor is None

    @property
    def places_per_token(self) -> float:
        return self.top_k * (1.0 if self.capacity_factor is None else self.capacity_factor)


@factory
def MixtureOfExperts(
    expert: LayerOrFunction,
    num_experts: Positive,
    *,
    top_k: Positive = 2,
    routing: str = "top_k",
    renormalize: bool | None = None,
    capacity_factor: AboveZero | None = None,
    router: LayerOrFunction | None = None,
    jitter: Fraction = 0.0,
    balance_loss: NonNegative = 0.0,
    z_loss: NonNegative = 0.0,
) -> Layer:
    """``sum_i gate_i(x) expert_i(x)`` over the few experts that a router chooses for each step.

    The gates are the router's probabilities, ``softmax(router(x))``, and 0 for experts that are not
    chosen (Shazeer et al., 2017, arXiv:1701.06538). Without a capacity each step is by itself:
    every expert computes every step, and what was not chosen is left out: that is ``num_experts``
    experts' work for ``top_k`` of use, and memory for as many outputs. With one, an expert takes
    as many steps of each row as it has places, which bounds the work; a step that finds no place
    gives zeros, which a ``residual`` around the layer makes the identity (Fedus et al., 2021,
    arXiv:2101.03961). Padded steps take no place and count in no loss.

    Args:
      expert: a layer of rows, (rows, features), that has no state; each copy has parameters of its
        own. An expert beside them that is always used is ``add(MixtureOfExperts(...), expert)``.
      num_experts: how many copies.
      top_k: how many of them a step is sent to; for ``"expert_choice"``, on average.
      routing: ``"top_k"``: each step takes the experts of the largest probabilities.
        ``"expert_choice"``: each expert takes the steps of a row of the largest probabilities
        (Zhou et al., 2022, arXiv:2202.09368); a step may have more experts or none.
      renormalize: whether the gates of a step are divided by their sum, which is the softmax over
        the chosen experts alone; by default for a ``top_k`` above 1. With 1 the router would get no
        gradient.
      capacity_factor: an expert has ``ceil(capacity_factor * top_k * steps / num_experts)`` places
        in each row, of whose valid ``steps`` first choices come first, in their order. None for no
        limit, and for 1 with ``"expert_choice"``. Rows of (batch, features) are steps of one row:
        ``each_step(layer)`` makes one of the whole batch.
      router: from steps to logits, (..., num_experts), in float32 at least; by default
        ``Dense(num_experts, bias=False)``. Noise of its own goes here.
      jitter: in training the router's input is multiplied by uniform noise from ``1 - jitter`` to
        ``1 + jitter``.
      balance_loss: weight of the loss that is 1 where experts are used alike:
        ``num_experts * sum(f * p)``, with f the share of choices and p the mean probability of each
        expert. Like all added losses, for ``training.train_step`` or ``with_losses``.
      z_loss: weight of the mean of ``logsumexp(logits) ** 2``, which keeps logits small.

    Shapes:
      x: (batch, ..., features), floating. y: (batch, ..., features') as the expert has it, of the
      dtype of its output.
      params: router, and experts: those of ``expert`` with a first axis of ``num_experts``.

    Raises:
      LayerError: for arguments that do not fit one another, an expert with state, a router without
        a logit for each expert, and ``jitter`` in training without a key.

    >>> import jax, jlayers as jl
    >>> mlp = jl.serial(jl.Dense(32), jax.nn.relu, jl.Dense(8))
    >>> layer = jl.MixtureOfExperts(mlp, 4, capacity_factor=1.25, balance_loss=0.01)
    >>> params, _ = layer.init(jax.random.key(0), jl.spec((2, 10, 8)))
    >>> params["router"]["kernel"].shape, params["experts"]["dense"]["kernel"].shape
    ((8, 4), (4, 8, 32))
    """
    if routing not in ROUTINGS:
        raise LayerError(
            f"unknown routing {format_short(routing)}", expected=", ".join(map(repr, ROUTINGS))
        )
    if top_k > num_experts:
        raise LayerError(f"top_k {top_k} is more than the {num_experts} experts")
    if routing == "expert_choice" and (renormalize or balance_loss):
        name = "renormalize" if renormalize else "balance_loss"
        raise LayerError(f"{name} is for routing='top_k': here each expert has as many steps")
    if renormalize is None:
        renormalize = top_k > 1 and routing == "top_k"
    options = _Options(
        num_experts, top_k, routing, renormalize, capacity_factor, jitter, balance_loss, z_loss
    )
    given = lift_child("expert", expert)
    logits = Dense(num_experts, bias=False) if router is None else lift_child("router", router)

    def rebuilt(new: dict[str, Layer]) -> Layer:
        experts = new["experts"]
        if experts.maker != "ensemble":  # it was wrapped, and holds the copies already
            return _mixture(new["router"], experts, options, rebuilt)
        inner = experts.children[""]
        return MixtureOfExperts(inner, **options._asdict(), router=new["router"])

    experts = ensemble(given, num_experts, shared=options.dropless)
    return _mixture(logits, experts, options, rebuilt)


def _mixture(router: Layer, experts: Layer, options: _Options, rebuilt: object) -> Layer:
    if options.dropless:
        # They take the rows of a block as those of a sequence.
        experts = experts._replace(_stream=Stepping.of(_of_rows(experts)))

    def body(f: Scope, x: Steps) -> PyTree:
        asked = asked_of_layer()
        tokens = _Tokens.of(x)
        _check_stateless(experts, tokens.values, options)
        wide = tokens.values.astype(at_least_float32(tokens.values.dtype))
        if options.jitter and f.train:
            noise = jax.random.uniform(
                f.key(), wide.shape, wide.dtype, 1 - options.jitter, 1 + options.jitter
            )
            wide = wide * noise
        logits = f["router"](wide)
        _check_logits(logits, (*wide.shape[:-1], options.num_experts))
        probabilities = jax.nn.softmax(logits, -1)
        if asked is not None:
            asked.give("probabilities", tokens.like(probabilities, x))
        valid = tokens.valid
        if options.z_loss:
            f.add_loss(options.z_loss * routes.z_loss(logits, valid))
        if options.routing == "expert_choice":
            slots = routes.slots_of_experts(probabilities, valid, *tokens.capacity(options))
        else:
            gates, chosen = routes.top_k_gates(probabilities, options.top_k, options.renormalize)
            if options.balance_loss:
                loss = routes.balance_loss(probabilities, chosen, valid)
                f.add_loss(options.balance_loss * loss)
            if options.dropless:
                return tokens.like(_of_all(f, tokens.values, gates, chosen, options.num_experts), x)
            slots = routes.slots_of_tokens(
                gates, chosen, valid, options.num_experts, *tokens.capacity(options)
            )
        placed = f["experts"](routes.into_slots(tokens.values, slots))
        _check_rows(placed, slots.token.shape[1], slots.token.shape[0] * slots.token.shape[2])
        y = routes.out_of_slots(placed, slots, tokens.values.shape[1])
        return tokens.like(y.astype(placed.dtype), x, mixed=True)

    children = {"router": router, "experts": experts}
    unstreamed = None
    if not options.dropless:
        unstreamed = "the steps of a row share the places of an expert; without a capacity, not"
    layer = composite(body, children, rebuild=rebuilt, unstreamed=unstreamed)  # type: ignore[arg-type]
    return layer._replace(_values=("probabilities",))


def _of_all(
    f: Scope, x: jax.Array, gates: jax.Array, chosen: jax.Array, num_experts: int
) -> jax.Array:
    """Every expert of every token, and the sum of what was chosen, (groups, tokens, features)."""
    groups, tokens, features = x.shape
    y = f["experts"](x.reshape(groups * tokens, features))
    _check_rows(y, num_experts, groups * tokens)
    y = y.reshape(num_experts, groups, tokens, y.shape[-1])
    # (experts, groups, tokens, top_k): which choice it was, if any.
    hot = jax.nn.one_hot(chosen, num_experts, dtype=bool, axis=0)
    gates = jnp.broadcast_to(gates, hot.shape)
    weights = jnp.sum(jnp.where(hot, gates, jnp.zeros_like(gates)), -1)
    was_chosen = jnp.broadcast_to(jnp.any(hot, -1)[..., None], y.shape)
    terms = y.astype(gates.dtype) * jnp.broadcast_to(weights[..., None], y.shape)
    # A select: what was not chosen may be NaN.
    return jnp.sum(jnp.where(was_chosen, terms, jnp.zeros_like(terms)), 0).astype(y.dtype)


class _Tokens(NamedTuple):
    """An input as tokens in groups that share the places of an expert: the steps of a row.

    Attributes:
      values: (groups, tokens, features), zeros in the padding.
      valid: bools (groups, tokens).
      masked: whether some may not be valid.
    """

    values: jax.Array
    valid: jax.Array
    masked: bool

    @classmethod
    def of(cls, x: Steps) -> _Tokens:
        shape = "(batch, ..., features)"
        arguments.one_array(x, shape, least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, shape)
        values = x.fill() if isinstance(x, Sequence) else x
        lead = x.shape[:-1]
        mask = x.mask if isinstance(x, Sequence) else jnp.ones(lead, bool)
        valid = jnp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (len(lead) - mask.ndim)), lead)
        groups = (1, *lead) if len(lead) == 1 else (lead[0], math.prod(lead[1:]))
        values = values.reshape(*groups, x.shape[-1])
        valid = sharded_as(valid.reshape(groups), values[..., 0])
        return cls(values, valid, isinstance(x, Sequence))

    def capacity(self, options: _Options) -> tuple[int, jax.Array | int]:
        """How many places an expert has for a group, and how many of them are used."""
        share = options.places_per_token, options.num_experts
        most = routes.capacity_of(self.valid.shape[1], *share)
        if not self.masked:
            return most, most
        return most, routes.capacity_of(jnp.sum(self.valid, 1, dtype=jnp.int32), *share)

    def like(self, y: jax.Array, x: Steps, mixed: bool = False) -> Steps:
        """(groups, tokens, features') with the axes and the mask of the input.

        Args:
          mixed: whether what a step gets depends on the others of its row.
        """
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        if not isinstance(x, Sequence):
            return y
        field = x._receptive_field
        if mixed and field is not None:
            field = field.compose(EVERYWHERE)
        return x._with(y)._with_field(field)


def _of_rows(experts: Layer) -> StepPair:
    """The stream of copies that work on rows, which have no time."""

    def step(
        params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry]:
        return experts._apply(params, state, x, key=key, train=train)[0], {}

    return StepPair(lambda params, state, x, *, capacity: {}, step)


def _check_stateless(experts: Layer, x: jax.Array, options: _Options) -> None:
    rows = x.shape[-1:] if options.dropless else (1, x.shape[-1])
    rows = (1, *rows) if options.dropless else (options.num_experts, *rows)
    state = own_paths(trace(experts, jax.ShapeDtypeStruct(rows, x.dtype)).state)
    if state:
        raise LayerError(
            "an expert has state, which would also see what other experts are for",
            got=", ".join(state),
            hint="layers without state in it: LayerNorm for BatchNorm",
        )


def _check_logits(logits: PyTree, shape: tuple[int, ...]) -> None:
    if getattr(logits, "shape", None) != shape:
        raise LayerError(
            "the router does not give a logit for each expert",
            expected=f"[{', '.join(map(str, shape))}]",
            got=format_spec(specs_of(logits)),
        )


def _check_rows(y: PyTree, num_experts: int, rows: int) -> None:
    shape = getattr(y, "shape", ())
    if len(shape) != 3 or shape[:2] != (num_experts, rows):
        raise LayerError(
            "an expert must give a row of features for each row",
            expected=f"(rows, features) for (rows, features), {num_experts} times",
            got=format_spec(specs_of(y)),
        )
