"""``repr`` of a layer: the code that builds it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

# A repr is pasted into code, which is formatted at this width by default.
_LINE = 88
# A function is shown under the public name by which people know it.
_PUBLIC_MODULES = (jax.nn, jnp, jax.lax, jax.nn.initializers, jax.random, jnp.linalg, jnp.fft, jax)


def call_text(maker: str, bound: inspect.BoundArguments) -> str:
    """``maker(argument, keyword=argument)``, over several lines where one is too long."""
    parts: list[str] = []
    by_name = False
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments.get(name, parameter.default)
        if value is parameter.default:
            by_name = True
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            parts += [value_text(item) for item in value]
        elif parameter.kind is parameter.VAR_KEYWORD:
            parts += [f"{key}={value_text(item)}" for key, item in value.items()]
        elif by_name or parameter.kind is parameter.KEYWORD_ONLY:
            parts.append(f"{name}={value_text(value)}")
        else:
            parts.append(value_text(value))
    return _call(maker, parts)


def _call(maker: str, parts: Iterable[str]) -> str:
    parts = list(parts)
    one_line = f"{maker}({', '.join(parts)})"
    if len(one_line) <= _LINE and "\n" not in one_line:
        return one_line
    body = textwrap.indent(",\n".join(parts), "    ")
    return f"{maker}(\n{body},\n)"


def value_text(value: object) -> str:
    """An argument as code: functions and types under their public names, all else by ``repr``."""
    if isinstance(value, tuple):
        inner = ", ".join(value_text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    # A layer is callable too, and has a repr of its own.
    if isinstance(value, type) or (callable(value) and not hasattr(value, "children")):
        return function_text(value)
    return repr(value)


def function_name(function: Callable[..., object]) -> str:
    """The bare name of a function, or of the type of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def function_text(function: Callable[..., object]) -> str:
    """A function as code: ``jax.nn.relu``, ``partial(...)``, ``<lambda model.py:12>``."""
    if isinstance(function, functools.partial):
        arguments = [value_text(item) for item in function.args]
        arguments += [f"{key}={value_text(item)}" for key, item in function.keywords.items()]
        return _call("functools.partial", [function_text(function.func), *arguments])
    name = function_name(function)
    found = public_name(function)
    if found is not None:
        return ".".join(found)
    made = _closure_text(function)
    if made is not None:
        return made
    code = getattr(function, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"<lambda {os.path.basename(code.co_filename)}:{code.co_firstlineno}>"
    return getattr(function, "__qualname__", None) or repr(function)


def public_name(function: Callable[..., object]) -> tuple[str, str] | None:
    """The module of JAX and the name by which people know one of its functions."""
    name = function_name(function)
    for module in _PUBLIC_MODULES:
        if getattr(module, name, None) is function:
            return module.__name__, name
    # They have no module of their own, so they are looked up here.
    for name_of_policy, policy in vars(jax.checkpoint_policies).items():
        if policy is function:
            return "jax", f"checkpoint_policies.{name_of_policy}"
    return None


def _closure_text(function: Callable[..., object]) -> str | None:
    """``variance_scaling(1.0, ...)`` for the function that ``variance_scaling`` returned."""
    call = closure_call(function)
    if call is None:
        return None
    module, outer, arguments = call
    prefix = f"{module.__name__}." if module in _PUBLIC_MODULES else ""
    texts = [f"{name}={value_text(value)}" for name, value in arguments.items()]
    return _call(prefix + outer.__name__, texts)


def closure_call(
    function: Callable[..., object],
) -> tuple[ModuleType, Callable[..., Any], dict[str, object]] | None:
    """A function that returned this one, its module, and the arguments that this one holds."""
    outer_name, _, inner = getattr(function, "__qualname__", "").rpartition(".<locals>.")
    if not outer_name or not inspect.isfunction(function) or "<" in inner:
        return None
    modules = (*_PUBLIC_MODULES, sys.modules.get(function.__module__))
    for module in modules:
        outer = getattr(module, outer_name, None)
        # JAX has a function of many a name that users give to theirs.
        if inspect.isfunction(outer) and _holds(outer, function):
            break
    else:
        return None
    try:
        kept = inspect.getclosurevars(function).nonlocals
    except ValueError:  # a variable that is not bound yet
        return None
    parameters = inspect.signature(outer).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return None
    arguments = {
        name: kept[name]
        for name, parameter in parameters.items()
        if name in kept and not _equal(kept[name], parameter.default)
    }
    assert module is not None
    return module, outer, arguments


def _holds(outer: Callable[..., object], function: Any) -> bool:
    """Whether the inner function is written inside the outer one."""
    code = getattr(inspect.unwrap(outer), "__code__", None)
    return code is not None and function.__code__ in code.co_consts


def _equal(a: object, b: object) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float | tuple) and a == b)
