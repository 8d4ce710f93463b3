"""What to use instead of an attribute or an argument that does not exist.

The answers are data, in ``answers.py``; both modules are imported when something has gone wrong.

How to read this file: ``unknown_attribute`` answers for a module, ``misfit`` for a call that does
not fit a signature, of which ``_other_argument`` finds the word that was meant.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .answers import ARGUMENTS, ARGUMENTS_OF, MISSING, NAMES, POSITIONAL, SAME_ARGUMENT
from .repr_text import value_text

# Conv2D, MaxPool1d, Conv2DTranspose: ours take any rank.
_RANK = re.compile(r"([123N][Dd])(?=$|Transpose$)")
_SHORT = 40
_PLAIN = (bool, int, float, str, type(None))
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def unknown_attribute(
    module: str, name: str, names: Iterable[str], subpackages: Sequence[str] = ()
) -> AttributeError:
    """The error of a module without an attribute ``name``, with what to use in its place.

    The name is looked for among the public ``names`` and those of ``subpackages`` too.
    """
    text = f"module {module!r} has no attribute {name!r}"
    if name.startswith("_"):  # Python and its tools ask for many such names
        return AttributeError(text)
    answer = _other_name(module, name, list(names), subpackages)
    if answer is None:
        return AttributeError(text)
    # With its name set, Python adds no suggestion of its own after the hint.
    return AttributeError(f"{text}\n  hint:     {answer}", name=name)


def _other_name(module: str, name: str, names: list[str], subpackages: Sequence[str]) -> str | None:
    short = "jl" if module == "jlayers" else module.removeprefix("jlayers.")
    answers = NAMES.get(module, {})
    if name in answers:
        return answers[name]
    base = _RANK.sub("", name)
    if base != name:
        if base in answers:
            return answers[base]
        if base in names:
            return f"{short}.{base}: the rank comes from the input"
    inside = [
        (
            f"{short}.{subpackage}",
            getattr(importlib.import_module(f"{module}.{subpackage}"), "__all__", ()),
        )
        for subpackage in subpackages
    ]
    for package, own in inside:
        if name in own:
            return f"{package}.{name}"
    # Classes of other libraries and functions of JAX: LeakyReLU is leaky_relu.
    if known := _spelt(name, dir(jax.nn)):
        return f"jax.nn.{known}: any function of one array is a layer"
    for package, own in inside:
        if known := _spelt(name, own):
            return f"{package}.{known}"
    for functions, prefix in ((jnp, "jnp"), (jax.lax, "jax.lax"), (jax, "jax")):
        if hasattr(functions, name):
            return f"{prefix}.{name}"
    close = _closest(name, names)
    if close is not None:
        return f"did you mean {short}.{close}?"
    known = _spelt(name, dir(_optax())) if module == "jlayers" else None
    return f"optax.{known}" if known else None


def _spelt(name: str, names: Iterable[str]) -> str | None:
    """The public name that differs in case and underscores alone: leaky_relu for LeakyReLU."""
    plain = name.replace("_", "").lower()
    found = (known for known in names if known.replace("_", "").lower() == plain)
    return next((known for known in found if known[0] != "_"), None)


def _optax() -> object:
    try:
        return importlib.import_module("optax")
    except ImportError:
        return None


def _closest(word: str, names: Iterable[str]) -> str | None:
    """The name that differs from ``word`` by its case alone, or by a few letters."""
    lower = {name.lower(): name for name in names}
    # With difflib's own 0.6, rate would be the answer to state.
    found = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.75)
    return lower[found[0]] if found else None


class Misfit(NamedTuple):
    """Why a call does not fit a signature, in the parts of an error."""

    problem: str
    expected: str
    got: str | None
    hint: str | None


def misfit(
    name: str, signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> Misfit | None:
    """Why ``name(*args, **kwargs)`` does not fit the signature, or None where it does."""
    parameters = dict(signature.parameters)
    # A method was decorated before it was bound: users count neither self nor cls.
    first = next(iter(parameters), None)
    if first in ("self", "cls"):
        del parameters[first]
        args = args[1:]
    expected = f"{name}{_names(parameters)}"
    named = {
        key
        for key, parameter in parameters.items()
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, *_VARIADIC)
    }
    kinds = {parameter.kind for parameter in parameters.values()}
    # Before bind, which names the first of several, and knows no hint.
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        unknown = [key for key in kwargs if key not in named]
        if unknown:
            words = ", ".join(map(repr, unknown))
            given = {*list(parameters)[: len(args)], *kwargs}
            hints = [_other_argument(name, key, kwargs[key], named, given) for key in unknown]
            return Misfit(
                f"unknown argument{'s' if len(unknown) > 1 else ''} {words}",
                expected,
                None,
                "; ".join(dict.fromkeys(filter(None, hints))) or None,
            )
    most = sum(parameter.kind in _POSITIONAL for parameter in parameters.values())
    if inspect.Parameter.VAR_POSITIONAL not in kinds and len(args) > most:
        return Misfit(
            f"takes {most} argument{'' if most == 1 else 's'} by position, got {len(args)}",
            expected,
            ", ".join(_short(value) for value in args),
            POSITIONAL.get(name, "the others are given by name" if named else None),
        )
    try:
        inspect.Signature(list(parameters.values())).bind(*args, **kwargs)
    except TypeError as error:
        return Misfit(str(error), expected, None, MISSING.get(name))
    return None


def _names(parameters: Mapping[str, inspect.Parameter]) -> str:
    """``(features, *, bias=True)``: without annotations and without long defaults."""
    short = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.default
            if parameter.default is parameter.empty or isinstance(parameter.default, _PLAIN)
            else _Ellipsis(),
        )
        for parameter in parameters.values()
    ]
    return str(inspect.Signature(short))


class _Ellipsis:
    def __repr__(self) -> str:
        return "..."


def _other_argument(
    function: str, word: str, value: object, names: set[str], given: set[str]
) -> str | None:
    own = ARGUMENTS_OF.get(function, {})
    if word in own:
        return own[word]
    for same in SAME_ARGUMENT.get(word, ()):
        if same in names:
            return f"{same}={_plain(value)}"
    if word in ARGUMENTS:
        return ARGUMENTS[word]
    close = _closest(word, names - given)
    return None if close is None else f"{close}={_plain(value)}"


def _short(value: object) -> str:
    """For the reader alone, where ``_plain`` is to be copied."""
    text = value_text(value)
    return text if len(text) <= _SHORT and "\n" not in text else "..."


def _plain(value: object) -> str:
    if isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value):
        return value_text(value)
    return repr(value) if isinstance(value, _PLAIN) else "..."
