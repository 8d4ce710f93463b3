"""Tables of rich, as the text that ``str`` gives."""

from __future__ import annotations

import io

import rich.console
import rich.table


def table_text(table: rich.table.Table) -> str:
    """The table in plain characters, without blank lines."""
    text = io.StringIO()
    # Wide enough for any row: a pipe or a log file has no width of its own.
    rich.console.Console(file=text, width=200).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)
