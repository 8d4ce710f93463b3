"""Programs of a model's decoding loops, compiled once and freed with the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from ..base.layer import Layer
from ..core.compiler import compiler_options
from ..core.dispatch import is_staged

R = TypeVar("R")

# Weak, so that a model's programs are freed with it.
_PROGRAMS: weakref.WeakKeyDictionary[Layer, dict[Callable[..., Any], Callable[..., Any]]] = (
    weakref.WeakKeyDictionary()
)


def program(model: Layer, run: Callable[..., R], *static: str) -> Callable[..., R]:
    """``run(model, ...)`` under ``jax.jit``, as a function of the other arguments.

    Args:
      model: what it decodes with.
      run: a function of a module, which is the same object at each call.
      static: names of its arguments that are not arrays, passed by keyword.
    """
    of_model = _PROGRAMS.setdefault(model, {})
    if run not in of_model:
        # The program is a value of the weak dict: a strong reference in it would keep its key.
        reference = weakref.ref(model)

        def of_arguments(*args: Any, **kwargs: Any) -> R:
            model = reference()
            assert model is not None
            return run(model, *args, **kwargs)

        inside: Callable[..., R] = jax.jit(of_arguments, static_argnames=static)
        # Beam search gathers its cache: with them it takes 1.25 times the cache in place of 2.
        outermost: Callable[..., R] = jax.jit(
            of_arguments, static_argnames=static, compiler_options=compiler_options()
        )

        def call(*args: Any, **kwargs: Any) -> R:
            # JAX accepts options for an outermost jit alone. A literal tells where there is
            # another one around constants.
            staged = is_staged((args, kwargs)) or isinstance(lax.full((), False), jax.core.Tracer)
            return (inside if staged else outermost)(*args, **kwargs)

        of_model.setdefault(run, call)
    return of_model[run]
