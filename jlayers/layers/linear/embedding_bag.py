"""EmbeddingBag: the rows of several ids as one.

How to read this file: ``_Bags`` is an input taken apart; the arithmetic is in ``core.bags``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import AboveZero, Integer, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import ReceptiveField
from ...base.sequence import join, split
from ...base.sequence_mode import SequenceMode, without_masks
from ...base.specs import format_short, format_spec, specs_of
from ...base.step_pair import StepPair
from ...base.types import Carry, Initializer, Key, Params, PyTree, State
from ...core.bags import reduce_bags, reduce_segments
from .table import ROWS, Table

MODES = ("mean", "sum", "max")


@factory
def EmbeddingBag(
    num_embeddings: Positive,
    features: Positive,
    *,
    mode: str = "mean",
    padding_id: Integer | None = None,
    max_norm: AboveZero | None = None,
    p: AboveZero = 2.0,
    embedding_init: Initializer = ROWS,
) -> Layer:
    """The mean, the sum or the maximum of the rows of a bag of ids.

    A bag without ids gives zeros. Bags of different sizes are padded with ``padding_id``, or have
    a mask, as a ``Sequence`` (batch, bag), or are flat, with the offsets at which they begin.

    Args:
      num_embeddings, features, max_norm, p, embedding_init: as for ``Embedding``.
      mode: ``"mean"``, ``"sum"`` or ``"max"``, of each feature.
      padding_id: an id that is left out of every bag, and does not count in the mean.

    Shapes:
      x: ids (..., bag), integer; or ``{"ids": (..., bag), "weights": (..., bag)}`` with a factor,
      floating, for each id, for ``"sum"``. y: (..., features), of the dtype of the table.
      x: flat ids ``{"ids": (n,), "offsets": (batch,)}``, with ``"weights": (n,)`` too: bag i begins
      at ``offsets[i]`` and ends where the next begins, the last with the ids. y: (batch, features).
      A ``Sequence`` of (batch, time, ..., bag) holds a bag for each step, and stays a ``Sequence``.
      params: embedding (num_embeddings, features).

    Raises:
      LayerError: for other inputs, an unknown mode, weights for another mode than the sum, ids out
        of range, and offsets, where they are known, that do not begin at 0 or are not sorted.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> layer, params = jl.EmbeddingBag(3, 1), {"embedding": jnp.array([[1.0], [2.0], [6.0]])}
    >>> layer.apply(params, {}, jnp.array([[0, 1], [2, 2]]))[0].tolist()
    [[1.5], [6.0]]
    >>> flat = {"ids": jnp.array([0, 1, 2]), "offsets": jnp.array([0, 0, 2])}
    >>> layer.apply(params, {}, flat)[0].tolist()
    [[0.0], [1.5], [6.0]]
    """
    if mode not in MODES:
        raise LayerError(f"unknown mode {format_short(mode)}", expected=", ".join(map(repr, MODES)))
    table = Table(num_embeddings, features, padding_id, max_norm, p, embedding_init).checked()

    def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        bags = _Bags.of(x)
        flat = bags.offsets is not None
        shape = "(n,) of integer ids" if flat else "(..., bag) of integer ids"
        params = table.init(key, bags.ids, shape, least_rank=1)
        bags.check(mode)
        return params, {}

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        bags = _Bags.of(x)
        rows = table.rows(params, bags.ids)
        counts = ~table.is_padding(bags.ids)
        of_bag = bags.mask is not None and bags.mask.ndim == bags.ids.ndim
        if of_bag:
            counts = counts & bags.mask
        if bags.weights is not None:
            weights = bags.weights.astype(rows.dtype)[..., None]
            rows = rows * jnp.broadcast_to(weights, rows.shape)
        if bags.offsets is None:
            return join(reduce_bags(rows, counts, mode), None if of_bag else bags.mask), state
        _check_offsets(bags.offsets)
        return reduce_segments(rows, counts, bags.offsets, mode), state

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        bags = _Bags.of(x)
        if bags.offsets is not None or len(bags.ids.shape) < 3:
            raise LayerError("cannot be streamed: the axis of the bag is that of time")
        return {}

    def step(
        params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry]:
        return apply(params, state, x, key=key, train=train)[0], {}

    return Layer(
        init,
        apply,
        # rows: of (batch, bag) a mask of rows alone says which bags there are.
        sequence_mode=SequenceMode("whole", lambda x: ReceptiveField(), rows=True),
        stream=StepPair(start, step),
    )


class _Bags(NamedTuple):
    """An input, arrays or specs, taken apart; the mask is that of a ``Sequence`` of ids."""

    ids: Any
    weights: Any
    offsets: Any
    mask: Any

    @classmethod
    def of(cls, x: PyTree) -> _Bags:
        if isinstance(x, dict):
            if "ids" not in x or not set(x) <= {"ids", "weights", "offsets"}:
                raise LayerError(
                    "takes ids, or a dict with ids",
                    expected="ids, {'ids': ..., 'weights': ...}, {'ids': ..., 'offsets': ...}",
                    got=format_spec(specs_of(x)),
                )
        elif isinstance(x, tuple | list):
            raise LayerError(
                "takes ids, or a dict with ids",
                got=format_spec(specs_of(x)),
                hint="{'ids': ids, 'weights': weights}, or {'ids': ids, 'offsets': offsets}",
            )
        else:
            x = {"ids": x}
        ids, mask = split(x["ids"])
        return cls(ids, without_masks(x.get("weights")), without_masks(x.get("offsets")), mask)

    def check(self, mode: str) -> None:
        """Raises for weights and offsets that do not fit the ids."""
        if self.weights is not None:
            if mode != "sum":
                raise LayerError(
                    f"weights are for mode='sum', not {mode!r}",
                    hint="weights of sum 1 with mode='sum' for a weighted mean",
                )
            arguments.one_array(self.weights, "(..., bag)")
            arguments.floating(self.weights)
            if self.weights.shape != self.ids.shape:
                raise LayerError(
                    "the weights do not fit the ids",
                    expected=f"floating {[*self.ids.shape]}",
                    got=format_spec(self.weights),
                )
        if self.offsets is not None:
            arguments.one_array(self.ids, "(n,) of integer ids, with offsets", rank=1)
            arguments.one_array(self.offsets, "(batch,)", rank=1)
            if not jnp.issubdtype(self.offsets.dtype, jnp.integer):
                raise LayerError("offsets are integers", got=format_spec(self.offsets))


def _check_offsets(offsets: jax.Array) -> None:
    """Raises for offsets that begin elsewhere or are not sorted, where they are known."""
    if isinstance(offsets, jax.core.Tracer) or not offsets.is_fully_addressable:
        return
    known = np.asarray(offsets)
    if known.size and (known[0] != 0 or (np.diff(known) < 0).any()):
        raise LayerError(
            "offsets must begin at 0 and be sorted",
            got=format_short(known.tolist()),
            hint="offsets[i] is where bag i begins among the ids",
        )
