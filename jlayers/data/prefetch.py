"""Reading ahead on a thread, and moving what was read to the device.

How to read this file: the thread runs ``_read``. Two queues join it to its reader: ``ready`` has
the items, ``room`` an entry for each item that may be read. A bounded ``queue.Queue`` would read
one item more than ``size``, and its locks in Python cost 2 to 4 microseconds an item.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeAlias, TypeVar

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, public_api
from ..base.specs import format_short
from . import host_arrays
from .ownership import owned_items, owns

T = TypeVar("T")
Device: TypeAlias = jax.Device | jax.sharding.Sharding
# Seconds that closing waits for a source that is busy with an item.
_PATIENCE = 1.0


@public_api
def prefetch(
    items: Iterable[T],
    size: int = 2,
    *,
    device: Device | None = None,
    put: Callable[[T], T] | None = None,
) -> Prefetched[T]:
    """The items of an iterable, read ahead on a thread, with their arrays on the device.

    The order is that of the source. An exception of the source is raised where its item would
    have been returned.

    The thread ends with the source, with ``close()``, at the end of a ``with`` block, when the
    iterator is garbage collected, and when Python exits. A source that is busy with an item
    (waiting for a network, say) cannot be interrupted: closing waits a second for it and then
    abandons it; the thread ends as soon as the source returns, and never keeps Python from
    exiting. The source is read on another thread than the one that created it.

    On a CPU ``jax.device_put`` would cost more than it saves, so arrays stay NumPy arrays. They are
    copied on the thread, since the source may write to them again, unless nothing else can.

    A process that is forked has no such thread: there the next item is a ``DataError``.

    Args:
      items: any iterable, of (batch, position) for instance.
      size: how many items may be read and not yet returned.
      device: a device or a sharding to put all arrays on; JAX's default device if None. Leaves
        that are not arrays stay as they are, positions for instance.
      put: ``put(item)``, called on the thread instead of this.

    Returns:
      An iterator with ``close()``, which is a context manager too.

    Raises:
      DataError: if ``items`` is not an iterable, and for a size below 1.

    >>> import numpy as np
    >>> from jlayers import data
    >>> batches = data.Batches((np.arange(6.0), np.arange(6)), 3)
    >>> with data.prefetch(batches.read(epochs=2)) as items:
    ...     for (x, label), position in items:
    ...         print(x, position)
    [0. 1. 2.] [0, 1]
    [3. 4. 5.] [1, 0]
    [0. 1. 2.] [1, 1]
    [3. 4. 5.] [2, 0]
    """
    size = arguments.positive("size", size)
    if not isinstance(items, Iterable):
        raise DataError("items must be an iterable", got=format_short(items))
    if put is not None:
        arguments.function("put", put, "item")
    own = iter(items) if owns(items) else owned_items(items)
    return Prefetched(own, size, put or put_on(device))


class _End:
    """Comes after the last item."""

    error: BaseException | None = None


def _nothing() -> None:
    pass


class Prefetched(Generic[T], Iterator[T]):
    """What ``prefetch`` returns: an iterator over what a thread reads ahead."""

    owns_memory = True

    def __init__(self, items: Iterator[T], size: int, put: Callable[[T], T]):
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = False
        for _ in range(size):
            self._room.put(None)
        stopped = threading.Event()
        # Those that a `with` block changes for its own thread alone.
        config: Any = jax.config
        settings = (config.jax_enable_x64, config.jax_default_device)
        # The thread must not refer to this object, which would never be garbage collected then.
        thread = threading.Thread(
            target=_read,
            args=(items, put, self._ready, self._room, stopped, settings),
            name="jlayers-prefetch",
            daemon=True,
        )
        self._stop: Callable[[], object] = weakref.finalize(
            self, _stop, thread, self._room, stopped
        )
        _alive.add(self)
        thread.start()

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        item = self._ready.get()
        if not isinstance(item, _End):
            self._room.put(None)
            return item
        # Joined here, so that the source can be used again as soon as its end is known.
        self.close()
        error, item.error = item.error, None
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame

    def _forked(self) -> None:
        """In a forked process, which has no such thread, and where its locks may be locked."""
        if isinstance(self._stop, weakref.finalize):
            self._stop.detach()
        self._stop = _nothing
        end = _End()
        end.error = DataError(
            "prefetch: these items are read by a thread of another process, which was forked",
            hint="call prefetch in the new process, or start it by 'spawn'",
        )
        self._ready, self._room = queue.SimpleQueue(), queue.SimpleQueue()
        self._ready.put(end)

    def close(self) -> None:
        """Ends the thread; no further items are returned."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _read(
    items: Iterator[T],
    put: Callable[[T], T],
    ready: queue.SimpleQueue[T | _End],
    room: queue.SimpleQueue[None],
    stopped: threading.Event,
    settings: tuple[bool, jax.Device | str | None],
) -> None:
    end = _End()
    try:
        with jax.enable_x64(settings[0]), jax.default_device(settings[1]):
            while room.get() is None and not stopped.is_set():
                item = next(items, end)
                if isinstance(item, _End):
                    break
                ready.put(put(item))
                del item  # it may be large, and there may be no room for long
    except BaseException as error:
        # Whatever it is: the reader waits for an item or the end, and would wait for ever.
        end.error = error
    # Also when closed: a reader on another thread may be waiting.
    ready.put(end)


def _stop(
    thread: threading.Thread, room: queue.SimpleQueue[None], stopped: threading.Event
) -> None:
    stopped.set()
    room.put(None)
    if thread is not threading.current_thread():  # the garbage collector runs on any thread
        thread.join(_PATIENCE)


def put_on(device: Device | None) -> Callable[[T], T]:
    on_host = device is None and jax.default_backend() == "cpu"

    def put(item: T) -> T:
        leaves, treedef = jax.tree.flatten(item)
        if on_host:
            leaves = [host_arrays.aligned(a) if isinstance(a, np.ndarray) else a for a in leaves]
        else:
            where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | jax.Array)]
            arrays = jax.device_put([leaves[i] for i in where], device)
            for i, array in zip(where, arrays, strict=True):
                leaves[i] = array
        result: T = jax.tree.unflatten(treedef, leaves)
        return result

    return put


# By the fork, and not by looking at the process at each item, which would cost each its time.
_alive: weakref.WeakSet[Prefetched[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for items in list(_alive):
        items._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
