"""Checks of the activations that a cell is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax

from ...base import arguments
from ...base.errors import LayerError, calling_user_code
from ...base.specs import format_spec, specs_of
from ...base.types import Spec

Activation: TypeAlias = Callable[[jax.Array], jax.Array]


def check_functions(**activations: Activation) -> None:
    """Each is a function of one array: what can be seen when a cell is built."""
    # No annotation checks it: an activation is any function of one array.
    for name, function in activations.items():
        arguments.function(name, function, "x")


def check_elementwise(of: Spec, **activations: Activation) -> None:
    """Each keeps the shape and dtype of ``of``."""
    for name, function in activations.items():
        with calling_user_code(name):
            # By shape, which is all that can be seen without values.
            y = jax.eval_shape(function, of)
        if specs_of(y) != of:
            raise LayerError(
                f"{name} is not elementwise", expected=format_spec(of), got=format_spec(y)
            )
