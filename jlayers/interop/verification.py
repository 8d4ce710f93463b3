"""``verify``: a model beside the original, layer by layer, on the same input.

How to read this file: both run once, and what each of their layers gave is recorded
(``inspection.taps``, ``references``). ``activation_pairs`` says which belongs to which,
``activation_layouts`` how they differ, and ``hypotheses`` tries to say why the first one does.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import InteropError, JlayersError, public_api
from ..base.specs import format_spec, specs_of
from ..base.types import Params, PyTree, State
from ..inspection.taps import Activation, recorded
from . import hints
from .activation_layouts import Comparison
from .activation_pairs import Allowed, Ours, Pair, images_of, ours_of, paired
from .matching import Plan
from .output_pairs import label, outputs_of, paired_outputs
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
# Of terminals, in what Keras says.
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_SHOWN = 500
# Activations that do not belong together do not differ as little as this.
_CLOSE = 1e-2


@public_api
def verify(
    model: LayerOrFunction,
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
    image that was flattened with its channels first. The report says which. Of several outputs (a
    tuple, a dict, a ``ModelOutput``) each is compared, by name or place; of several arrays of a
    layer inside, the first; of a ``Sequence`` the valid steps. All activations are in memory at
    once.

    Args:
      model, params, state: ours.
      reference: a ``torch.nn.Module``, a Keras model, an ONNX file (a path, its bytes or a
        ``ModelProto``), a ``.tflite`` file (a path or its bytes), or recorded activations: a
        mapping of names to arrays in the order in which they were computed, or an ``.npz`` or
        ``.safetensors`` file. The output is the entry ``"output"``, several ``"output.0"`` or
        ``"output.logits"``, or the last one.
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
    kind, model = _kind_of(reference), lift(model)
    recording = arrays_of(reference) if kind is recorded_activations.REFERENCE else None
    x = our_input(model, x, recording, channels_first, key)
    inputs = their_input(x, channels_first, to_reference)
    given = ran = _run(kind, reference, inputs)
    # Other processors multiply float32 in fewer digits by default.
    with jax.default_matmul_precision("highest"):
        _, activations = recorded(model, params, state, x, key=key)
        whole = activations[-1]
        outputs = outputs_of(whole)
        inside = [one for one in ours_of(activations) if one.activation is not whole]
        ours = [*inside, *outputs]
        kept = []
        if rules:
            left_out = paths_of({one.name: one.value for one in given if one.name}, rules)[1]
            kept = [rule for rule in rules if rule.partition("->")[2].strip()]
            given = [one for one in given if one.name not in left_out]
        # The output is that of the last layer too.
        theirs = [one for one in given if one.output]
        allowed = functools.partial(_allowed, tolerance)
        pairs = paired(inside, given, plan=plan, rules=kept, allowed=allowed)
        rows = [_row(inside[p.ours], given[p.theirs], p, allowed) for p in pairs]
        ends = paired_outputs(outputs, theirs, images_of(ours), allowed)
        last = [_output(outputs[i], theirs[j], found, allowed) for i, j, found in ends]
        if tolerance is None:
            grown = [*_with_growth(rows, last)]
            rows, last = grown[: len(rows)], grown[len(rows) :]
        pairs, rows = _without_wrong_pairs(inside, whole, given, pairs, rows, last)
        compared = [(inside[p.ours], given[p.theirs]) for p in pairs]
        compared += [(outputs[i], theirs[j]) for i, j, _ in ends]
        rows += last
        departing = next((i for i, row in enumerate(rows) if not row.ok), None)
        hint = None
        if departing is not None:
            given_here = params, state, x
            row = rows[departing]
            hint = (
                hints.of_another_input(x, recording, channels_first)
                or hints.of_the_run(row, ran, lambda: _run(kind, reference, inputs))
                or hints.of_a_layer(model, given_here, ours, *compared[departing], row.tolerance)
            )
    ours_paired = {p.ours for p in pairs}
    unpaired = [one.path for i, one in enumerate(inside) if i not in ours_paired]
    compared_ends = {i for i, *_ in ends}
    unpaired += [label(one.path) for i, one in enumerate(outputs) if i not in compared_ends]
    ends_of_theirs = [theirs[j] for _, j, _ in ends]
    return Report(
        tuple(rows),
        tuple(unpaired),
        _left(given, [*(given[p.theirs] for p in pairs), *ends_of_theirs]),
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
            f"{type(error).__name__}: {_words(error)}",
            hint="channels_first=True, or to_reference=lambda x: ...",
        ) from error


def _words(error: Exception) -> str:
    return " ".join(_COLOURS.sub("", str(error)).split())[:_SHOWN]


def _allowed(tolerance: float | None, ours: np.ndarray, theirs: np.ndarray) -> float:
    if tolerance is not None:
        return tolerance
    # Ids and masks are equal or not, however large they are.
    if ours.dtype.kind in "biu" and theirs.dtype.kind in "biu":
        return 0.0
    # What one of them computed in fewer digits agrees in as many.
    return max(_TOLERANCES.get(array.dtype.name, _FLOAT32) for array in (ours, theirs))


def _row(one: Ours, other: Given, pair: Pair, allowed: Allowed) -> Row:
    found, limit = pair.comparison, allowed(one.value, other.value)
    shape = one.value.shape
    name = label(other.name) if other.output else other.name
    return Row(one.path, name, *found[:2], limit, shape, found.layout, pair.how, found.nans)


def _output(output: Ours, other: Given, found: Comparison, allowed: Allowed) -> Row:
    limit, shape = allowed(output.value, other.value), output.value.shape
    names = label(output.path), label(other.name)
    relative = math.nan if found.nans else found.relative
    row = Row(*names, found.difference, relative, limit, shape, found.layout, "output")
    return row._replace(nans=found.nans)


def _left(theirs: Sequence[Given], paired: Sequence[Given]) -> tuple[str, ...]:
    """Names of what was paired with nothing, and is not the same as what was (a dropout's)."""
    taken = {id(one) for one in paired}
    known = {(one.value.shape, one.value.tobytes()) for one in paired}
    left = (
        label(one.name) if one.output else one.name
        for one in theirs
        if id(one) not in taken
        # Each output counts.
        and (one.output or (one.value.shape, one.value.tobytes()) not in known)
    )
    # Once, since a layer inside a loop has a call for each step.
    return tuple(dict.fromkeys(left))


def _with_growth(rows: list[Row], outputs: list[Row]) -> Iterator[Row]:
    """The rows with the tolerances that they have behind those before them."""
    largest = 0.0
    for row in (*rows, *outputs):
        limit = max(row.tolerance, min(_GROWTH * largest, _GROWN * row.tolerance))
        row = row._replace(tolerance=limit)
        if row.ok:
            largest = max(largest, row.relative)
        yield row


def _without_wrong_pairs(
    ours: Sequence[Ours],
    whole: Activation,
    theirs: Sequence[Given],
    pairs: list[Pair],
    rows: list[Row],
    outputs: list[Row],
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
        one.path
        for one in (*(each.activation for each in ours), whole)
        if one.site.layer.maker in ("serial", "repeat")
    }

    def is_wrong(pair: Pair, row: Row) -> bool:
        if row.ok or pair.theirs in equal:
            return not row.ok
        guessed = pair.how == "order" or (pair.how == "plan" and row.theirs in enclosing)
        if not guessed or _near(row):
            return False
        mine = ours[pair.ours].activation
        parent = mine.path.rpartition("/")[0]
        return all(map(_near, outputs)) or any(
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
