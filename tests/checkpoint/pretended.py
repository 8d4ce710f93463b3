"""Processes that are threads of this one: each device, or every second one, belongs to another."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import jax

import jlayers as jl
from jlayers import checkpoint
from jlayers.base.errors import ProcessError
from jlayers.checkpoint.group import Group


class Pretended(Group):
    """One of several processes; ``devices`` of the four belong to each."""

    patience = 10.0
    count = index = 0

    def __init__(self, meeting, count, index):
        super().__init__()
        self.count, self.index, self._meeting = count, index, meeting
        self.wheres = []

    def together(self, where, do):
        # One after the other: JAX's shards are not for two threads at once.
        def alone():
            with self._meeting.lock:
                return do()

        return super().together(where, alone)

    def owner(self, device):
        return device.id * self.count // 4

    def exchange(self, where, value):
        self.wheres.append(where)
        return self._meeting.exchange(self.index, where, value)

    def agree(self, where, facts):
        found = self.exchange(where, dict(facts))
        names = dict.fromkeys(name for one in found for name in one)
        for name in names:
            if len({one.get(name) for one in found}) > 1:
                raise ProcessError(f"{where}: the processes differ in {name}")


class Meeting:
    """Where as many threads as there are processes exchange values."""

    def __init__(self, count):
        self._barrier = threading.Barrier(count)
        self._given = [None] * count
        self.lock = threading.Lock()

    def exchange(self, index, where, value):
        self._given[index] = (where, json.dumps(value))
        self._barrier.wait(20)
        given = list(self._given)
        self._barrier.wait(20)
        assert len({where for where, _ in given}) == 1, given
        return [json.loads(text) for _, text in given]

    def leave(self):
        self._barrier.abort()


def each(count, do):
    """Calls ``do`` for each of so many processes at once: what they return, or raise."""
    meeting = Meeting(count)

    def one(index):
        try:
            return do(Pretended(meeting, count, index))
        except jl.JlayersError as error:
            return error
        except BaseException:
            meeting.leave()  # a test that fails is not waited for
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def manager(group, folder, **options):
    """A manager that takes its processes to be those of a group."""

    class Manager(checkpoint.CheckpointManager):
        _processes = staticmethod(lambda: group)

    return Manager(folder, **options)


def mesh(*shape):
    """A mesh of the first devices."""
    names = ("data", "model", "stage")[: len(shape)]
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(
        shape, names, devices=devices, axis_types=(jax.sharding.AxisType.Auto,) * len(shape)
    )
