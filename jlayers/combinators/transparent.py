"""What wrappers of one layer share: its name is theirs, and so are its parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ..base.errors import error_context
from ..base.layer import Layer
from ..base.sequence_mode import SequenceMode
from ..base.specs import specs_of
from ..base.step_pair import Stepping
from ..base.tracing import AbstractFn, Trace, run
from ..base.types import ApplyFn, PyTree


def wrapper(
    layer: Layer,
    abstract: AbstractFn,
    apply: ApplyFn,
    again: Callable[[Layer], Layer],
    stream: Stepping | str,
    copies: int = 1,
) -> Layer:
    """A layer around ``layer``.

    Args:
      abstract, apply, stream, copies: as for ``Layer``.
      again: the same wrapper around another layer.
    """
    return Layer(
        None,
        apply,
        name=layer.kind,
        children={"": layer},
        rebuild=lambda new: again(new[""]),
        copies=copies,
        abstract=abstract,
        sequence_mode=SequenceMode.DELEGATE,
        stream=stream,
    )


def traced(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """The abstract pass of a wrapper that calls its layer once."""
    with error_context(layer):
        found, y = run(layer, key, x)
    return Trace(found.params, found.state, None, {"": (specs_of(x),)}, inside={"": found}), y
