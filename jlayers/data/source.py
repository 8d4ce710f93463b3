"""Anything that batches can be read from, as a source that can be resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, calling_user_code, public_api
from ..base.specs import format_short
from .epochs import Epochs, Once
from .loaders import grain_source, made_by, torch_source
from .positions import Source

_EXPECTED = "Batches, an iterable of batches, or a function of the epoch that gives one"


@public_api
def as_source(data: Any) -> Source:
    """What ``fit`` is given, as a source: ``read(position)`` gives batches from there on.

    ================================  ==========================================================
    ``data``                          epochs, and how it is resumed
    ================================  ==========================================================
    ``Batches``                       shuffled by key and epoch; resumed at once
    a function of the epoch           ``data(epoch)`` gives the iterable; read up to the position
    an iterable: a list, a dataset    each pass is an epoch; read up to the position
    an iterator, a generator          one epoch, read once; a fresh one is read up to the position
    ``torch.utils.data.DataLoader``   each pass; tensors become numpy arrays, without a copy
    grain's ``DataLoader``, datasets  each pass; resumed at once, by the state of its iterator
    ================================  ==========================================================

    To read up to the position again gives the same run only where the data comes in the same order
    again. A torch ``DataLoader`` that shuffles has to have a ``generator``, whose seed plus the
    epoch decides the order; one of PyTorch's global generator is refused. What a dataset itself
    draws at random is not resumed. A ``MapDataset`` of grain that shuffles does it anew each epoch.

    Iterables are read one batch ahead, so each batch needs memory of its own.

    Args:
      data: one of these, or any object with ``start``, ``rereads`` and ``read``.

    Raises:
      DataError: for anything else. ``read`` raises it where there is no batch, and where a
        position is none or beyond the end.

    >>> from jlayers import training
    >>> words = training.as_source([("a",), ("b",), ("c",)])
    >>> list(words.read([0, 2], epochs=2))
    [(('c',), [1, 0]), (('a',), [1, 1]), (('b',), [1, 2]), (('c',), [2, 0])]
    """
    if callable(getattr(data, "read", None)) and hasattr(data, "start"):
        return data  # type: ignore[no-any-return]
    adapted = None
    if made_by("torch", data):
        adapted = torch_source(data)
    elif made_by("grain", data):
        adapted = grain_source(data)
    if adapted is not None:
        return adapted
    _refuse_arrays(data)
    if isinstance(data, Iterator):
        return Once(data)
    if isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        return Epochs(lambda epoch: data)
    if callable(data):
        arguments.function("data", data, "epoch")
        return Epochs(lambda epoch: _called(data, epoch))
    raise DataError("the data is none", expected=_EXPECTED, got=format_short(data))


def _called(data: Any, epoch: int) -> Iterable[Any]:
    with calling_user_code("the function of the epoch", DataError):
        batches = data(epoch)
    if not isinstance(batches, Iterable):
        raise DataError(
            "the function of the epoch gave no iterable",
            expected=_EXPECTED,
            got=format_short(batches),
        )
    return batches


def _refuse_arrays(data: Any) -> None:
    arrays = (np.ndarray, jax.Array)
    whole = isinstance(data, tuple) and any(isinstance(item, arrays) for item in data)
    if isinstance(data, arrays) or whole:
        hint = "training.Batches((x, labels), 32, key=0)"
        raise DataError(
            "the data is arrays, not batches of them",
            expected=_EXPECTED,
            got=format_short(data),
            hint=hint,
        )
    if isinstance(data, dict | str | bytes):
        raise DataError("the data is none", expected=_EXPECTED, got=format_short(data))
