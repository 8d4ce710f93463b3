"""Reading ahead on a thread: order, exceptions, how far, and the end of the thread."""

import gc
import itertools
import signal
import sys
import threading
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlayers import training

X = np.arange(33, dtype=np.float32).reshape(11, 3)


class Reads:
    """Counts the items that were read."""

    def __init__(self, count=None):
        self.count, self.read = count, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.read == self.count:
            raise StopIteration
        self.read += 1
        return np.full(2, self.read), [0, self.read]


def until(condition):
    """Waits for another thread, up to 10 seconds."""
    for _ in range(2000):
        if condition():
            return True
        time.sleep(0.005)
    return False


def threads():
    return [t for t in threading.enumerate() if t.name == "jlayers-prefetch" and t.is_alive()]


@pytest.fixture
def no_thread_left():
    assert until(lambda: not threads())
    yield
    assert until(lambda: not threads())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_prefetch_keeps_the_order(size, no_thread_left):
    got = training.prefetch(Reads(50), size)
    assert [(int(x[0]), position) for x, position in got] == [(i, [0, i]) for i in range(1, 51)]
    assert list(got) == []


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_prefetch_reads_no_further_than_its_size(size, no_thread_left):
    source = Reads()
    with training.prefetch(source, size) as items:
        for taken in range(10):
            assert until(lambda least=taken + size: source.read >= least)
            time.sleep(0.002)
            assert source.read <= taken + size
            next(items)


def test_prefetch_raises_exceptions_in_the_place_of_their_item(no_thread_left):
    def source():
        yield 1
        yield 2
        raise KeyError("lost")

    items = training.prefetch(source())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="lost") as caught:
        next(items)
    assert "source" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert list(items) == []

    def refuse(item):
        raise StopIteration

    with pytest.raises(StopIteration):
        next(training.prefetch([1], put=refuse))


def test_an_early_stop_ends_the_thread_and_the_source(no_thread_left):
    closed = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    for item in training.prefetch(source()):
        if item == 3:
            break
    del item
    gc.collect()
    assert until(lambda: closed == ["jlayers-prefetch"])
    items = training.prefetch(source())
    next(items)
    items.close()
    items.close()
    assert threads() == []
    assert list(items) == []
    assert len(closed) == 2


def test_ctrl_c_interrupts_waiting_for_an_item(no_thread_left):
    started, come_back = threading.Event(), threading.Event()

    def source():
        assert started.wait(60)
        time.sleep(0.1)  # a signal before the wait would be handled only after it
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        yield come_back.wait(5)

    def wait_for_an_item():
        started.set()
        next(items)

    items = training.prefetch(source())
    with pytest.raises(KeyboardInterrupt):
        wait_for_an_item()
    come_back.set()
    items.close()
    assert threads() == []


def test_closing_does_not_wait_for_a_source_that_blocks(no_thread_left, monkeypatch):
    monkeypatch.setattr(sys.modules["jlayers.data.prefetch"], "_PATIENCE", 0.01)
    come_back, waiting = threading.Event(), threading.Event()

    def source():
        waiting.set()
        yield come_back.wait(60)

    items = training.prefetch(source())
    assert waiting.wait(60)
    items.close()
    assert len(threads()) == 1
    come_back.set()


def test_prefetch_puts_arrays_on_the_device(no_thread_left):
    second = jax.devices()[1]
    ((batch, text), position) = next(training.prefetch([((X, "text"), [0, 1])], device=second))
    assert (text, position) == ("text", [0, 1])
    assert batch.devices() == {second}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    (batch,) = next(training.prefetch([(np.zeros((4, 3)),)], device=sharding))
    assert batch.sharding == sharding
    (batch,) = next(training.prefetch([(X,)], put=lambda item: (item[0] + 1,)))
    np.testing.assert_array_equal(batch, X + 1)


def test_the_thread_has_the_settings_of_its_creator(no_thread_left):
    def source():
        yield jnp.zeros(2), jnp.zeros(2, "float64")

    with jax.enable_x64(True), jax.default_device(jax.devices()[1]):
        items = training.prefetch(source(), device=jax.devices()[1])
    x, y = next(items)
    assert (x.devices(), y.dtype) == ({jax.devices()[1]}, jnp.float64)
