"""The loss of a batch, computed from its parts: ``train_step(accumulate=)``.

The mean over the parts is the loss of the undivided batch where a loss is a mean per part over
equally many things. It is not where parts hold different numbers of valid steps or different
weights, and it is NaN where one holds nothing. So each part estimates the *whole* loss: what is
known of the whole batch without running the model on it (sums of masks, of weights, class counts)
is that of the whole batch, a sum over rows of anything else is multiplied by the number of parts,
and a number that is the size of the batch is that of the whole batch. Then the mean of the
estimates is the loss of the undivided batch, and the mean of their gradients is its gradient.

How to read this file: the loss is traced for the shapes of a part and for those of the whole. The
two programs have the same operations; what has one shape in both holds no rows. ``_Plan`` says what
to do at each operation; ``_known`` computes what is known of the whole, ``_estimate`` runs a part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..base.added_losses import total
from ..base.collecting import collected
from ..base.errors import TrainingError, calling_user_code
from ..base.layer import Layer
from ..base.specs import specs_of
from ..base.types import Params, PyTree, State
from ..inspection.flat_program import (
    Atom,
    Constant,
    Operation,
    Program,
    program_of,
    run_operation,
)
from ..inspection.training_loss import Batch, LossFunction, asked_by

# Operations that sum over what they reduce.
_SUMS = frozenset(("reduce_sum", "dot_general", "scatter-add", "scatter_add"))
# After these the mean over parts still is that of the whole; so it is after a product with, and a
# quotient by, anything that is not a sum over rows itself.
_LINEAR = frozenset(
    (
        "add",
        "add_any",
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "cumsum",
        "expand_dims",
        "neg",
        "pad",
        "real",
        "reduce_sum",
        "reshape",
        "rev",
        "slice",
        "split",
        "squeeze",
        "stack",
        "stop_gradient",
        "sub",
        "transpose",
        "unstack",
    )
)
# Operations along an axis, and where they say which: along the rows they compare rows with rows.
_ALONG = {"sort": "dimension", "rev": "dimensions", "argmax": "axes", "argmin": "axes"} | {
    f"cum{name}": "axis" for name in ("sum", "prod", "max", "min", "logsumexp")
}
# Where an integer may be the size of the batch, and not an index into it.
_COUNTED = frozenset(("convert_element_type", "div", "mul"))


def divided_loss(
    model: Layer,
    loss: LossFunction,
    parts: int,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
    step: jax.typing.ArrayLike,
) -> LossFunction:
    """The loss as a function of one part's output and targets: an estimate for the whole batch.

    Raises:
      TrainingError: for a loss that is not a sum over rows divided by what the batch holds.
    """

    def run(batch: Batch) -> tuple[PyTree, State, jax.Array]:
        apply = functools.partial(model.apply, params, state, key=key, train=True)
        (y, new), (losses, _) = collected(lambda: apply(batch[0]))
        return y, new, total(losses)

    whole = specs_of(tuple(batch))
    part = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // parts, *leaf.shape[1:]), leaf.dtype),
        whole,
    )
    y, new, added = jax.eval_shape(run, whole)
    asked = asked_by(loss, len(batch) - 1)
    all_offers = {"params": params, "state": new, "step": step, "key": key, "added_loss": added}
    offers = specs_of({name: all_offers[name] for name in asked})

    def call(given: PyTree, offers: dict[str, Any]) -> Any:
        return loss(*given, **offers)

    with calling_user_code("the loss", TrainingError):
        of_part = program_of(call, (jax.eval_shape(run, part)[0], *part[1:]), offers)
        of_whole = program_of(call, (y, *whole[1:]), offers)
    plan = _Plan(
        of_part, of_whole, len(jax.tree.leaves(y)), _is_mask(y), len(jax.tree.leaves(whole[1:]))
    )
    masks: list[Any] = [None] * len(jax.tree.leaves(y))
    if any(atom in plan.needed for atom in range(len(masks))):
        # Compiled, so that nothing of the model is computed that no mask depends on.
        masks = jax.jit(lambda batch: _masks(run(batch)[0]))(tuple(batch))
    known = plan.known([*masks, *jax.tree.leaves(tuple(batch[1:]))])

    run_part: Callable[..., Any] = functools.partial(plan.estimate, parts)
    if of_part.remat:  # the loss asked for it somewhere
        run_part = jax.checkpoint(run_part)

    # Its signature, by which it is given what it asks for, is that of the loss.
    @functools.wraps(loss)
    def estimate(*given: PyTree, **offers: Any) -> Any:
        return run_part(known, jax.tree.leaves((given, offers)))

    return estimate


def _is_mask(y: PyTree) -> list[bool]:
    """Of each leaf, whether it is not floating: no gradient goes through it."""
    return [not jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(y)]


def _masks(y: PyTree) -> list[Any]:
    leaves = zip(jax.tree.leaves(y), _is_mask(y), strict=True)
    return [leaf if is_mask else None for leaf, is_mask in leaves]


class _Plan:
    """What to do at each operation of a loss.

    Args:
      part, whole: the loss for the shapes of a part, and of the whole batch.
      outputs: the number of inputs that are the model's output.
      masks: which of them are masks.
      targets: the number of inputs after them that are targets.

    Attributes:
      needed: the values of the whole batch that something known depends on.
    """

    def __init__(
        self, part: Program, whole: Program, outputs: int, masks: list[bool], targets: int
    ):
        self._part, self._whole = part, whole
        pairs = list(zip(part.operations, whole.operations, strict=False))
        if len(part.operations) != len(whole.operations) or any(
            (a.primitive, a.outputs) != (b.primitive, b.outputs) for a, b in pairs
        ):
            raise _indivisible("it computes something else for a part than for the whole")
        is_known = {i for i in range(outputs) if masks[i]}
        is_known |= set(range(outputs, outputs + targets))
        self._is_known = is_known
        # Sums over rows, and what no longer is one: by their numbers.
        sums, mixed = set[Atom](), set[Atom]()
        # Of each operation: whether the values of the whole are used, and whether it sums rows.
        self._from_whole: list[bool] = []
        self._sums_rows: list[bool] = []
        self.needed = set[Atom]()
        for own, other in pairs:
            known = all(isinstance(atom, Constant) or atom in is_known for atom in own.inputs)
            free = all(a.shape == b.shape for a, b in zip(own.made, other.made, strict=True))
            reduces = free and any(
                a.shape != b.shape for a, b in zip(own.specs, other.specs, strict=True)
            )
            if known:
                is_known.update(own.outputs)
            elif mixed.intersection(own.inputs) or _mixes(own, other, reduces, sums):
                mixed.update(own.outputs)
            elif reduces or sums.intersection(own.inputs):
                sums.update(own.outputs)
            self._from_whole.append(known and free)
            self._sums_rows.append(not known and reduces and own.primitive.name in _SUMS)
        if mixed.intersection(whole.outputs[:1]):
            raise _indivisible("it does not only add up over rows")
        # A value of the whole is needed where a part uses it, and then all that it depends on.
        used = set[Atom](whole.outputs)
        for own, from_whole in zip(whole.operations, self._from_whole, strict=True):
            if not from_whole:
                used.update(own.inputs)
        self._used = used
        for own, from_whole in reversed(list(zip(whole.operations, self._from_whole, strict=True))):
            makes = self.needed | used if from_whole else self.needed
            if is_known.issuperset(own.outputs) and makes.intersection(own.outputs):
                self.needed.update(own.inputs)

    def known(self, leaves: list[Any]) -> dict[Atom, Any]:
        """The values of the whole batch that parts use, from masks and targets."""
        values: dict[Atom, Any] = dict(enumerate(leaves))
        found: dict[Atom, Any] = {}
        for own, from_whole in zip(self._whole.operations, self._from_whole, strict=True):
            makes = self.needed | self._used if from_whole else self.needed
            if not makes.intersection(own.outputs) or not self._is_known.issuperset(own.outputs):
                continue
            made = run_operation(own, [_value(values, atom) for atom in own.inputs])
            values |= zip(own.outputs, made, strict=True)
            if from_whole:
                found |= zip(own.outputs, made, strict=True)
        return found

    def estimate(self, parts: int, known: dict[Atom, Any], leaves: list[Any]) -> Any:
        """The loss of the whole batch, as far as one part tells."""
        values: dict[Atom, Any] = {**dict(enumerate(leaves)), **known}
        todo = zip(
            self._part.operations,
            self._whole.operations,
            self._from_whole,
            self._sums_rows,
            strict=True,
        )
        for own, other, from_whole, sums_rows in todo:
            if from_whole:
                continue
            atoms = [
                _size_of_whole(own, *pair) for pair in zip(own.inputs, other.inputs, strict=True)
            ]
            made = run_operation(own, [_value(values, atom) for atom in atoms])
            if sums_rows:
                made = [value * jnp.asarray(parts, value.dtype) for value in made]
            values |= zip(own.outputs, made, strict=True)
        outputs = [_value(values, atom) for atom in self._whole.outputs]
        return jax.tree.unflatten(self._part.treedef, outputs)


def _mixes(own: Operation, other: Operation, reduces: bool, sums: set[Atom]) -> bool:
    """Whether the mean over parts of what an operation makes is not what it makes of the whole."""
    name = own.primitive.name
    rows = [
        [i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        for one, two in zip(own.specs, other.specs, strict=True)
    ]
    if name in _ALONG and rows[0]:
        along = own.params.get(_ALONG[name])
        if set(rows[0]).intersection(along if isinstance(along, tuple) else (along,)):
            return True
    if reduces:
        return name not in _SUMS or bool(sums.intersection(own.inputs))
    shapes = [(a.shape, b.shape) for a, b in zip(own.made, other.made, strict=True)]
    before = {math.prod(b.shape) / math.prod(a.shape) for a, b in _sized(own.specs, other.specs)}
    for one, two in shapes:
        # Rows against rows, or neighbouring rows: sizes that are not in proportion.
        if (
            before
            and one != two
            and 0 not in one
            and math.prod(two) / math.prod(one) not in before | {1}
        ):
            return True
    if not sums.intersection(own.inputs):
        return False
    # What was summed over rows goes back to the rows: statistics of the batch.
    if any(one != two for one, two in shapes):
        return True
    of_sums = [atom in sums for atom in own.inputs]
    if name in ("mul", "dot_general"):
        return all(of_sums)
    if name == "div":
        return of_sums[1]
    if name == "select_n":
        return of_sums[0]
    return name not in _LINEAR


def _sized(own: Any, other: Any) -> list[Any]:
    """Pairs of the specs that hold rows."""
    return [(a, b) for a, b in zip(own, other, strict=True) if a.shape != b.shape and a.size]


def _size_of_whole(own: Operation, atom: Atom, other: Atom) -> Atom:
    """A constant of the whole's program where it may be the size of the batch."""
    if not (isinstance(atom, Constant) and isinstance(other, Constant)):
        return atom
    if jnp.shape(atom.value) != jnp.shape(other.value):
        return atom
    floating = jnp.issubdtype(jnp.result_type(other.value), jnp.inexact)
    return other if floating or own.primitive.name in _COUNTED else atom


def _value(values: dict[Atom, Any], atom: Atom) -> Any:
    return atom.value if isinstance(atom, Constant) else values[atom]


def _indivisible(why: str) -> TrainingError:
    return TrainingError(
        f"accumulate= cannot divide this loss: {why}",
        expected="sums over rows, divided by what the batch holds (rows, weights, valid steps)",
        hint="accumulate=1; or such a loss, with its square root, for example, among the metrics",
    )
