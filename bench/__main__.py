"""``make bench``, or ``python -m bench [row ...]``: the rows as a table."""

import sys

import jax
import rich
import rich.table

from .foundation import ROWS


def main(names: list[str]) -> None:
    unknown = set(names) - set(ROWS)
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    device = jax.devices()[0]
    table = rich.table.Table(
        "row",
        "question",
        "figure",
        "bound",
        "",
        title=f"jax {jax.__version__}, {device.device_kind}",
    )
    for name in names or ROWS:
        row = ROWS[name]()
        table.add_row(name, row.question, row.figure, row.bound, "" if row.holds else "MISSED")
    rich.print(table)


main(sys.argv[1:])
