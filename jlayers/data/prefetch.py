"""Reading ahead on a thread, and putting what was read on the device."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from ..base import arguments
from ..base.errors import DataError, public_api
from ..base.specs import format_short
from . import host_arrays

T = TypeVar("T")
# Seconds for which closing waits for a source that is in the middle of an item.
_PATIENCE = 1.0


@public_api
def prefetch(
    items: Iterable[T],
    size: int = 2,
    *,
    device: Any = None,
    put: Callable[[T], T] | None = None,
) -> Prefetched[T]:
    """The items of an iterable, read ahead on a thread, with their arrays on the device.

    The order stays. An exception of the source comes out where its item would have come.

    The thread ends with the source, with ``close()``, at the end of a ``with`` block, when the
    iterator is no longer referred to, and when Python exits. A source that is in the middle of an
    item (waiting for a network, say) cannot be interrupted: closing waits a second for it and then
    leaves it to itself; the thread ends as soon as the source comes back, and never keeps Python
    from exiting. The source is read on another thread than the one that made it.

    On a CPU ``jax.device_put`` would cost more than it saves, and arrays stay numpy's; large ones
    that JAX would have to copy are copied here, on the thread. They must not be written to later.

    Args:
      items: any iterable, of (batch, position) for instance.
      size: how many items may be read, and not yet taken.
      device: a device or a sharding to put all arrays on; JAX's default device if None. What is no
        array stays as it is, positions for instance.
      put: ``put(item)``, called on the thread in the place of this.

    Returns:
      An iterator with ``close()``, which is a context manager too.

    Raises:
      DataError: for what is no iterable, and for a size below 1.

    >>> import numpy as np
    >>> from jlayers import training
    >>> batches = training.Batches((np.arange(6.0), np.arange(6)), 3)
    >>> with training.prefetch(batches.read(epochs=2)) as items:
    ...     for (x, label), position in items:
    ...         print(x, position)
    [0. 1. 2.] [0, 1]
    [3. 4. 5.] [1, 0]
    [0. 1. 2.] [1, 1]
    [3. 4. 5.] [2, 0]
    """
    size = arguments.positive("size", size)
    if not isinstance(items, Iterable):
        raise DataError("takes an iterable", got=format_short(items))
    if put is None:
        put = _put_on(device)
    else:
        arguments.function("put", put, "item")
    return Prefetched(iter(items), size, put)


class Prefetched(Generic[T], Iterator[T]):
    """What ``prefetch`` gives: an iterator over what a thread reads ahead."""

    def __init__(self, items: Iterator[T], size: int, put: Callable[[T], T]):
        shared = self._shared = _Shared()
        shared.room.put(size)
        # To wake the thread costs the reader more than an item does: once for half of the room.
        self._half = self._left = max(1, size // 2)
        self._over = False
        # Nothing in it may refer to this object, or it would never be found unused.
        arguments = (shared, items, put, _Settings())
        thread = threading.Thread(
            target=_read, args=arguments, name="jlayers-prefetch", daemon=True
        )
        self._finish = weakref.finalize(self, _stop, shared, thread)
        thread.start()

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item = self._shared.ready.get()
        if type(item) is not _Over:
            self._left -= 1
            if not self._left:
                self._left = self._half
                self._shared.room.put(self._half)
            return item  # type: ignore[no-any-return]
        self.close()
        error, item.error = item.error, None
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error  # whose traceback refers to this frame

    def close(self) -> None:
        """Ends the thread; nothing comes any more."""
        self._over = True
        self._finish()

    def __enter__(self) -> Prefetched[T]:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


class _Shared:
    """What the thread and its reader share: queues in C, for a lock costs each item more."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # How many further items may be read.
        self.room: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.stopped = False

    def places(self) -> Iterator[None]:
        """Comes once for each item, as soon as there is room for it, until nobody reads."""
        while not self.stopped:
            for _ in range(self.room.get()):
                if self.stopped:
                    return
                yield


class _Over:
    """Comes after the last item."""

    def __init__(self) -> None:
        self.error: BaseException | None = None


class _Settings:
    """Those of JAX's settings that a ``with`` block makes for its own thread alone."""

    def __init__(self) -> None:
        self.x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        self.device = jax.config.jax_default_device  # type: ignore[attr-defined]


def _read(shared: _Shared, items: Iterator[T], put: Callable[[T], T], settings: _Settings) -> None:
    over = _Over()
    try:
        with jax.enable_x64(settings.x64), jax.default_device(settings.device):
            for _ in shared.places():
                item: Any = next(items, over)
                if item is over:
                    break
                shared.ready.put(put(item))
                del item  # which may be large, while waiting for room
    except BaseException as error:
        over.error = error
    # A reader on another thread than the one that closes may be waiting.
    shared.ready.put(over)


def _stop(shared: _Shared, thread: threading.Thread) -> None:
    shared.stopped = True
    shared.room.put(0)
    if thread is not threading.current_thread():  # where the garbage collector may run
        thread.join(_PATIENCE)


def _put_on(device: Any) -> Callable[[T], T]:
    if device is None and jax.default_backend() == "cpu":

        def move(arrays: list[Any]) -> list[Any]:
            return [host_arrays.aligned(a) if isinstance(a, np.ndarray) else a for a in arrays]
    else:

        def move(arrays: list[Any]) -> list[Any]:
            return jax.device_put(arrays, device)  # type: ignore[no-any-return]

    def put(item: T) -> T:
        leaves, treedef = jax.tree.flatten(item)
        where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | jax.Array)]
        for i, array in zip(where, move([leaves[i] for i in where]), strict=True):
            leaves[i] = array
        return jax.tree.unflatten(treedef, leaves)  # type: ignore[no-any-return]

    return put
