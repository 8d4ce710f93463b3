"""A row of the benchmark: an operation with its shape and dtype, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """What is measured.

    Args:
      name: unique, and what users type.
      group: the rows that are shown and stored together.
      op: a key of ``bench.ops.OPS``, which knows the arithmetic.
      x: the input's shape, (batch, ..., channels).
      options: the operation's own arguments.
      dtype: of the input, the parameters and the result.
    """

    name: str
    group: str
    op: str
    x: tuple[int, ...]
    options: Mapping[str, Any]
    dtype: str = "float32"

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def described(self) -> dict[str, Any]:
        """Everything its figures depend on, apart from the machine and the versions."""
        return {"op": self.op, "x": self.x, "options": dict(self.options), "dtype": self.dtype}

    def replace(self, x: tuple[int, ...], **options: Any) -> "Row":
        """The same operation on another shape."""
        return dataclasses.replace(self, x=x, options={**self.options, **options})
