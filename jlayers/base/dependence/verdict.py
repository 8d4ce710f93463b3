"""What the analysis says of one output of a function.

How to read this file: ``Verdict`` is the answer, ``verdict`` makes it of the value that the walk
arrived at, ``worst`` joins what different sizes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from .domain import ALL, OWN, Cause, Sizes, Value, hull, length, varies
from .source import Source, source

Kind = Literal["each", "earlier", "mixed"]


class Why(NamedTuple):
    """Where and how it happens.

    Attributes:
      primitive: JAX's name of the operation, or "" for none.
      reason: in words, such as "reduces over time".
      source: the user's line of code, if known.
    """

    primitive: str
    reason: str
    source: Source | None

    def __str__(self) -> str:
        operation = f"`{self.primitive}` " if self.primitive else ""
        return f"{operation}{self.reason}" + (f" ({self.source})" if self.source else "")


class Verdict(NamedTuple):
    """How a step of an output depends on the steps of the inputs.

    Attributes:
      kind: "each" for its own step alone, "earlier" for it and steps before, else "mixed".
      window: step t depends on the steps from t + window[0] to t + window[1].
      rows: whether rows of the batch depend on each other.
      place: whether it depends on absolute positions, on the number of steps, or on that of rows.
      leads: whether its first two dimensions are the inputs' rows and steps.
      why: why it is not "each" without ``rows`` and ``place``: the steps' reason if there is one,
        else the rows', else that of ``place``.
      why_rows, why_place: the reasons of ``rows`` and ``place``.
      constant: whether nothing of the inputs is in it.
    """

    kind: Kind
    window: tuple[float, float]
    rows: bool
    place: bool
    leads: bool
    why: Why | None
    why_rows: Why | None = None
    why_place: Why | None = None
    constant: bool = False

    @property
    def is_per_step(self) -> bool:
        """Whether every step may be computed alone, wherever it is."""
        return self.kind == "each" and self.leads and not (self.rows or self.place)


def kind_of(window: tuple[float, float]) -> Kind:
    """The kind that a window of steps is of."""
    if window == OWN:
        return "each"
    return "earlier" if window[1] <= 0 else "mixed"


def verdict(value: Value, sizes: Sizes, lead: int = 2) -> Verdict:
    """What is known of an output."""
    place = value.place
    axes = value.axes
    if value.window is None and place is None:
        factors = [factor for axis in axes for factor in axis]
        if any(varies(factor.size) and not factor.same for factor in factors):
            place = Cause((), "", "a constant that differs from step to step")
    # By length: rows (steps) that met are no longer told from other dimensions that vary with them.
    leads = [length(axis) for axis in axes[:lead]] == [sizes.rows, sizes.steps][-lead:]
    window = value.window or OWN
    # Without a batch no rows can meet.
    rows = value.rows if lead == 2 else None
    found = _verdict(window, leads, value.steps, rows, place)
    return found._replace(constant=value.constant)


def all_mixed(cause: Cause, leads: bool) -> Verdict:
    """The verdict where nothing is known."""
    return _verdict(ALL, leads, cause, cause, cause)


def _verdict(
    window: tuple[float, float],
    leads: bool,
    steps: Cause | None,
    rows: Cause | None,
    place: Cause | None,
) -> Verdict:
    kind = kind_of(window)
    reasons = [
        cause and why_of(cause) for cause in (None if kind == "each" else steps, rows, place)
    ]
    why = next((reason for reason in reasons if reason), None)
    if why is None and not leads:
        why = Why("", "steps and rows are no longer its first two axes", None)
    return Verdict(
        kind, window, rows is not None, place is not None, leads, why, reasons[1], reasons[2]
    )


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """What holds at all sizes that were compared."""
    first = verdicts[0]
    window = hull(verdict.window for verdict in verdicts) or OWN
    kind = kind_of(window)
    why_rows = next((v.why_rows for v in verdicts if v.why_rows), None)
    why_place = next((v.why_place for v in verdicts if v.why_place), None)
    why_steps = next((v.why for v in verdicts if v.kind == kind and kind != "each"), None)
    why_steps = why_steps or next((v.why for v in verdicts if v.kind != "each"), None)
    return Verdict(
        kind,
        window,
        any(verdict.rows for verdict in verdicts),
        any(verdict.place for verdict in verdicts),
        all(verdict.leads for verdict in verdicts),
        why_steps or why_rows or why_place or first.why,
        why_rows,
        why_place,
        all(verdict.constant for verdict in verdicts),
    )


def why_of(cause: Cause) -> Why:
    """Where and how something happens, for an error."""
    return Why(cause.primitive, cause.reason, source(cause))
