"""Which arrays of a body hold steps, beside an array of as many: read from the body's program.

A child has to be traced with a mask or without before the rest of the program exists. So keys are
guessed, for all calls at once: first none, and then as the program says that was made with the
guesses before. Up to the first wrong guess the program is the body's own: what it says of
the keys there is right, and so is all of it where no guess is wrong.

How to read this file: ``Deciding`` compares the keys of one program with what it says of them.
"""

from __future__ import annotations

from typing import Any

from ..base.sequence_mode import without_masks
from ..base.tracing import trace
from .body_judging import Asked, Judging, numbered, with_masks
from .body_plan import Keys, Sources
from .body_sources import (
    UNDECIDED,
    Known,
    key_of,
    made_by,
    owner,
    settled,
    sources_of,
    undecided,
)

_NONE: Sources = frozenset()


class Deciding:
    """What the program of a body says of the keys that its calls were taken to have.

    Attributes:
      keys: of what each call is given, as the program says.
      sure: how many of them do not depend on a guess.
      agrees: whether all are those that were guessed.
      known: what is in each variable of the program, by its ``id``.
    """

    def __init__(self, program: Any, f: Judging, sure: int, shared: bool, ended: bool):
        """
        Args:
          f: the scope that the body ran in.
          sure: how many of the first calls are known to have the right keys.
          shared: whether arrays of as many steps as a Sequence share them.
          ended: whether the body ran to its end, and was not left at a call or by an error.

        Raises:
          UndecidedError: nothing tells whose steps an array has.
        """
        self._program, self._f, self._shared = program, f, shared
        self._taken = [taken for taken, _ in f._judged_calls]
        self.keys: list[Keys] = []
        self._returned: list[Keys] = []
        self.sure, self.agrees = sure, True
        # Where the leaves of each call begin among the results of the program, and the outputs.
        self._starts = [0]
        for taken in self._taken:
            self._starts.append(self._starts[-1] + len(taken))
        self._masks = list(f._judged_own)
        self._leads: list[tuple[int, ...]] = []
        # A mask may have the size of an array before it: each call is judged by those before it.
        while len(self._leads) < len(self._masks):
            self._leads = [tuple(mask.mask.shape) for mask in self._masks]
            self._next = 0
            self._every: Sources = frozenset(f._judged_inputs)
            self.known = sources_of(program, f._judged_inputs, self._call, self._leads)
            self._up_to(len(f._judged_asked), self.known)
        end = len(program.outvars) - len(f._judged_stated)
        if ended and self.agrees:
            start = self._starts[-1]
            # Where the variables that are set come from counts too.
            self._every = self._every.union(*self._sources(slice(start, None), self.known))
            f._judged_outputs = self._decided(slice(start, end), self.known, None)

    def _sources(self, place: slice, known: Known) -> list[Sources]:
        return [known.get(id(variable), _NONE) for variable in self._program.outvars[place]]

    def _call(self, number: int, known: Known) -> tuple[Keys, Keys] | None:
        self._up_to(number + 1, known)
        if number >= len(self.keys):
            return None
        return self.keys[number], self._returned[number]

    def _up_to(self, end: int, known: Known) -> None:
        """Decides on the calls before ``end``, up to one that knows another mask."""
        for number in range(self._next, end):
            if number >= len(self.keys) and len(self._masks) > len(self._leads):
                return
            self._next = number + 1
            # The call that the body was left at is the last.
            is_last = number == len(self._taken)
            place = slice(self._starts[number], None if is_last else self._starts[number + 1])
            self._every = self._every.union(*self._sources(place, known))
            if number < len(self.keys):
                continue
            asked = self._f._judged_asked[number]
            if number < self.sure or asked.child is None:
                keys = self._taken[number]
            else:
                keys = self._decided(place, known, asked)
            self.keys.append(keys)
            if not is_last:
                self._returned.append(self._given(number, asked, keys))
            if self.agrees:
                self.sure = max(self.sure, number + 1)
                self.agrees = is_last or keys == self._taken[number]

    def _given(self, number: int, asked: Asked, keys: Keys) -> Keys:
        """The keys of what a call gives that is given these."""
        if asked.child is None:
            return []
        try:
            found = trace(asked.child, with_masks(asked.x, keys, self._masks))
        except Exception:
            # An error of the child's own, or a guess before it is wrong.
            return [None] * len(self._f._judged_calls[number][1])
        return numbered(found.out, self._masks)

    def _decided(self, place: slice, known: Known, asked: Asked | None) -> Keys:
        """The keys of what a call is given, or else of the body's output."""
        leads, variables = self._leads, self._program.outvars[place]
        # Where no array has these steps, they are those of a Sequence.
        plain = {source.key for source in self._every if not source.masked}
        keys: Keys = []
        for variable, own in zip(variables, self._sources(place, known), strict=True):
            shape = variable.aval.shape
            key, like = owner(shape, own, leads), key_of(shape, leads)
            keys.append(like if key == UNDECIDED and not (self._shared and like in plain) else key)
        if UNDECIDED not in keys:
            return keys
        if not self.agrees:
            return [None if key == UNDECIDED else key for key in keys]
        equation = made_by(self._program, variables[keys.index(UNDECIDED)])
        if asked is None:
            raise undecided("returns", equation)
        values = without_masks(asked.x)
        return settled(asked.name, asked.child, values, keys, self._masks, equation)
