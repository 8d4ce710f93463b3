"""What wrappers of one layer share: its name is theirs, and so are its parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ..base.errors import LayerError, error_context
from ..base.layer import Layer
from ..base.parameters import OwnInit, ParamSpec
from ..base.paths import check_each_fits, flatten, matches, unflatten
from ..base.sequence_mode import SequenceMode
from ..base.specs import specs_of
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import AbstractFn, Trace, run
from ..base.types import ApplyFn, Carry, Key, Params, PyTree, State

# ``(params, state, train) -> (params, state, own state)``: what the layer inside gets, and the
# wrapper's entries of the next state.
Change = Callable[[Params, State, bool], tuple[Params, State, State]]


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


def traced(layer: Layer, key: jax.Array, x: PyTree, calls: int = 1) -> tuple[Trace, PyTree]:
    """The abstract pass of a wrapper that calls its layer once, or several times alike."""
    with error_context(layer):
        found, y = run(layer, key, x)
    inputs = {"": (specs_of(x),) * calls}
    return Trace(found.params, found.state, None, inputs, inside={"": found}), y


def with_changed_weights(
    layer: Layer, change: Change, abstract: AbstractFn, again: Callable[[Layer], Layer]
) -> Layer:
    """A layer that is ``layer`` with other weights, made of its own parameters and state."""

    def merged(state: State, own: State) -> State:
        return unflatten({**flatten(state), **own})

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        params, inner, own = change(params, state, train)
        with error_context(layer):
            y, inner = layer._apply(params, inner, x, key=key, train=train)
        return y, merged(inner, own)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        params, inner, _ = change(params, state, False)
        with error_context(layer):
            return stream_of(layer).start(params, inner, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        params, inner, own = change(params, state, train)
        with error_context(layer):
            step = stream_of(layer).advance
            y, carry, inner = step(params, inner, carry, x, key=key, train=train)
        return y, carry, merged(inner, own)

    return wrapper(layer, abstract, apply, again, Stepping(start, advance))


def weights_of(found: Trace, pattern: str) -> dict[str, ParamSpec]:
    """The parameters that fit, which must have an axis beside that of outputs."""
    check_each_fits((pattern,), [*found.parameters])
    fitting = {path: spec for path, spec in found.parameters.items() if matches(path, pattern)}
    for path, spec in fitting.items():
        if len(spec.shape) < 2:
            raise LayerError(f"{path} has no axis beside that of outputs", got=str(spec.shape))
    return fitting


def check_no_copies(layer: Layer, wrapped: str) -> None:
    """Raises around ``repeat`` and ``ensemble``, whose first axis is that of copies."""
    if found := _of_copies(layer):
        raise LayerError(
            f"{found} has an axis of copies in its parameters",
            hint=f"the other way round: repeat({wrapped}(layer), n)",
        )


def _of_copies(layer: Layer) -> str | None:
    if layer.copies > 1:
        return layer.short()
    return next(filter(None, map(_of_copies, layer.children.values())), None)


def made_from(
    weight: ParamSpec, function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]
) -> ParamSpec:
    """An array whose initial value is ``function`` of that of a weight: drawn by the same key."""
    how = weight.initializer

    def init(key: jax.Array, _: object, __: object) -> jax.Array:
        if isinstance(how, OwnInit):
            return function(how.array(how.source.init(key, how.source.x)))
        return function(how(key, weight.shape, weight.dtype))

    return ParamSpec(init, shape, weight.dtype, weight.key_path)
