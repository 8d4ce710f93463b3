"""The columns of a summary, and numbers as texts.

How to read this file: ``COLUMNS`` has each column once, for a table of characters and for HTML;
``cells_of`` makes the texts of both.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.receptive_field import ReceptiveField
from ..base.specs import format_spec
from ..core.dtypes import is_symbolic

# Otherwise where a table is drawn: it is a large part of what importing jlayers adds to JAX.
if TYPE_CHECKING:
    import rich.console

# What ``summary(columns=)`` takes.
MORE = ("share", "activations", "receptive_field")
# The text of a cell, and whether it is a number, which is aligned right.
Cell = tuple[str, bool]


class Column(NamedTuple):
    """A column of the table.

    Attributes:
      title: over it.
      shown: whether a summary has it.
      cell: its text for a row of a summary.
      total: its text for the whole.
      number: whether it is aligned right.
    """

    title: str
    shown: Callable[[Any], bool]
    cell: Callable[[Any, Any], str]
    total: Callable[[Any], str]
    number: bool = True


def _always(_: Any) -> bool:
    return True


def _share(part: Any, whole: Any) -> str:
    numbers = isinstance(part, int | float) and isinstance(whole, int | float)
    # A symbolic share is of use to no one.
    if not (numbers and part and whole):
        return ""
    return f"{100 * part / whole:.1f}%"


def _size(field: ReceptiveField | None) -> str:
    return "" if field is None else _steps(field.size)


def _latency(field: ReceptiveField | None) -> str:
    return "" if field is None else _steps(field.latency)


def _steps(number: Any) -> str:
    return f"{float(number):g}"


COLUMNS = (
    Column("path", _always, lambda row, _: row.path, lambda _: "total", False),
    Column("layer", _always, lambda row, _: row.layer, lambda _: "", False),
    Column(
        "output",
        _always,
        lambda row, _: "" if row.output is None else format_spec(row.output),
        lambda of: format_spec(of.output),
        False,
    ),
    Column(
        "parameters",
        _always,
        lambda row, _: f"{row.parameters:,}" if row.parameters else "",
        lambda of: f"{of.parameters:,}",
    ),
    Column(
        "bytes",
        _always,
        lambda row, _: size_text(row.bytes) if row.bytes else "",
        lambda of: size_text(of.bytes),
    ),
    Column(
        "FLOPs",
        _always,
        lambda row, _: count_text(row.flops) if row.flops != 0 else "",
        lambda of: count_text(of.flops),
    ),
    Column(
        "of FLOPs",
        lambda of: "share" in of.columns,
        lambda row, of: _share(row.flops, of.flops),
        lambda _: "",
    ),
    Column(
        "activations",
        lambda of: of.activations is not None,
        lambda row, _: size_text(row.activations) if row.activations else "",
        lambda of: size_text(of.activations),
    ),
    Column(
        "field",
        lambda of: "receptive_field" in of.columns,
        lambda row, _: _size(row.receptive_field),
        lambda of: _size(of.receptive_field),
    ),
    Column(
        "latency",
        lambda of: "receptive_field" in of.columns,
        lambda row, _: _latency(row.receptive_field),
        lambda of: _latency(of.receptive_field),
    ),
    Column(
        "time",
        lambda of: of.seconds is not None,
        lambda row, _: "" if row.seconds is None else time_text(row.seconds),
        lambda of: time_text(of.seconds),
    ),
    Column(
        "of time",
        lambda of: of.seconds is not None,
        lambda row, of: _share(row.seconds, of.seconds),
        lambda of: _share(of.layer_seconds, of.seconds),
    ),
)


def cells_of(summary: Any) -> list[list[Cell]]:
    """The titles, a row for each layer and for what is between them, and the sums."""
    columns = [column for column in COLUMNS if column.shown(summary)]
    rows = [*summary.rows, *_between(summary)]
    return [
        [(column.title, column.number) for column in columns],
        *([(column.cell(row, summary), column.number) for column in columns] for row in rows),
        [(column.total(summary), column.number) for column in columns],
    ]


def _between(summary: Any) -> list[Any]:
    """What the model does between its layers, such as the sum in ``residual``, if it does."""
    flops = summary.flops - sum(row.flops for row in summary.rows)
    stored = (summary.activations or 0) - sum(row.activations or 0 for row in summary.rows)
    if flops == 0 and stored == 0:
        return []
    named = summary.rows[0]._replace(
        path="",
        layer="(between layers)",
        output=None,
        parameters=0,
        bytes=0,
        flops=flops,
        activations=stored,
        receptive_field=None,
        seconds=None,
    )
    return [named]


def table_html(summary: Any) -> str:
    """A summary as a table of HTML, without scripts."""
    header, *rows, footer = cells_of(summary)

    def line(cells: list[Cell], tag: str) -> str:
        sides = [(text, "right" if number else "left") for text, number in cells]
        found = [f'<{tag} style="text-align:{x}">{html.escape(text)}</{tag}>' for text, x in sides]
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody>"
        f"<tfoot>{line(footer, 'th')}</tfoot></table>"
    )


def time_text(seconds: float) -> str:
    """Seconds in the largest fitting of us, ms, s, with three digits."""
    value, unit = _scaled(round(seconds * 1e9), 1000, ("ns", "us", "ms", "s"))
    return f"{value:.3g} {unit}"


def size_text(size: int) -> str:
    """Bytes in the largest fitting of B, KiB, MiB, GiB."""
    value, unit = _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count_text(count: int) -> str:
    """A count with three digits and k, M, G or T; a symbolic one as a formula."""
    if is_symbolic(count):
        return str(count)
    value, unit = _scaled(count, 1000, ("", "k", "M", "G", "T", "P"))
    return f"{value:.0f}" if not unit else f"{value:.3g} {unit}"


def _scaled(number: int, step: int, units: tuple[str, ...]) -> tuple[float, str]:
    """The number in the first of the ``units`` in which it is below ``step``, or in the last."""
    power = next((i for i in range(len(units)) if number < step ** (i + 1)), len(units) - 1)
    return number / step**power, units[power]


def table_text(table: rich.console.RenderableType) -> str:
    """The table in plain characters, without blank lines."""
    import rich.console

    text = io.StringIO()
    # Wide enough for any row: a pipe or a log file has no width of its own.
    rich.console.Console(file=text, width=1000).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)
