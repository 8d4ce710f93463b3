"""Frozen: an object whose fields are set once, and which is changed by making another."""

from __future__ import annotations

from typing import Any, Self


class Frozen:
    """Immutable, compared by identity, and its own copy."""

    __slots__ = ("__weakref__",)

    def short(self) -> str:
        """One line that says what it is."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} is immutable: {name!r} of {self.short()} was not set")

    def __delattr__(self, name: str) -> None:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} is immutable: {name!r} of {self.short()} was not deleted")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _copy(self, **changes: Any) -> Self:
        copy = object.__new__(type(self))
        copy._set(**({name: getattr(self, name) for name in self.__slots__} | changes))
        return copy
