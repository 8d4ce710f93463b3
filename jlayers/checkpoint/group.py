"""The processes that save and restore together, and how they come to the same end.

How to read this file: ``Group`` knows how many processes there are and what is whose;
``Group.together`` does something on each and raises on all of them where it fails on one, so that
none goes on alone and is waited for in vain. With one process all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from ..base import processes
from ..base.errors import CheckpointError, JlayersError, ProcessError

T = TypeVar("T")
_DETAILS = ("expected", "got", "hint")


class CorruptCheckpointError(CheckpointError):
    """A checkpoint is not what was written, or cannot be read."""

    __module__ = "jlayers.checkpoint"


class Group:
    """The processes of ``jax.distributed``."""

    def __init__(self) -> None:
        self._owners: dict[jax.sharding.Sharding, frozenset[int]] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return processes.count()

    @property
    def index(self) -> int:
        """Which of them this is."""
        return processes.index()

    @property
    def patience(self) -> float:
        """Seconds to wait for another one."""
        return processes.patience()

    def owner(self, device: jax.Device) -> int:
        """Whose device it is."""
        owner: int = device.process_index
        return owner

    def owners(self, sharding: jax.sharding.Sharding) -> frozenset[int]:
        """Whose devices an array is on."""
        # Trees have many arrays, on thousands of devices, and few shardings.
        if sharding not in self._owners:
            self._owners[sharding] = frozenset(map(self.owner, sharding.device_set))
        return self._owners[sharding]

    def exchange(self, where: str, value: Any) -> list[Any]:
        """What each of them gives."""
        return processes.exchange(where, value)

    def agree(self, where: str, facts: Mapping[str, str]) -> None:
        """Raises where a fact is not the same on all of them."""
        processes.agree(where, facts)

    def together(self, where: str, do: Callable[[], Any]) -> list[Any]:
        """Calls ``do`` on each, and returns what each call returned, in order.

        Args:
          where: what the processes do there, for the error of one that does not come.
          do: returns a JSON value.

        Raises:
          JlayersError: on all of them, where one call raised: the same kind of error everywhere.
        """
        if self.count == 1:
            return [do()]
        value, error = None, None
        try:
            value = do()
        except Exception as raised:
            error = raised
        outcomes = self.exchange(where, {"value": value, "error": error and _told(error)})
        first = _first([outcome["error"] for outcome in outcomes])
        if first is None:
            return [outcome["value"] for outcome in outcomes]
        if error is not None and first == self.index:
            raise error
        raise _retold(first, outcomes[first]["error"])

    def decided(self, where: str, decide: Callable[[], T]) -> T:
        """What ``decide`` returns on the first process, a JSON value."""
        found: T = self.together(where, lambda: decide() if self.index == 0 else None)[0]
        return found


# What follows a failed read depends on these, and must be the same on all processes.
def _kind(error: Exception) -> str:
    if isinstance(error, ProcessError):
        return "process"
    if isinstance(error, CorruptCheckpointError):
        return "corrupt"
    # Errors that are not ours say nothing of the checkpoint either, such as one of memory.
    ours = isinstance(error, JlayersError) and not isinstance(error.__cause__, OSError)
    return "other" if ours else "system"


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, JlayersError):
        told = {name: getattr(error, name) for name in ("problem", *_DETAILS)}
    else:
        told = {"problem": f"{type(error).__name__}: {error}"}
    return {"kind": _kind(error), **told}


def _first(errors: list[dict[str, Any] | None]) -> int | None:
    """The number of the process whose error all raise: of one that does not follow from another's,
    and of these one that says that no other checkpoint is of any use."""
    order = ("other", "system", "corrupt", "process")
    found = [(order.index(error["kind"]), i) for i, error in enumerate(errors) if error]
    return min(found)[1] if found else None


def _retold(process: int, told: dict[str, Any]) -> JlayersError:
    problem = f"process {process}: {told['problem']}"
    details = {name: told.get(name) for name in _DETAILS}
    kinds = {"corrupt": CorruptCheckpointError, "process": ProcessError}
    error = kinds.get(told["kind"], CheckpointError)(problem, **details)
    if told["kind"] == "system":
        error.__cause__ = OSError(problem)
    return error
