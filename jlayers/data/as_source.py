"""Anything that gives batches, as a source that can be resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, calling_user_code, public_api
from ..base.specs import format_short
from ..base.types import PyTree
from .epochs import Epochs, OneEpoch
from .loaders import grain_source, is_from, torch_source
from .source import Source

_EXPECTED = "Batches, an iterable of batches, or a function of the epoch that returns one"


@public_api
def as_source(data: object) -> Source:
    """A source of what ``fit`` takes as data: ``read(position)`` gives batches from there on.

    ================================  ==========================================================
    ``data``                          epochs, and how they are resumed
    ================================  ==========================================================
    ``Batches``                       shuffled by key and epoch; resumed at once
    a function of the epoch           ``data(epoch)`` returns the iterable; read up to the position
    an iterable: a list, a dataset    each pass is an epoch; read up to the position
    an iterator, a generator          one epoch, read once; a new one is read up to the position
    ``torch.utils.data.DataLoader``   each pass; tensors become NumPy arrays
    grain's ``DataLoader``, datasets  each pass; resumed at once, by the state of its iterator
    ================================  ==========================================================

    Reading up to the position again resumes exactly only if the data comes in the same order
    again. A torch ``DataLoader`` that shuffles must have a ``generator``, whose seed plus the
    epoch decides the order; one that uses the global generator is refused. Random numbers that a
    dataset itself draws are not resumed. A grain ``MapDataset`` that shuffles does so again in each
    epoch.

    Iterables are read one batch ahead. A batch of NumPy arrays is copied, as its source may fill
    the same memory again, unless nothing else can write to it: lists of batches, read-only arrays,
    arrays that nothing else refers to.

    Args:
      data: one of these, or any object with ``start``, ``rereads`` and ``read``.

    Raises:
      DataError: for anything else. ``read`` raises it if there is no batch, and for a position
        that is invalid or past the end.

    >>> from jlayers import data
    >>> words = data.as_source([("a",), ("b",), ("c",)])
    >>> list(words.read([0, 2], epochs=2))
    [(('c',), [1, 0]), (('a',), [1, 1]), (('b',), [1, 2]), (('c',), [2, 0])]
    """
    if callable(getattr(data, "read", None)) and hasattr(data, "start"):
        return data  # type: ignore[return-value]
    # First, as loaders are iterable too, but are resumed exactly only in a way of their own.
    for package, adapt in (("torch", torch_source), ("grain", grain_source)):
        if is_from(package, data) and (adapted := adapt(data)) is not None:
            return adapted
    # Before iterables: an array would be read row by row, a dict key by key.
    _refuse_arrays(data)
    if isinstance(data, Iterator):
        return OneEpoch(data)
    # Python also iterates over what has __getitem__ alone, as datasets of PyTorch do.
    if isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        return Epochs(lambda epoch: data)  # type: ignore[arg-type, return-value]
    if callable(data):
        arguments.function("data", data, "epoch")
        return Epochs(lambda epoch: _call(data, epoch))
    raise DataError("unsupported data", expected=_EXPECTED, got=format_short(data))


def _call(data: object, epoch: int) -> Iterable[PyTree]:
    with calling_user_code("the function of the epoch", DataError):
        batches: object = data(epoch)  # type: ignore[operator]
    if not isinstance(batches, Iterable):
        raise DataError(
            "the function of the epoch must return an iterable",
            expected=_EXPECTED,
            got=format_short(batches),
        )
    return batches


def _refuse_arrays(data: object) -> None:
    arrays = (np.ndarray, jax.Array)
    has_arrays = isinstance(data, tuple) and any(isinstance(item, arrays) for item in data)
    if isinstance(data, arrays) or has_arrays:
        raise DataError(
            "the data is arrays, not batches of them",
            expected=_EXPECTED,
            got=format_short(data),
            hint="training.Batches((x, labels), 32, key=0)",
        )
    if isinstance(data, dict | str | bytes):
        raise DataError("unsupported data", expected=_EXPECTED, got=format_short(data))
