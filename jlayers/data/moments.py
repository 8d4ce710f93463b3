"""Moments: the mean and the variance of the features of a data set, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, LayerError, public_api
from ..base.sequence import Sequence
from ..base.specs import format_spec
from .as_source import as_source
from .batches import Batches


@dataclass(frozen=True)
class Moments:
    """Of a data set, or of a part of it: ``a + b`` are those of both parts.

    Attributes:
      count: how many values each feature has.
      mean, var: arrays of the features' sizes, float64; ``var`` is divided by ``count``.
    """

    count: int
    mean: np.ndarray
    var: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.mean.shape != other.mean.shape:
            raise DataError(
                "moments of different features",
                expected=str(self.mean.shape),
                got=str(other.mean.shape),
            )
        count = self.count + other.count
        if not count:
            return self
        # By parts (Chan, Golub & LeVeque, 1979): no difference of large sums.
        share, apart = other.count / count, other.mean - self.mean
        mean = self.mean + apart * share
        var = self.var * (1 - share) + other.var * share + apart**2 * share * (1 - share)
        return Moments(count, mean, var)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state of a ``DataNorm``: mean and var as float32."""
        return {"mean": self.mean.astype(np.float32), "var": self.var.astype(np.float32)}


@public_api
def moments(
    data: Any, *, feature_axes: int | tuple[int, ...] = -1, select: Callable[..., Any] | None = None
) -> Moments:
    """The mean and the variance of each feature over one epoch of ``data``, each row once.

    What ``Batches(..., last="drop")`` leaves out is read too, and what ``last="pad"`` fills up
    counts once; the padding of a ``Sequence`` does not count. Sums are float64, batch by batch.

    Args:
      data: batches, as for ``as_source``; or one array, or one ``Sequence``.
      feature_axes: the axes whose entries have statistics of their own, as for ``DataNorm``.
      select: ``select(batch)`` gives the array or ``Sequence`` to look at: the batch itself by
        default, or its first entry.

    Raises:
      DataError: for data without a value, and for arrays of other things than real
        numbers, or that lack an axis.

    >>> import jax, numpy as np, jlayers as jl
    >>> from jlayers import data
    >>> x = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]], np.float32)
    >>> found = data.moments(data.Batches((x, np.arange(3)), 2))
    >>> found.count, found.mean.tolist(), found.var.round(3).tolist()
    (3, [2.0, 5.0], [2.667, 0.0])
    >>> model = jl.serial(jl.DataNorm(), jl.Dense(4))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> state["data_norm"] = found.state
    """
    axes = arguments.axes_or_none("feature_axes", feature_axes)
    total: Moments | None = None
    for x, rows in _parts(data, select):
        part = _of(x, rows, axes)
        total = part if total is None else total + part
    if total is None or not total.count:
        raise DataError("moments of no values", hint="at least one row, with a valid step")
    return total


def _parts(data: Any, select: Callable[..., Any] | None) -> Iterable[tuple[Any, Any]]:
    """Arrays or Sequences, each with the bools of its rows that count, or None."""
    if isinstance(data, Sequence) or hasattr(data, "shape"):
        yield (data if select is None else select(data)), None
        return
    source = as_source(data)
    padded = isinstance(source, Batches) and source._last == "pad"
    if isinstance(source, Batches):
        source = source.with_all_rows()
    for batch, _ in source.read(epochs=1):
        if select is not None:
            x = select(batch)
        else:
            x = batch[0] if isinstance(batch, tuple | list) else batch
        yield x, batch[-1] if padded else None


def _of(x: Any, rows: Any, feature_axes: tuple[int, ...]) -> Moments:
    values, mask = (x.values, x.mask) if isinstance(x, Sequence) else (x, None)
    if not hasattr(values, "shape"):
        raise DataError(
            "a batch must be one array, or begin with one",
            got=format_spec(x),
            hint="select=lambda batch: ...",
        )
    host = np.asarray(jax.device_get(values))
    try:
        arguments.real(host)
        own = arguments.axes_of(host, feature_axes)
    except LayerError as error:
        raise DataError(error.problem, got=format_spec(values)) from None
    kept = np.ones((1,) * host.ndim, bool)
    for flags in (mask, rows):
        if flags is not None:
            flags = np.asarray(flags)
            kept = kept & flags.reshape(*flags.shape, *(1,) * (host.ndim - flags.ndim))
    over = tuple(axis for axis in range(host.ndim) if axis not in own)
    if any(kept.shape[axis] > 1 for axis in own):
        raise DataError(
            f"feature_axes {feature_axes} have an axis of the mask", got=format_spec(values)
        )
    # In the shape of the axes that are summed: how many of them count.
    shape = tuple(1 if axis in own else size for axis, size in enumerate(host.shape))
    kept = np.broadcast_to(kept, shape)
    count = int(np.count_nonzero(kept))
    wide = np.where(kept, host.astype(np.float64), 0)
    mean = wide.sum(over, keepdims=True) / max(count, 1)
    var = np.where(kept, wide - mean, 0) ** 2
    features = tuple(host.shape[axis] for axis in sorted(own))
    return Moments(count, mean.reshape(features), (var.sum(over) / max(count, 1)).reshape(features))
