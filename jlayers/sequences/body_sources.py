"""Which inputs and which results of children are in an array of a body: whose its steps are.

An array beside a Sequence may have as many steps as the Sequence, and has no padding. What a body
computes of it alone is an array too, and what joins both has the mask. So the program of the body
is followed from what enters it, through everything but the calls of children.

How to read this file: ``sources_of`` follows a program, ``owner`` says whose steps an array has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..base.dependence import OPAQUE, Cause, reached, why_of
from ..base.receptive_field import ReceptiveField
from ..base.sequence import Sequence, is_sequence
from ..base.tracing import trace
from ..base.types import PyTree
from .body_plan import INPUT, Keys, Source, Sources, UndecidedError

# Instead of a key: nothing that the array is made of has its steps.
UNDECIDED = -3
_NONE: Sources = frozenset()
Known = dict[int, Sources]
CallOf = Callable[[int, Known], tuple[Keys, Keys] | None]


def undecided(what: str, equation: Any) -> UndecidedError:
    """The error of an array of which it is not known whose steps it has."""
    if equation is None:
        return UndecidedError(what, "an array from outside the body")
    of_child = str(equation.params.get("name")).startswith(OPAQUE)
    name = "" if of_child else equation.primitive.name
    reason = "what a child gives has as many steps as both" if of_child else "has as many as both"
    cause = Cause((equation,), name, reason)
    return UndecidedError(what, str(why_of(cause)))


def key_of(shape: tuple[int, ...], leads: list[tuple[int, ...]]) -> int | None:
    """The mask whose rows and steps an array has."""
    return leads.index(tuple(shape[:2])) if tuple(shape[:2]) in leads else None


def owner(shape: tuple[int, ...], sources: Sources, leads: list[tuple[int, ...]]) -> int | None:
    """The mask of an array: None for one without, ``UNDECIDED`` where its sources do not tell."""
    key = key_of(shape, leads)
    like = [source for source in sources if source.key == key]
    if key is None or any(source.masked for source in like):
        return key
    return None if like else UNDECIDED


def sources_of(
    program: Any, inputs: list[Source], call: CallOf, leads: list[tuple[int, ...]]
) -> Known:
    """What is in each variable of a body's program, by its ``id``.

    What comes out of a child without a mask stays in what later children make of it: that a value
    is behind a summary of all steps is never lost.

    Args:
      inputs: those of its arguments, after the key.
      call: the keys of what each call of a child takes and gives, by its number and by what is
        known before it; None to follow the program no further.
      leads: rows and steps of each mask.
    """
    known: Known = {
        id(variable): frozenset([source])
        for variable, source in zip(program.invars[1:], inputs, strict=True)
    }
    for equation in program.eqns:
        given = [known.get(id(variable), _NONE) for variable in equation.invars]
        name = str(equation.params.get("name"))
        if name.startswith(OPAQUE) and name[len(OPAQUE) :].isdigit():
            number = int(name[len(OPAQUE) :])
            keys = call(number, known)
            if keys is None:
                break
            results = _results_of_child(equation, given, number, *keys, leads)
        else:
            results = _results(equation, given)
        for variable, sources in zip(equation.outvars, results, strict=True):
            known[id(variable)] = sources
        # What is written to memory is read from the same variable.
        for variable in equation.invars:
            if "Ref" in type(getattr(variable, "aval", None)).__name__:
                known[id(variable)] = _NONE.union(*given)
    return known


def _results(equation: Any, given: list[Sources]) -> list[Sources]:
    # Those that are in the same operands are in the same results.
    alike: dict[tuple[bool, ...], list[Source]] = {}
    for source in _NONE.union(*given):
        alike.setdefault(tuple(source in sources for sources in given), []).append(source)
    results = [_NONE] * len(equation.outvars)
    for marked, same in alike.items():
        within = reached(equation, marked)
        results = [
            sources.union(same) if inside else sources
            for sources, inside in zip(results, within, strict=True)
        ]
    return results


def _results_of_child(
    equation: Any,
    given: list[Sources],
    number: int,
    taken: Keys,
    returned: Keys,
    leads: list[tuple[int, ...]],
) -> list[Sources]:
    everything = _NONE.union(*given)
    behind = frozenset(s for s in everything if not s.masked and s.call != INPUT)
    # What it was given without masks: of which steps, and what is in it.
    arrays = [
        (key_of(variable.aval.shape, leads), sources)
        for variable, key, sources in zip(equation.invars, taken, given, strict=True)
        if key is None
    ]
    results = []
    for leaf, (key, variable) in enumerate(zip(returned, equation.outvars, strict=True)):
        like = key_of(variable.aval.shape, leads)
        beside = [sources for lead, sources in arrays if lead == like]
        if key is not None:
            results.append(behind | {Source(number, leaf, key, True)})
        elif like in taken and like is not None and not beside:
            # A function of a Sequence that gives its steps as an array: no other has such steps.
            results.append(everything | {Source(number, leaf, None, False)})
        elif equation.invars:
            own = like if any(source.key == like for s in beside for source in s) else None
            results.append(behind | {Source(number, leaf, own, False)})
        else:
            results.append(behind)
    return results


def settled(
    name: str, child: Any, x: PyTree, keys: Keys, masks: list[Sequence], equation: Any
) -> Keys:
    """The keys of what a child is given, where its sources do not tell: arrays without a mask.

    Args:
      x: specs of what it is given.
      equation: what made the first of these arrays.

    Raises:
      UndecidedError: for a child that mixes their steps.
    """
    leads = [tuple(mask.mask.shape) for mask in masks]
    leaves, structure = jax.tree.flatten(x)
    for i, key in enumerate(keys):
        if key is not None:
            sequence = masks[leads.index(tuple(leaves[i].shape[:2]))]._with(leaves[i])
            leaves[i] = sequence._with_field(ReceptiveField() if key == UNDECIDED else None)
    # To a child of each step alone, steps that are all the same are so with a mask and without.
    found = trace(child, jax.tree.unflatten(structure, leaves)).out
    for leaf in jax.tree.leaves(found, is_leaf=is_sequence):
        if not is_sequence(leaf) or leaf._receptive_field != ReceptiveField():
            raise undecided(f"gives its child {name!r}", equation)
    return [None if key == UNDECIDED else key for key in keys]


def made_by(program: Any, variable: Any) -> Any:
    """The equation that a variable is a result of; None for none."""
    for equation in program.eqns:
        if any(made is variable for made in equation.outvars):
            return equation
    return None
