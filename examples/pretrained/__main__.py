"""Run by `make pretrained`: every network beside its original, and a table of differences.

``python -m examples.pretrained magika`` runs one of them. A module beside this one has a function
``results()`` that yields a ``wheels.Result`` for each file that it rebuilds.
"""

import importlib
import pathlib
import sys

from . import wheels

NETWORKS = sorted(
    path.stem
    for path in pathlib.Path(__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "__main__", "wheels", "speech", "fine_tune")
)
LIMIT = 1e-5


def main(names: list[str]) -> int:
    """The exit status: 1 where an output differs by more than the limit, or a file is missing."""
    rows, failed = [], False
    for name in names or NETWORKS:
        try:
            results = importlib.import_module(f"{__package__}.{name}").results()
            for result in results:
                streamed = "" if result.streamed is None else f"{result.streamed:.1e}"
                numbers = f"{result.difference:.1e}", f"{result.scale:.3g}", streamed
                rows.append((*result[:3], *numbers))
                # Written so that NaN fails too.
                failed |= not result.difference <= LIMIT
        except wheels.MissingFileError as error:
            rows.append((name, "", str(error), "", "", ""))
            failed = True
    head = ("network", "original", "inputs", "largest difference", "outputs up to", "streamed")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
