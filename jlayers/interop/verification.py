"""``verify``: a model beside the original, layer by layer, on the same input.

How to read this file: both run once, and what each of their layers gave is recorded
(``inspection.taps``, ``references``). ``activation_pairs`` says which belongs to which,
``activation_layouts`` how they differ, and ``hypotheses`` tries to say why the first one does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import InteropError, JlayersError, public_api, truncate
from ..base.layer import Layer
from ..base.specs import format_spec, specs_of
from ..base.types import Params, PyTree, State
from ..inspection.taps import Activation, recorded
from .activation_layouts import compare
from .activation_pairs import Allowed, Ours, Pair, images_of, is_leaf, ours_of, paired
from .hypotheses import Run, explained
from .matching import Plan
from .references import REFERENCES, Given, Reference
from .references import recorded as recorded_activations
from .references.recorded import arrays_of
from .report import Report, Row
from .rules import paths_of
from .verified_input import our_input, their_input

# Of the largest number of an activation, by the coarser dtype of the two. Sums in another order
# differ by 1e-7 to 1e-6 in float32, and gelu from its approximation by tanh by 2e-4.
_TOLERANCES = {"float64": 1e-9, "complex128": 1e-9, "float16": 1e-2, "bfloat16": 3e-2}
_FLOAT32 = 1e-5
# Rounding grows from layer to layer: by how much at one, and altogether.
_GROWTH, _GROWN = 10, 100
# Activations that do not belong together do not differ as little as this.
_CLOSE = 1e-2


@public_api
def verify(
    model: Layer,
    params: Params,
    state: State,
    reference: Any,
    x: PyTree = None,
    *,
    channels_first: bool = False,
    to_reference: Callable[[PyTree], PyTree] | None = None,
    plan: Plan | None = None,
    rules: Sequence[str] = (),
    tolerance: float | None = None,
    key: jax.Array | None = None,
) -> Report:
    """The original of a model beside it: each layer's difference, and the first that departs.

    Both run in evaluation on the same input. Activations are paired by rules, by names that are
    equal but for the separators, by the plan, by equal values, and at last by order and shape. They
    are compared in the layout in which the shapes fit: with channels, time or heads first, or as an
    image that was flattened with its channels first. The report says which. Of several outputs the
    first is compared; of a ``Sequence`` the valid steps. All activations are in memory at once.

    Args:
      model, params, state: ours.
      reference: a ``torch.nn.Module``, a Keras model, an ONNX file (a path, its bytes or a
        ``ModelProto``), or recorded activations: a mapping of names to arrays in the order in which
        they were computed, or an ``.npz`` or ``.safetensors`` file. The output is the entry
        ``"output"``, or the last one.
      x: our input, or its spec, for random numbers (ids in the range of the smallest embedding).
        Recorded activations hold it as ``"input"``, and need none.
      channels_first: whether the original's images and signals have their channels behind the
        batch: floating arrays of three axes and more are then turned.
      to_reference: instead, a function from our input, as NumPy arrays, to the original's: one
        array, a tuple of arguments, or a dict of named ones.
      plan: of ``match``: which of our layers has the arrays of which of theirs.
      rules: corrections, as for ``match``: ``"theirs -> ours"``, ``"theirs ->"``.
      tolerance: of the difference over the largest number of the original's activation. By default
        1e-5, 1e-9 in float64, 1e-2 in float16 and 3e-2 in bfloat16, or ten times the largest
        difference of the layers before that agree, but not over a hundred times those figures.
      key: for random input.

    Returns:
      A ``Report``. ``print(report)`` shows it, and ``report.check()`` raises where a layer departs.

    Raises:
      InteropError: for a reference of another kind, one that is run by a package that is missing,
        or does not take the input, and for a rule that matches nothing.
      LayerError: where ``x`` does not fit the model.

    >>> import jax, jax.numpy as jnp, numpy as np, jlayers as jl
    >>> model = jl.serial(jl.Dense(3), jnp.tanh)
    >>> params = {"dense": {"kernel": np.eye(3, dtype="float32"), "bias": np.ones(3, "float32")}}
    >>> x = np.arange(12, dtype="float32").reshape(4, 3) / 12
    >>> there = {"fc": x + 1, "output": np.tanh(x + 1)}
    >>> print(jl.interop.verify(model, params, {}, there, x))
    3 of 3 activations agree with recorded activations
      layer     theirs    largest  relative  shape
      dense     fc        0.0e+00   0.0e+00  4x3
      tanh      (output)  ...       ...      4x3
      (output)  (output)  ...       ...      4x3
    """
    kind = _kind_of(reference)
    recording = arrays_of(reference) if kind is recorded_activations.REFERENCE else None
    x = our_input(model, x, recording, channels_first, key)
    given = _run(kind, reference, their_input(x, channels_first, to_reference))
    # Other processors multiply float32 in fewer digits by default.
    with jax.default_matmul_precision("highest"):
        _, activations = recorded(model, params, state, x, key=key)
        ours = ours_of(activations)
        *inside, output = ours
        # The output is that of the last layer too.
        their_inside, their_output = given, given[-1]
        if rules:
            left_out = paths_of({one.name: one.value for one in given[:-1]}, rules)[1]
            kept = [rule for rule in rules if rule.partition("->")[2].strip()]
            their_inside = [one for one in their_inside if one.name not in left_out]
        else:
            kept = []
        allowed = functools.partial(_allowed, tolerance)
        pairs = paired(inside, their_inside, plan=plan, rules=kept, allowed=allowed)
        rows = [_row(inside[p.ours], their_inside[p.theirs], p, allowed) for p in pairs]
        last = _output(output, their_output, images_of(ours), allowed)
        if tolerance is None:
            *rows, last = _with_growth([*rows, last])
        pairs, rows = _without_wrong_pairs(inside, output, their_inside, pairs, rows, last)
        compared = [(inside[p.ours], their_inside[p.theirs]) for p in pairs]
        compared.append((output, their_output))
        rows.append(last)
        departing = next((i for i, row in enumerate(rows) if not row.ok), None)
        hint = None
        if departing is not None:
            given_here = params, state, x
            hint = _hint(model, given_here, ours, *compared[departing], rows[departing].tolerance)
    ours_paired = {p.ours for p in pairs}
    return Report(
        tuple(rows),
        tuple(one.path for i, one in enumerate(inside) if i not in ours_paired),
        _left(their_inside, {p.theirs for p in pairs}),
        hint,
        kind.short,
    )


def _kind_of(reference: object) -> Reference:
    for kind in REFERENCES:
        if kind.takes(reference):
            return kind
    shown = repr(reference) if isinstance(reference, str) else type(reference).__name__
    raise InteropError(
        "the reference cannot be run",
        expected="; ".join(kind.says for kind in REFERENCES),
        got=shown,
        hint="files of weights are for interop.read; load the model with its own library"
        if isinstance(reference, str)
        else "the activations of any other one, recorded where it runs: {name: array}",
    )


def _run(kind: Reference, reference: Any, inputs: PyTree) -> list[Given]:
    try:
        # As JAX comes, whatever our user has set: Keras may run on it.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return kind.run(reference, inputs)
    except JlayersError:
        raise
    except FileNotFoundError:
        raise
    except Exception as error:
        raise InteropError(
            f"the original, {kind.short}, does not take the input",
            got=f"{format_spec(specs_of(jax.tree.map(np.asarray, inputs)))}: "
            f"{type(error).__name__}: {truncate(str(error))}",
            hint="channels_first=True, or to_reference=lambda x: ...",
        ) from error


def _allowed(tolerance: float | None, ours: np.ndarray, theirs: np.ndarray) -> float:
    if tolerance is not None:
        return tolerance
    # What one of them computed in fewer digits agrees in as many.
    return max(_TOLERANCES.get(array.dtype.name, _FLOAT32) for array in (ours, theirs))


def _row(one: Ours, other: Given, pair: Pair, allowed: Allowed) -> Row:
    found, limit = pair.comparison, allowed(one.value, other.value)
    shape = one.value.shape
    return Row(one.path, other.name, *found[:2], limit, shape, found.layout, pair.how)


def _output(
    output: Ours, their_output: Given, images: tuple[tuple[int, ...], ...], allowed: Allowed
) -> Row:
    found = compare(output.value, their_output.value, images, output.mask)
    if found is None:
        raise InteropError(
            "the outputs have other shapes",
            expected=f"{list(their_output.value.shape)} as the original's",
            got=f"{list(output.value.shape)}",
            hint="of several outputs the first is compared: wrap the original, or change the head "
            "here",
        )
    limit = allowed(output.value, their_output.value)
    return Row("", "", *found[:2], limit, output.value.shape, found.layout, "output")


def _left(theirs: Sequence[Given], paired: set[int]) -> tuple[str, ...]:
    """Names of what was paired with nothing, and is not the same as what was (a dropout's)."""
    known = {(theirs[j].value.shape, theirs[j].value.tobytes()) for j in paired}
    left = (
        one.name
        for j, one in enumerate(theirs[:-1])
        if j not in paired and (one.value.shape, one.value.tobytes()) not in known
    )
    # Once, since a layer inside a loop has a call for each step.
    return tuple(dict.fromkeys(left))


def _with_growth(rows: list[Row]) -> Iterator[Row]:
    """The rows with the tolerances that they have behind those before them."""
    largest = 0.0
    for row in rows:
        limit = max(row.tolerance, min(_GROWTH * largest, _GROWN * row.tolerance))
        row = row._replace(tolerance=limit)
        if row.ok:
            largest = max(largest, row.relative)
        yield row


def _without_wrong_pairs(
    ours: Sequence[Ours],
    whole: Ours,
    theirs: Sequence[Given],
    pairs: list[Pair],
    rows: list[Row],
    output: Row,
) -> tuple[list[Pair], list[Row]]:
    """Without pairs that do not belong together.

    Where theirs equals another of ours, it belongs there: a layer with an activation inside it is
    called as ours without. And a layer that departs makes what encloses it depart, and what follows
    it in a ``serial``: where these are near, a pair by order that is not was wrong. So was one by
    the plan with a module of theirs that has others inside it: BERT's attention adds a shortcut and
    a norm to what has the arrays.
    """
    enclosing = {above for one in theirs for above in _above(one.name)}
    near = [ours[p.ours].activation for p, row in zip(pairs, rows, strict=True) if _near(row)]
    equal = {p.theirs for p, row in zip(pairs, rows, strict=True) if row.ok}
    in_line = {
        one.activation.path
        for one in (*ours, whole)
        if one.activation.site.layer.maker in ("serial", "repeat")
    }

    def is_wrong(pair: Pair, row: Row) -> bool:
        if row.ok or pair.theirs in equal:
            return not row.ok
        guessed = pair.how == "order" or (pair.how == "plan" and row.theirs in enclosing)
        if not guessed or _near(row):
            return False
        mine = ours[pair.ours].activation
        parent = mine.path.rpartition("/")[0]
        return _near(output) or any(
            mine.path.startswith(f"{one.path}/")
            or (parent in in_line and _follows(one, mine, parent))
            for one in near
        )

    kept = [(p, row) for p, row in zip(pairs, rows, strict=True) if not is_wrong(p, row)]
    return [p for p, _ in kept], [row for _, row in kept]


def _above(name: str) -> Iterator[str]:
    return (name[: found.start()] for found in re.finditer("[./]", name))


def _near(row: Row) -> bool:
    return row.relative < _CLOSE


def _follows(one: Activation, other: Activation, parent: str) -> bool:
    """Whether one layer of a parent ran after another, in the same call of the parent."""
    return one.path.rpartition("/")[0] == parent and (one.call, one.copy, one.site.order) > (
        other.call,
        other.copy,
        other.site.order,
    )


def _hint(
    model: Layer,
    given: tuple[Params, State, PyTree],
    ours: Sequence[Ours],
    one: Ours,
    other: Given,
    tolerance: float,
) -> str | None:
    """What would make this layer agree."""
    layer = one.activation.site.layer
    if not is_leaf(one):
        return None
    params, state, x = given
    _, inputs = recorded(model, params, state, x, side="input", path=one.activation.site.path)
    same = (one.activation.path, one.activation.call)
    own = next(each for each in inputs if (each.path, each.call) == same)
    images = images_of(ours)
    run = Run(layer, *_arrays_at(own, params, state), own.value, images)
    others = {
        each.activation.path: _arrays_at(each.activation, params, state)
        for each in ours
        if each.activation.site.layer.maker == layer.maker
        and each.activation.path != one.activation.path
        and is_leaf(each)
    }

    def agrees(y: PyTree) -> bool:
        (changed,) = ours_of([one.activation._replace(value=jax.tree.map(np.asarray, y))])
        found = compare(changed.value, other.value, images, changed.mask)
        return found is not None and found.relative <= tolerance

    return explained(run, others, agrees)


def _arrays_at(activation: Activation, params: Params, state: State) -> tuple[Params, State]:
    """The parameters and the state of one copy of a layer."""

    def below(tree: Mapping[str, Any]) -> dict[str, Any]:
        for step in activation.site.steps:
            if isinstance(step, str):
                tree = tree.get(step, {})
        return {
            name: jax.tree.map(lambda leaf: jnp.asarray(leaf)[activation.copy], entry)
            for name, entry in tree.items()
        }

    return below(params), below(state)
