"""Metrics over steps, as a picture."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from ..base.errors import TrainingError, public_api, truncate
from ..base.specs import format_short
from .jsonl import read_json_lines
from .record import Record

_EVAL = "eval/"
_COLORS = {"train": "tab:blue", "eval": "tab:orange"}
# Up to so many points have markers, so that a single one is visible.
_FEW = 40

Points = list[tuple[int, float]]


@public_api
def learning_curve(
    records: Iterable[Record] | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
) -> None:
    """Draws metrics over steps into a PNG file, one below the other.

    What the training and the evaluation give of the same metric ("loss" and "eval/loss") shares
    one pair of axes. An axis is logarithmic where half of its values would lie in the lowest tenth
    of a linear one. Values that are not finite are crosses at the top.

    Args:
      records: of one training, or the path of the file that ``json_lines`` wrote.
      path: of the picture; the folders above it are made.
      metrics: names without "eval/", in the order wanted; all by default.

    Raises:
      TrainingError: where matplotlib is not installed, where there is no record or no such metric,
        and where the picture cannot be written.

    >>> import pathlib, tempfile
    >>> from jlayers import training
    >>> records = [
    ...     training.Record(10 * i, 0, {"loss": 1 / i, "eval/loss": 2 / i}, 1.0 * i, 10.0)
    ...     for i in range(1, 9)
    ... ]
    >>> path = pathlib.Path(tempfile.mkdtemp(), "curve.png")
    >>> training.learning_curve(records, path)
    >>> path.read_bytes()[:4]
    b'\\x89PNG'
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainingError(
            "the package matplotlib is not installed", hint="pip install matplotlib"
        ) from None
    if isinstance(records, str | os.PathLike):
        records = read_json_lines(records)
    series = _series(records)
    names = _names(series, metrics)
    # Not pyplot, which would keep the figure, and choose a window system.
    figure = Figure(figsize=(6.4, 0.8 + 2.4 * len(names)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        _draw(axis, name, {"train": series.get(name, []), "eval": series.get(_EVAL + name, [])})
    axes[-1].set_xlabel("steps taken")
    file = os.path.realpath(os.fspath(path))
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        figure.savefig(file, format="png")
    except OSError as error:
        raise TrainingError(
            f"the picture {os.fspath(path)} cannot be written",
            got=f"{type(error).__name__}: {error.strerror}",
        ) from None


def _series(records: Iterable[Record]) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for record in records:
        if not isinstance(record, Record):
            raise TrainingError(
                "records holds something else",
                expected="Records, or the path of a file that json_lines wrote",
                got=format_short(record),
            )
        for name, value in record.metrics.items():
            series.setdefault(name, []).append((record.step, value))
    if not series:
        raise TrainingError("there is no record with metrics to draw")
    return series


def _names(series: dict[str, Points], wanted: Sequence[str] | None) -> list[str]:
    there = list(dict.fromkeys(name.removeprefix(_EVAL) for name in series))
    if wanted is None:
        return there
    for name in wanted:
        if name not in there:
            raise TrainingError(
                f"no record holds the metric {name!r}",
                expected=truncate("some of " + ", ".join(map(repr, there))),
                hint=repr(name.removeprefix(_EVAL)) if name.startswith(_EVAL) else None,
            )
    return list(wanted)


def _draw(axis: Any, name: str, curves: dict[str, Points]) -> None:
    finite: list[float] = []
    for label, points in curves.items():
        good = [value for _, value in points if math.isfinite(value)]
        bad = [step for step, value in points if not math.isfinite(value)]
        finite += good
        color = _COLORS[label]
        if good:
            marker = "." if len(good) <= _FEW else ""
            # NaN, and NaN instead of an infinity, is a gap in the line.
            line = [(step, value if math.isfinite(value) else math.nan) for step, value in points]
            axis.plot(*zip(*line, strict=True), color=color, marker=marker, label=label)
        if bad:
            # At the top of the axes whatever the range of the finite values is, which may be none.
            style = {"transform": axis.get_xaxis_transform(), "clip_on": False}
            label = f"{label}, not finite"
            axis.plot(bad, [1.0] * len(bad), "x", color=color, label=label, **style)
    # A name with dollar signs is not a formula.
    axis.set_ylabel(name, parse_math=False)
    if _needs_log(finite):
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend()


def _needs_log(values: list[float]) -> bool:
    if not values:
        return False
    # Less than a decade is as readable on a linear axis, and zero has no place on the other.
    low, high = min(values), max(values)
    crowded = statistics.median(values) < low + (high - low) / 10
    return 0 < 10 * low < high and crowded
