"""Sequence: values over time that carry their mask."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ..core.dtypes import at_least_float32
from .errors import LayerError, public_api
from .padding import mask_of_lengths, padded, text
from .receptive_field import EVERYWHERE, ReceptiveField

PyTree = Any


@jax.tree_util.register_pytree_with_keys_class
class Sequence:
    """A batch of sequences of different lengths: values (B, T, ...) and their mask (B, T).

    Every layer takes one in the place of an array. What stands in the padding, NaN included,
    fields no valid output, no statistic and no gradient.

    Arithmetic works step by step (``x + y``, ``2 * x``), all else by ``map``: functions of
    ``jnp`` take arrays, and would forget the mask.

    Args:
      values: one array, or a spec of one, (batch, time, ...).
      mask: bools (batch, time), True for valid steps; all of them by default.

    Raises:
      LayerError: for values without a time axis, and a mask of another shape or dtype.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jl.Sequence.from_lengths(jnp.ones((2, 3, 1)), [3, 1])
    >>> x.mask.tolist()
    [[True, True, True], [True, False, False]]
    >>> y, _ = jl.GlobalAvgPool().apply({}, {}, 2 * x)
    >>> y.tolist()
    [[2.0], [2.0]]
    """

    # As users know it, in JAX's errors too.
    __module__ = "jlayers"
    __slots__ = ("_receptive_field", "mask", "values")

    values: jax.Array
    mask: jax.Array
    _receptive_field: ReceptiveField | None

    @public_api
    def __init__(self, values: Any, mask: Any = None):
        if not hasattr(values, "shape"):
            values = jnp.asarray(values)
        if len(values.shape) < 2:
            raise LayerError("a Sequence is (batch, time, ...)", got=text(values))
        if mask is None:
            mask = _mask_like(values)
        if not hasattr(mask, "shape"):
            mask = jnp.asarray(mask)
        if mask.dtype != bool or tuple(mask.shape) != tuple(values.shape[:2]):
            raise LayerError(
                "the mask of a Sequence does not fit its values",
                expected=f"bool{list(values.shape[:2])}",
                got=text(mask),
                hint="Sequence.from_lengths(values, lengths)" if mask.ndim == 1 else None,
            )
        self.values, self.mask, self._receptive_field = values, mask, None

    @classmethod
    @public_api
    def from_lengths(cls, values: Any, lengths: Any) -> Sequence:
        """Rows whose first ``lengths`` steps are valid.

        Args:
          values: (batch, time, ...).
          lengths: integers (batch,), from 0 to time.

        Raises:
          LayerError: for other shapes and dtypes, and for lengths outside that are known.
        """
        values = jnp.asarray(values)
        return cls(values, mask_of_lengths(values, lengths))

    @classmethod
    @public_api
    def from_rows(cls, rows: Iterable[Any], length: int | None = None) -> Sequence:
        """Rows of different lengths, (time, ...) each, padded with zeros to one length.

        Args:
          rows: arrays of one dtype and of the same shape but for the first axis.
          length: to which they are padded; that of the longest by default. A few lengths for all
            batches of a data set mean a few compiled programs.

        Raises:
          LayerError: for no rows, rows that do not fit together, and rows longer than ``length``.
        """
        values, lengths = padded(rows, length)
        return cls.from_lengths(values, lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The rank of the values."""
        return len(self.values.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def lengths(self) -> jax.Array:
        """How many steps of each row are valid, (batch,) int32."""
        return jnp.sum(self.mask, -1, dtype=jnp.int32)

    def fill(self, value: Any = 0) -> jax.Array:
        """The values with ``value`` in the padding."""
        return jnp.where(self._spread(), self.values, jnp.asarray(value, self.dtype))

    def map(self, function: Callable[..., PyTree], *others: Any) -> PyTree:
        """``function`` of the values, and the mask again.

        The padding is filled with zeros before, so that neither the values there nor what they
        would do to a gradient gets through.

        Args:
          function: of the values, and of those of ``others``, to one array (batch, time, ...) or a
            tree of them.
          *others: Sequences and arrays. Where several are Sequences a step is valid that is so in
            all of them.

        Returns:
          A Sequence for each array.

        Raises:
          LayerError: for a result that does not begin with (batch, time).
        """
        return mapped(function, (self, *others))

    def mean(self) -> jax.Array:
        """The mean over all valid steps of all rows: of losses, say. Zeros if there are none."""
        wide = at_least_float32(self.dtype)
        count = jnp.maximum(jnp.sum(self.mask), 1)
        total = jnp.sum(self.fill(), tuple(range(self.mask.ndim)), dtype=wide)
        mean = total / jnp.broadcast_to(count, total.shape).astype(wide)
        return mean.astype(self.dtype) if jnp.issubdtype(self.dtype, jnp.inexact) else mean

    def last(self) -> jax.Array:
        """The last valid step of each row, (batch, ...); zeros for a row without any."""
        steps = self.mask.shape[1]
        back = jnp.argmax(jnp.flip(self.mask, 1), 1)
        at = (steps - 1 - back).reshape(-1, *(1,) * (self.ndim - 1))
        return jnp.take_along_axis(self.fill(), at, axis=1)[:, 0]

    def astype(self, dtype: Any) -> Sequence:
        """The values in another dtype."""
        return self._with(self.values.astype(dtype))

    def _spread(self) -> jax.Array:
        """The mask, repeated for all that a step holds."""
        mask = self.mask.reshape(*self.mask.shape, *(1,) * (self.ndim - self.mask.ndim))
        return jnp.broadcast_to(mask, self.shape)

    def _with(self, values: Any, mask: Any = None) -> Sequence:
        """Other values, of the same steps unless a mask is given."""
        return _make(values, self.mask if mask is None else mask, self._receptive_field)

    def _with_field(self, field: ReceptiveField | None) -> Sequence:
        return _make(self.values, self.mask, field)

    def __getitem__(self, index: Any) -> Sequence:
        """Rows and steps: ``x[rows, steps]`` with slices."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) > 2 or not all(isinstance(part, slice) for part in index):
            raise LayerError(
                "a Sequence is cut by slices of rows and steps",
                hint="x[:, :10]; x.values[...] for the numbers alone",
            )
        part = self._with(self.values[index], self.mask[index])
        moved = len(index) > 1 and index[1] not in (slice(None), slice(0, self.shape[1]))
        return part._with_field(EVERYWHERE) if moved and self._receptive_field is not None else part

    def __repr__(self) -> str:
        return f"Sequence({self.values!r}, {self.mask!r})"

    def __neg__(self) -> Any:
        return self.map(operator.neg)

    # Or else NumPy would add a Sequence to each element of an array.
    __array_priority__ = 1000

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        key = jax.tree_util.GetAttrKey
        return ((key("values"), self.values), (key("mask"), self.mask)), self._receptive_field

    @classmethod
    def tree_unflatten(cls, field: Any, leaves: Any) -> Sequence:
        values, mask = leaves
        return _make(values, mask, field)


def _arithmetic(name: str) -> None:
    function = getattr(operator, name)

    def apply(self: Sequence, other: Any) -> Any:
        return self.map(function, other)

    def reflected(self: Sequence, other: Any) -> Any:
        return self.map(lambda x, y: function(y, x), other)

    setattr(Sequence, f"__{name}__", apply)
    setattr(Sequence, f"__r{name}__", reflected)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _arithmetic(_name)


def mapped(function: Callable[..., PyTree], trees: tuple[PyTree, ...]) -> PyTree:
    """``function`` of trees that hold Sequences, step by step: see ``Sequence.map``."""
    found = sequences_in(trees)
    mask, field = found[0].mask, found[0]._receptive_field
    for other in found[1:]:
        mask = joined_masks(mask, other.mask)
        if field is not None and other._receptive_field is not None:
            field = field.merge(other._receptive_field)
    filled = jax.tree.map(
        lambda node: node.fill() if isinstance(node, Sequence) else node, trees, is_leaf=is_sequence
    )
    y = function(*filled)
    lead = tuple(mask.shape)
    for leaf in jax.tree.leaves(y):
        if tuple(jnp.shape(leaf)[: len(lead)]) != lead:
            raise LayerError(
                "a function of each step of a Sequence gives something else than steps",
                expected=f"[{', '.join(map(str, lead))}, ...]",
                got=text(leaf),
                hint="jl.on_sequence(function) for a function of the whole Sequence",
            )
    return jax.tree.map(lambda leaf: _make(leaf, mask, field), y)


def joined_masks(a: jax.Array, b: jax.Array) -> jax.Array:
    """The steps that are valid in both.

    Raises:
      LayerError: for Sequences of different lengths.
    """
    if a is b:
        return a
    if a.shape != b.shape:
        raise LayerError("joins Sequences of different lengths", got=f"{text(a)} and {text(b)}")
    return a & b


def is_sequence(node: Any) -> bool:
    return isinstance(node, Sequence)


def made_of_steps(node: Any) -> bool:
    """Whether the receptive field of a Sequence is being tracked."""
    return isinstance(node, Sequence) and node._receptive_field is not None


def sequences_in(tree: PyTree) -> list[Sequence]:
    """All Sequences in a tree."""
    return [n for n in jax.tree.leaves(tree, is_leaf=is_sequence) if isinstance(n, Sequence)]


def split(x: Any) -> tuple[Any, jax.Array | None]:
    """(values, mask) of a Sequence, (x, None) of an array."""
    return (x.values, x.mask) if isinstance(x, Sequence) else (x, None)


def join(values: Any, mask: jax.Array | None) -> Any:
    """What ``split`` took apart."""
    return values if mask is None else _make(values, mask, None)


def _make(values: Any, mask: Any, field: ReceptiveField | None) -> Sequence:
    made = object.__new__(Sequence)
    made.values, made.mask, made._receptive_field = values, mask, field
    return made


def _mask_like(values: Any) -> Any:
    if isinstance(values, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(values.shape[:2], bool)
    return jnp.ones(values.shape[:2], bool)
