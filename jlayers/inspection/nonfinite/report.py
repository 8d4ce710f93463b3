"""The report on a non-finite value: where it came from, in the form of our errors.

How to read this file: ``NonFinite`` is the report; there is one ``of_...`` function for each kind
of origin. The helpers below them turn measurements into text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...base.errors import truncate
from ...base.repr_text import function_text
from ...base.sequence import Sequence, is_sequence
from ...base.specs import format_short, format_spec, path_text
from ...base.types import PyTree
from .localize import Blamed, Call, whole
from .measure import HIGH, INF, LOW, NAN

# Rows of a batch on one line; the attribute ``rows`` has them all.
_SHOWN = 12
# Hints, one for each usual cause. 65504 is the largest number of float16.
_WHOLE = "a smaller learning rate or clip=1.0; a norm before it"
_FLOAT16 = "float16 ends at 65504: bfloat16, or a norm before it"
_SCALE = "float16 ends at 65504: loss_scale=training.LossScale() in train_step, or bfloat16"
# jnp.where differentiates both of its branches, and 0 * NaN is NaN: a safe output is not enough.
_AT_ZERO = (
    "norms, roots and divisions have no gradient at 0: jnp.sqrt(x + 1e-6); jnp.where needs a safe "
    "input too"
)
# A softmax in the model rounds small probabilities to 0, and their logarithm is infinite.
_OF_LOGITS = (
    "a loss of logits such as optax.softmax_cross_entropy, instead of one that takes the log of 0"
)


class NonFinite(NamedTuple):
    """Which value was the first that is not finite; ``str`` and ``print`` give the report.

    Attributes:
      kind: ``"batch"``, ``"params"``, ``"state"``: it existed before the step. ``"forward"``: a
        layer's output. ``"backward"``: the gradient that a layer computed from a finite one.
        ``"loss"`` and ``"loss gradient"``: of a finite output. ``"gradient"``: a sum of finite ones
        over several uses of one parameter. ``"new state"``. ``"norm"``: of a finite gradient.
      path: of the layer, the parameter or the variable; of a batch ``[0]['image']``.
      problem: what is wrong, one line.
      maker: the constructor of the layer: ``"Dense"``.
      layer: its ``repr`` on one line, and where it was built.
      copies: (index, count) for each ``repeat`` and ``ensemble`` around it, outermost first.
      rows: of the batch, those in which it happened; empty where this is not known.
      facts: (label, text) of the measurements.
      hint: what to try, or None.
    """

    kind: str
    path: str
    problem: str
    maker: str = ""
    layer: str | None = None
    copies: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        where = self.maker + (f" at {self.path!r}" if self.path else "")
        for index, count in self.copies:
            where += f", copy {index} of 0 to {count - 1}"
        facts = [("layer", self.layer), *self.facts, ("hint", self.hint)]
        lines = [f"{where}: {self.problem}"]
        lines += [f"  {label + ':':<10}{text}" for label, text in facts if text is not None]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


class Rows(NamedTuple):
    """Which rows of a batch were measured: ``size`` from ``start`` on, of ``whole``."""

    size: int
    start: int
    whole: int


def of_leaf(kind: str, tree: PyTree) -> NonFinite | None:
    """The first leaf of a batch, parameters or state that is not finite."""
    for path, node in jax.tree.leaves_with_path(tree, is_leaf=is_sequence):
        if not jnp.issubdtype(node.dtype, jnp.inexact):
            continue
        # NumPy compiles nothing; it has no isnan for float8.
        numbers = np.asarray(node.fill() if isinstance(node, Sequence) else node)
        numbers = numbers.astype(np.float32) if numbers.dtype.itemsize < 4 else numbers
        bad = ~np.isfinite(numbers)
        if not bad.any():
            continue
        nan = int(np.isnan(numbers).sum())
        first = [int(i) for i in np.argwhere(bad)[0]]
        holds = f"{format_short(node)}, {_counts(nan, int(bad.sum()) - nan)}"
        facts: list[tuple[str, str]] = [("holds", holds)]
        if first:
            facts.append(("first", f"at {first}"))
        rows: tuple[int, ...] = ()
        if kind == "batch" and bad.ndim:
            rows = tuple(np.flatnonzero(bad.reshape(len(bad), -1).any(1)).tolist())
            facts.append(("rows", _rows_text(rows, len(bad))))
        name = jax.tree_util.keystr(path) if kind == "batch" else path_text(path)
        problem = "is not finite, and was not before the step"
        hint = "an earlier checkpoint: the step before this one made it so"
        if kind == "batch":
            problem, hint = "is not finite", "fix the data, or leave these rows out"
        return NonFinite(kind, name, problem, kind, rows=rows, facts=tuple(facts), hint=hint)
    return None


def of_forward(blamed: Blamed, rows: Rows) -> NonFinite:
    """The layer whose output is the first that is not finite."""
    call = blamed.call
    x, y = call.seen("forward", "input"), call.seen("forward", "output")
    problem = "its input is finite, its output is not"
    # The child is where it shows first. The value was made before it, so the child is not to blame.
    if blamed.child is not None:
        problem = f"its own code produces a non-finite value, before {_called(blamed.child)}"
    elif call.node.children:
        problem = (
            "the outputs of its children are finite, its own code makes a non-finite value of them"
        )
    facts = [("input", _text(call.node.inputs[call.number], x))]
    if blamed.child is not None:
        inside = blamed.child.node.inputs[blamed.child.number]
        facts.append(("inside", _text(inside, blamed.child.seen("forward", "input"))))
    facts.append(("output", _text(call.node.outputs[call.number], y)))
    return _of_layer("forward", blamed, problem, facts, rows, _hint_forward(call, x))


def of_backward(blamed: Blamed, rows: Rows) -> NonFinite:
    """The layer that receives a finite gradient and produces a non-finite one."""
    call = blamed.call
    spec, out = call.node.inputs[call.number], call.node.outputs[call.number]
    given, made = call.seen("backward", "output"), call.seen("backward", "input")
    own = call.seen("backward", "params")
    which = [name for name, m in (("input", made), ("parameters", own)) if m[NAN] or m[INF]]
    problem = f"the gradient of its output is finite, that of its {' and '.join(which)} is not"
    if blamed.child is not None:
        problem = f"its own code produces a non-finite gradient, for {_called(blamed.child)}"
    elif call.node.children:
        problem = "its own code produces a non-finite gradient, apart from its children"
    gradient = f"of the output {_held(given)}; of the input {_held(made)}"
    if own[NAN] or own[INF]:
        gradient += f"; of the parameters {_held(own)}"
    facts = [
        ("input", _text(spec, call.seen("forward", "input"))),
        ("output", _text(out, call.seen("forward", "output"))),
        ("gradient", gradient),
    ]
    # float16 first: its gradients overflow in any layer, and a zero input is a cause in some alone.
    hint, x = None, call.seen("forward", "input")
    if _narrow(spec):
        hint = _SCALE
    elif x[LOW] <= 0 <= x[HIGH]:
        hint = _AT_ZERO
    return _of_layer("backward", blamed, problem, facts, rows, hint)


def of_loss(
    loss: Callable[..., Any], value: Any, call: Call, rows: Rows, targets: PyTree = ()
) -> NonFinite:
    """The loss of a finite output, or where ``value`` is None its gradient."""
    y, ct = call.seen("forward", "output"), call.seen("backward", "output")
    spec = call.node.outputs[call.number]
    facts = [("loss", truncate(function_text(loss))), ("output", _text(spec, y))]
    found, text = _rows_of(call.by_row("backward", "output"), spec, rows, 1)
    if value is not None:
        problem = f"the model's output is finite, the loss is {value}"
    else:
        problem = "the loss is finite, its gradient by the model's output is not"
        facts.append(("gradient", _held(ct)))
    if text:
        facts.append(("rows", text))
    kind = "loss" if value is not None else "loss gradient"
    hint = _hint_labels(spec, targets) or (_SCALE if _narrow(spec) else _OF_LOGITS)
    return NonFinite(kind, "", problem, "loss", rows=found, facts=tuple(facts), hint=hint)


def of_sum(kind: str, path: str, measurement: Any) -> NonFinite:
    """A gradient that is finite in each call of its layer, or a variable of the new state."""
    problem = "is not finite after the step"
    if kind == "gradient":
        problem = "each use of it gives a finite gradient, their sum is not"
    # No layer is named: each of them was finite, and the sum belongs to all.
    facts = (("holds", _held(whole(measurement))),)
    return NonFinite(kind, path, problem, kind, facts=facts, hint=_WHOLE)


def of_norm(gradient: dict[str, Any]) -> NonFinite:
    """The norm of a finite gradient, with the parameter whose gradient is the largest."""
    # The norm overflows by its largest squares: that parameter is where to look.
    sizes = {path: float(np.abs(whole(m)[[LOW, HIGH]]).max()) for path, m in gradient.items()}
    path = max(sizes, key=sizes.__getitem__)
    problem = "every number of the gradient is finite, its norm is not; this is the largest part"
    facts = (("holds", _held(whole(gradient[path]))),)
    return NonFinite("norm", path, problem, "gradient", facts=facts, hint=_WHOLE)


def _of_layer(
    kind: str,
    blamed: Blamed,
    problem: str,
    facts: list[tuple[str, str]],
    rows: Rows,
    hint: str | None,
) -> NonFinite:
    call, node = blamed.call, blamed.call.node
    made, spec = ("output", node.outputs) if kind == "forward" else ("input", node.inputs)
    found, text = _rows_of(call.by_row(kind, made), spec[call.number], rows, call.fold)
    if len(node.inputs) > 1:
        facts.append(("call", f"{call.number} of 0 to {len(node.inputs) - 1}"))
    if text:
        facts.append(("rows", text))
    layer = f"{node.layer.short()}  ({node.layer.site})"
    return NonFinite(
        kind, node.path, problem, node.layer.maker, layer, call.copies, found, tuple(facts), hint
    )


def _hint_forward(call: Call, x: Any) -> str | None:
    # The function itself first: a logarithm of 0 is infinite in every dtype.
    kind, spec = call.node.layer.kind, call.node.inputs[call.number]
    if kind in ("log", "log2", "log10") and x[LOW] <= 0:
        return f"jnp.{kind}(jnp.maximum(x, 1e-6)): {kind} of values not above 0"
    if kind in ("sqrt", "rsqrt") and x[LOW] <= 0:
        return f"{kind} of jnp.maximum(x, 0) + 1e-6: its input is not above 0"
    if kind == "embedding" and "embedding" in call.node.params:
        # Its table is finite, or it would have been found before.
        count = call.node.params["embedding"].shape[-2]
        return f"ids from 0 to {count - 1}: one out of range has a row of NaN"
    if _narrow(spec):
        return _FLOAT16
    if kind in ("exp", "exp2", "expm1"):
        return f"x - jnp.max(x) before it: {kind} of large numbers"
    # Parameters of its own can have grown in training; without any there is nothing to advise.
    own = {name for name in call.node.params if name not in call.node.children}
    return _WHOLE if own else None


def _hint_labels(spec: PyTree, targets: PyTree) -> str | None:
    """Where a target holds labels that the classes of the output do not reach."""
    if not isinstance(spec, jax.ShapeDtypeStruct) or not spec.shape:
        return None
    *leading, classes = spec.shape
    for target in jax.tree.leaves(targets):
        labels = jnp.issubdtype(target.dtype, jnp.integer) and target.size
        if labels and target.shape == tuple(leading):
            least, largest = int(target.min()), int(target.max())
            if least < 0 or largest >= classes:
                bad = largest if largest >= classes else least
                return f"labels from 0 to {classes - 1}: the targets hold {bad}"
    return None


def _called(call: Call) -> str:
    return repr(call.node.path) if call.node.path else call.node.layer.maker


def _narrow(spec: PyTree) -> bool:
    return any(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(spec))


def _text(spec: PyTree, measurement: Any) -> str:
    return f"{truncate(format_spec(spec))}, {_held(measurement)}"


def _held(m: Any) -> str:
    known = f"from {m[LOW]:.3g} to {m[HIGH]:.3g}" if m[LOW] <= m[HIGH] else ""
    if not m[NAN] and not m[INF]:
        return known or "no floating numbers"
    return _counts(int(m[NAN]), int(m[INF])) + (f", the rest {known}" if known else "")


def _counts(nan: int, inf: int) -> str:
    parts = [f"{nan} NaN"] * bool(nan) + [f"{inf} infinite"] * bool(inf)
    return " and ".join(parts)


def _rows_of(by_row: Any, spec: PyTree, rows: Rows, fold: int) -> tuple[tuple[int, ...], str]:
    """The rows that are not finite, if the measurement has a row for each of the batch."""
    # A mean over the batch, or a matrix of attention, has a first axis that is not the batch's.
    leads = {leaf.shape[:1] for leaf in jax.tree.leaves(spec)}
    if not rows.size or not leads <= {(rows.size,), (rows.size * fold,)}:
        return (), ""
    found = tuple((np.flatnonzero(by_row[:, [NAN, INF]].any(1)) + rows.start).tolist())
    return found, _rows_text(found, rows.whole) if found else ""


def _rows_text(found: tuple[int, ...], whole: int) -> str:
    if len(found) == whole:
        return f"all {whole}"
    shown = ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
    return f"{shown} ({len(found)} of {whole})"
