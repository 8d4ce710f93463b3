"""Sequence: values over time that carry their mask.

How to read this file: the class comes first, a pytree of values and mask. ``mapped`` applies a
function step by step; ``split`` and ``join`` take a Sequence apart and put it together again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..core.dtypes import at_least_float32
from . import mixing
from .arrays import native
from .errors import LayerError, public_api
from .masks import (
    check_rows,
    joined_masks,
    mask_hint,
    mask_of_lengths,
    padded,
    text,
    to_jax_array,
)
from .receptive_field import EVERYWHERE, ReceptiveField
from .types import PyTree, Spec


@jax.tree_util.register_pytree_with_keys_class
class Sequence:
    """A batch of sequences of different lengths: values (B, T, ...) and their mask (B, T).

    Every layer takes one instead of an array. Padded values, NaN included, have no
    influence on valid outputs, on statistics or on gradients.

    Arithmetic works step by step (``x + y``, ``2 * x``); for everything else there is ``map``.
    Functions of ``jnp`` take arrays, and would lose the mask.

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

    # The name users import it by, in JAX's errors too.
    __module__ = "jlayers"
    # The receptive field is static: it is part of the treedef and costs nothing when compiled.
    __slots__ = ("_receptive_field", "mask", "values")

    values: jax.Array
    mask: jax.Array
    _receptive_field: ReceptiveField | None

    @public_api
    def __init__(self, values: ArrayLike | Spec, mask: ArrayLike | Spec | None = None):
        array = _as_array(values, "a Sequence")
        # A spec has no ndim.
        if len(array.shape) < 2:
            raise LayerError("a Sequence must be (batch, time, ...)", got=text(array))
        if mask is None:
            abstract = isinstance(array, jax.ShapeDtypeStruct)
            mask = Spec(array.shape[:2], bool) if abstract else jnp.ones(array.shape[:2], bool)
        bools = _as_array(mask, "the mask")
        if bools.dtype != bool or tuple(bools.shape) != tuple(array.shape[:2]):
            raise LayerError(
                "the mask of a Sequence does not fit its values",
                expected=f"bool{list(array.shape[:2])}",
                got=text(bools),
                hint=mask_hint(bools, array),
            )
        self.values, self.mask, self._receptive_field = array, bools, None

    @classmethod
    @public_api
    def from_lengths(cls, values: ArrayLike, lengths: ArrayLike) -> Sequence:
        """Rows whose first ``lengths`` steps are valid.

        Args:
          values: (batch, time, ...).
          lengths: integers (batch,), from 0 to time.

        Raises:
          LayerError: for other shapes and dtypes, and for known lengths outside 0 to time.
        """
        values = to_jax_array(_as_array(values, "a Sequence"))
        return cls(values, mask_of_lengths(values, to_jax_array(_as_array(lengths, "lengths"))))

    @classmethod
    @public_api
    def from_rows(cls, rows: Iterable[ArrayLike], length: int | None = None) -> Sequence:
        """Rows of different lengths, (time, ...) each, padded with zeros to one length.

        Args:
          rows: arrays of one dtype and of the same shape but for the first axis.
          length: to which they are padded; by default that of the longest. Every length is a
            program of its own to compile, so a data set should have few.

        Raises:
          LayerError: for no rows, rows that do not fit together, and rows longer than ``length``.
        """
        # By NumPy, which does not see a mask, and has no tensors of other libraries.
        known = (native(row, "a row") if hasattr(row, "shape") else row for row in rows)
        values, lengths = padded(known, length)
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
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def lengths(self) -> jax.Array:
        """How many steps of each row are valid, (batch,) int32."""
        return jnp.sum(self.mask, -1, dtype=jnp.int32)

    def fill(self, value: ArrayLike = 0) -> jax.Array:
        """The values with ``value`` in the padding."""
        # A select and not a product: 0 * NaN is NaN, in values and in gradients.
        return jnp.where(self._broadcast_mask(), self.values, jnp.asarray(value, self.dtype))

    def map(self, function: Callable[..., PyTree], *others: Sequence | ArrayLike) -> PyTree:
        """``function`` of the values, and the mask again.

        The padding is filled with zeros first, so that padded values reach neither the result nor
        a gradient.

        Args:
          function: of the values, and of those of ``others``, to one array (batch, time, ...) or a
            tree of them.
          *others: Sequences and arrays. A step is valid if it is valid in every Sequence.

        Returns:
          A Sequence for each array.

        Raises:
          LayerError: for a result that does not begin with (batch, time), and for a function that
            mixes steps, or knows where they are.
        """
        check_rows(self, others)
        y = mapped(function, (self, *others))
        if self._receptive_field is None and not mixing.is_looking():
            # Numbers of Python stay in the function; arrays have shapes to look at.
            given = [other if hasattr(other, "shape") else jnp.asarray(other) for other in others]
            examined = mixing.Examined(function)
            verdicts = examined.verdicts(lambda x: function(*x), (), *parts_of([self, *given]))
            if error := mixing.first_error(verdicts, mixing.of_output):
                raise error
        return y

    def mean(self) -> jax.Array:
        """The mean over all valid steps of all rows, of losses for example; 0 without any."""
        # A sum over many steps loses too much in bfloat16.
        wide = at_least_float32(self.dtype)
        # Without any valid step the mean is 0 / 1, not NaN.
        count = jnp.maximum(jnp.sum(self.mask), 1)
        total = jnp.sum(self.fill(), tuple(range(self.mask.ndim)), dtype=wide)
        mean = total / jnp.broadcast_to(count, total.shape).astype(wide)
        return mean.astype(self.dtype) if jnp.issubdtype(self.dtype, jnp.inexact) else mean

    def last(self) -> jax.Array:
        """The last valid step of each row, (batch, ...); zeros for a row without any."""
        steps = self.mask.shape[1]
        # The mask may have holes, so the last valid step is searched for and not counted.
        back = jnp.argmax(jnp.flip(self.mask, 1), 1)
        at = (steps - 1 - back).reshape(-1, *(1,) * (self.ndim - 1))
        return jnp.take_along_axis(self.fill(), at, axis=1)[:, 0]

    def astype(self, dtype: DTypeLike) -> Sequence:
        """The values in another dtype."""
        return self._with(self.values.astype(dtype))

    def _broadcast_mask(self) -> jax.Array:
        """The mask in the shape of the values."""
        mask = self.mask.reshape(*self.mask.shape, *(1,) * (self.ndim - self.mask.ndim))
        return jnp.broadcast_to(mask, self.shape)

    def _with(self, values: jax.Array | Spec, mask: jax.Array | Spec | None = None) -> Sequence:
        """Other values, of the same steps unless a mask is given."""
        return _make(values, self.mask if mask is None else mask, self._receptive_field)

    def _with_field(self, field: ReceptiveField | None) -> Sequence:
        return _make(self.values, self.mask, field)

    @staticmethod
    @public_api
    def concatenate(parts: Iterable[Sequence | ArrayLike]) -> Any:
        """Parts one after the other in time, with their masks; all steps of an array are valid.

        Padding inside the result is a hole in its mask, which every layer minds.

        Args:
          parts: Sequences and arrays (batch, time, ...), with equal sizes on all other axes.

        Returns:
          A Sequence, or an array where all parts are arrays.

        Raises:
          LayerError: for no parts, and for parts that do not fit together.
        """
        given = [part if isinstance(part, Sequence) else jnp.asarray(part) for part in parts]
        if len({(part.shape[:1], part.shape[2:], part.dtype) for part in given}) != 1:
            raise LayerError(
                "parts must have one batch, one dtype and the same features",
                expected="(batch, time, ...)",
                got=", ".join(text(part) for part in given) or "no parts",
            )
        values = jnp.concatenate([split(part)[0] for part in given], 1)
        if mixing.is_looking():
            # The mask says what is new: the step in front is not one that depends on its place.
            (values,) = mixing.opaque([values], [split(part)[0] for part in given])
        if not any(isinstance(part, Sequence) for part in given):
            return values
        masks = [
            part.mask if isinstance(part, Sequence) else jnp.ones(part.shape[:2], bool)
            for part in given
        ]
        return Sequence(values, jnp.concatenate(masks, 1))

    @public_api
    def prepend(self: Sequence | jax.Array, steps: ArrayLike) -> Any:
        """The sequence with valid steps in front of each row, such as a learned [CLS] step.

        ``jl.Sequence.prepend(x, steps)`` takes an array ``x`` too.

        Args:
          steps: (steps, ...), the same for every row, or (batch, steps, ...).

        >>> import jax.numpy as jnp, jlayers as jl
        >>> x = jl.Sequence.from_lengths(jnp.ones((2, 2, 1)), [2, 1])
        >>> x.prepend(jnp.zeros((1, 1))).mask.tolist()
        [[True, True, True], [True, True, False]]
        """
        front = jnp.asarray(steps)
        if front.ndim == self.ndim - 1:
            front = jnp.broadcast_to(front, (self.shape[0], *front.shape))
        return Sequence.concatenate([front, self])

    def __getitem__(self, index: slice | tuple[slice, ...]) -> Sequence:
        """Rows and steps: ``x[rows, steps]`` with slices."""
        index = index if isinstance(index, tuple) else (index,)
        # An integer would drop the axis of rows or steps that the mask needs.
        if len(index) > 2 or not all(isinstance(part, slice) for part in index):
            raise LayerError(
                "a Sequence is indexed by slices of rows and steps",
                hint="x[:, :10]; x.values[...] for the numbers alone",
            )
        part = self._with(self.values[index], self.mask[index])
        # A slice that starts later renumbers the steps, which strides count from the start.
        shifted = len(index) > 1 and index[1] not in (slice(None), slice(0, self.shape[1]))
        return (
            part._with_field(EVERYWHERE) if shifted and self._receptive_field is not None else part
        )

    def __repr__(self) -> str:
        return f"Sequence({self.values!r}, {self.mask!r})"

    def __neg__(self) -> PyTree:
        return mapped(operator.neg, (self,))

    # Compared step by step, and still found by identity in a dict.
    __hash__ = object.__hash__

    @public_api
    def __bool__(self) -> bool:
        raise LayerError(
            "a Sequence is neither true nor false",
            got=f"Sequence {text(self.values)}",
            hint="jnp.where in x.map(function), or x.fill().any()",
        )

    # Otherwise NumPy would add a Sequence to each element of an array.
    __array_priority__ = 1000

    @public_api
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise LayerError(
            "expected an array here, got a Sequence, which would lose its mask",
            got=f"Sequence {text(self.values)}",
            hint="x.map(function), or the function as a child of its own; arithmetic works; "
            "x.fill() for an array with zeros in the padding",
        )

    # jnp asks for this where it finds no array.
    __jax_array__ = __array__

    def __getattr__(self, name: str) -> Any:
        # Only for what does not exist: methods of arrays would read the padding.
        answer = f"'Sequence' object has no attribute {name!r}"
        if not name.startswith("_") and hasattr(jax.Array, name):
            answer += (
                f"\n  hint:     x.fill().{name} reads padding as zeros, x.values.{name} as it is"
            )
            if name in ("sum", "mean", "max", "min"):
                answer += "; GlobalAvgPool() and GlobalMaxPool() leave it out"
        raise AttributeError(answer)

    def tree_flatten_with_keys(self) -> tuple[PyTree, ReceptiveField | None]:
        key = jax.tree_util.GetAttrKey
        return ((key("values"), self.values), (key("mask"), self.mask)), self._receptive_field

    @classmethod
    def tree_unflatten(cls, field: ReceptiveField | None, leaves: tuple[Any, Any]) -> Sequence:
        values, mask = leaves
        return _make(values, mask, field)


# What a layer over time takes and gives.
Steps = jax.Array | Sequence


def _arithmetic(name: str) -> None:
    function = getattr(operator, name)

    def apply(self: Sequence, other: Sequence | ArrayLike) -> PyTree:
        check_rows(self, (other,))
        return mapped(function, (self, other))

    def reflected(self: Sequence, other: ArrayLike) -> PyTree:
        check_rows(self, (other,))
        return mapped(lambda x, y: function(y, x), (self, other))

    # Methods by loop, so that all five have one meaning.
    setattr(Sequence, f"__{name}__", apply)
    setattr(Sequence, f"__r{name}__", reflected)


def _comparison(name: str) -> None:
    function = getattr(operator, name)

    def compare(self: Sequence, other: Any) -> Any:
        # With anything that holds no numbers, a sentinel for instance, identity decides.
        if not (isinstance(other, Sequence | int | float) or hasattr(other, "shape")):
            return NotImplemented
        check_rows(self, (other,))
        return mapped(function, (self, other))

    setattr(Sequence, f"__{name}__", compare)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _arithmetic(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _comparison(_name)


def mapped(function: Callable[..., PyTree], trees: tuple[PyTree, ...]) -> PyTree:
    """``function`` of trees that hold Sequences, step by step: see ``Sequence.map``."""
    found = sequences_in(trees)
    mask, field = found[0].mask, found[0]._receptive_field
    for other in found[1:]:
        mask = joined_masks(mask, other.mask)
        if field is not None and other._receptive_field is not None:
            field = field.merge(other._receptive_field)
    y = function(*map_sequences(Sequence.fill, trees))
    lead = tuple(mask.shape)
    # A result with other leading axes has mixed steps, and has no mask.
    for leaf in jax.tree.leaves(y):
        if tuple(jnp.shape(leaf)[: len(lead)]) != lead:
            raise LayerError(
                "a function of each step of a Sequence must return steps",
                expected=f"[{', '.join(map(str, lead))}, ...]",
                got=text(leaf),
                hint="jl.on_sequence(function) for a function of the whole Sequence",
            )
    return jax.tree.map(lambda leaf: _make(leaf, mask, field), y)


def map_sequences(function: Callable[[Sequence], PyTree], tree: PyTree) -> PyTree:
    """The tree with ``function`` of each Sequence in its place, and everything else as it is."""
    return jax.tree.map(
        lambda node: function(node) if isinstance(node, Sequence) else node,
        tree,
        is_leaf=is_sequence,
    )


def parts_of(x: PyTree) -> tuple[PyTree, PyTree, int]:
    """The values of a tree with Sequences; which of them have steps or rows; axes of the mask."""
    leaves, structure = jax.tree.flatten(x, is_leaf=is_sequence)
    lead = next(leaf.mask.shape for leaf in leaves if is_sequence(leaf))

    def kind(leaf: Any) -> bool | str:
        if is_sequence(leaf) or leaf.shape[: len(lead)] == lead:
            return True
        return "rows" if len(lead) == 2 and leaf.shape[:1] == lead[:1] else False

    values = [leaf.values if is_sequence(leaf) else leaf for leaf in leaves]
    timed = [kind(leaf) for leaf in leaves]
    return jax.tree.unflatten(structure, values), jax.tree.unflatten(structure, timed), len(lead)


def is_sequence(node: object) -> TypeGuard[Sequence]:
    """Whether a node of a tree is a Sequence: the ``is_leaf`` of ``jax.tree``."""
    return isinstance(node, Sequence)


def made_of_steps(node: object) -> bool:
    """Whether the receptive field of a Sequence is being tracked."""
    return isinstance(node, Sequence) and node._receptive_field is not None


def sequences_in(tree: PyTree) -> list[Sequence]:
    """All Sequences in a tree."""
    return [n for n in jax.tree.leaves(tree, is_leaf=is_sequence) if isinstance(n, Sequence)]


def split(x: PyTree) -> tuple[PyTree, jax.Array | None]:
    """(values, mask) of a Sequence, (x, None) of an array."""
    return (x.values, x.mask) if isinstance(x, Sequence) else (x, None)


def join(values: jax.Array, mask: jax.Array | None) -> Steps:
    """The inverse of ``split``."""
    return values if mask is None else _make(values, mask, None)


def _make(values: PyTree, mask: PyTree, field: ReceptiveField | None) -> Sequence:
    # Without the checks: jax.tree also unflattens sentinels and bare objects.
    made = object.__new__(Sequence)
    made.values, made.mask, made._receptive_field = values, mask, field
    return made


def _as_array(value: ArrayLike | Spec, what: str) -> Any:
    """Arrays and specs as they are, so that a Sequence of specs stands for one of arrays."""
    if hasattr(value, "shape"):
        return native(value, what)
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise LayerError(f"{what} must be an array of numbers", got=repr(value)[:72]) from None
