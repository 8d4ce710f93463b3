"""histograms: how the numbers of each parameter are distributed, as a table or for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.paths import fitting, flatten
from ..base.patterns import Patterns, checked_patterns
from ..base.specs import format_spec
from ..base.types import PyTree
from .summary_columns import table_text

# From the lowest to the highest bin of a row.
_BARS = " ▁▂▃▄▅▆▇█"


class Histogram(NamedTuple):
    """The numbers of one array; what is not finite counts in ``size`` and ``non_finite`` alone.

    Attributes:
      counts: int64 (bins,), how many numbers are in each bin.
      edges: float64 (bins + 1,), from the smallest number to the largest, or around a single one.
      size: how many numbers there are.
      mean, std, smallest, largest: of the finite ones; NaN where there are none.
      zeros: how many are exactly zero.
      non_finite: how many are NaN or infinite.
    """

    counts: np.ndarray[Any, Any]
    edges: np.ndarray[Any, Any]
    size: int
    mean: float
    std: float
    smallest: float
    largest: float
    zeros: int
    non_finite: int

    @classmethod
    def of(cls, counts: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> Self:
        """A histogram of which the counts alone are known: moments are those of the bins' middles.

        Args:
          counts: (bins,), of finite numbers.
          edges: (bins + 1,).
        """
        size, middles = int(counts.sum()), (edges[:-1] + edges[1:]) / 2
        mean = float((counts * middles).sum() / size) if size else math.nan
        std = float(np.sqrt((counts * (middles - mean) ** 2).sum() / size)) if size else math.nan
        return cls(counts, edges, size, mean, std, float(edges[0]), float(edges[-1]), 0, 0)

    @property
    def bars(self) -> str:
        """A character for each bin, as high as its count; one number is never nothing."""
        most = max(int(self.counts.max(initial=0)), 1)
        steps = len(_BARS) - 1
        return "".join(_BARS[-(-int(count) * steps // most)] for count in self.counts)


class Histograms(dict[str, Histogram]):
    """Histograms by path; ``str`` and ``print`` give a table."""

    def __str__(self) -> str:
        return table_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> Any:
        import rich.box
        import rich.markup
        import rich.table

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for title in ("path", "numbers", "mean", "std", "smallest"):
            table.add_column(title, justify="left" if title == "path" else "right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for title in ("largest", "zeros", "not finite"):
            table.add_column(title, justify="right", no_wrap=True)
        for path, row in self.items():
            cells = (
                rich.markup.escape(path),
                f"{row.size:,}",
                f"{row.mean:.3g}",
                f"{row.std:.3g}",
                f"{row.smallest:.3g}",
                f"|{row.bars}|",
                f"{row.largest:.3g}",
                f"{row.zeros:,}" if row.zeros else "",
                f"{row.non_finite:,}" if row.non_finite else "",
            )
            table.add_row(*cells)
        return table

    def statistics(self) -> dict[str, float]:
        """The mean, the standard deviation, the zeros and the non-finite numbers by path.

        As metrics of a record: ``{"kernel/mean": 0.0, ...}``.
        """
        return {
            f"{path}/{name}": float(getattr(one, name))
            for path, one in self.items()
            for name in ("mean", "std", "zeros", "non_finite")
        }


@public_api
def histograms(params: PyTree, pattern: Patterns = "**", *, bins: int = 24) -> Histograms:
    """How the numbers of each array of a tree are distributed.

    Args:
      params: parameters, gradients, a state: nested dicts of arrays.
      pattern: paths to look at, one or a tuple, as for ``select``.
      bins: of equal widths, from the smallest finite number of an array to the largest.

    Returns:
      ``{path: Histogram}``, in the order of the paths; ``print`` it. ``records.tensorboard`` writes
      it: ``log.histograms(step, jl.inspection.histograms(params))``.

    Raises:
      LayerError: for a pattern that fits no path, and inside a program that is traced.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> params = {"dense": {"kernel": jnp.array([[-1.0, 0.0], [0.5, 1.0]]), "bias": jnp.zeros(2)}}
    >>> print(jl.inspection.histograms(params, bins=4))
     path           numbers    mean    std   smallest            largest   zeros   not finite
     ────────────────────────────────────────────────────────────────────────────────────────
     dense/bias           2       0      0          0   |  █ |         0       2
     dense/kernel         4   0.125   0.74         -1   |▄ ▄█|         1       1
    """
    bins = arguments.positive("bins", bins)
    leaves: Mapping[str, Any] = flatten(params)
    chosen = fitting(checked_patterns(pattern), leaves)
    return Histograms({path: _of(path, leaves[path], bins) for path in chosen})


def _of(path: str, leaf: Any, bins: int) -> Histogram:
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
        raise LayerError(
            f"{path} has no numbers to count",
            expected="arrays, outside of jit",
            got=format_spec(leaf),
        )
    if jax.numpy.issubdtype(leaf.dtype, np.complexfloating):
        raise LayerError(f"{path} is complex", hint="histograms of jnp.abs of it")
    # bfloat16 and float8 have no histogram of their own in NumPy.
    values = np.asarray(leaf).astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    counts, edges = np.zeros(bins, np.int64), np.zeros(bins + 1)
    mean = std = smallest = largest = float("nan")
    if finite.size:
        counts, edges = np.histogram(finite, bins)
        mean, std = float(finite.mean()), float(finite.std())
        smallest, largest = float(finite.min()), float(finite.max())
    lost = values.size - finite.size
    zeros = int((values == 0).sum())
    return Histogram(counts, edges, values.size, mean, std, smallest, largest, zeros, int(lost))
