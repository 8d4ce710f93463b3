"""capture: a model whose output also holds what layers inside it gave.

How to read this file: ``capture`` checks what is asked for, and wraps each selected layer with a
``_recorder``, which gives the values to ``base/collecting.py``; this takes them out of every
transformation. Gradients have a file of their own, ``activation_gradients.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from ..base import arguments
from ..base.collecting import (
    Captured,
    Collected,
    Wanted,
    add_captured,
    add_collected,
    asking,
    captured_for,
    wanted,
)
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.specs import placeholders
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core.dispatch import compiled_when_eager
from ..inspection.selectors import Kinds
from .activation_gradients import Of, with_gradients
from .injected import entry_name, injector
from .selected import Selected, rewritten, selection, unseen
from .statistics import Reduce, reduction
from .transparent import start_of, traced, wrapper

SIDES = ("output", "input", "gradient")


@factory
def capture(
    layer: LayerOrFunction,
    *patterns: str,
    what: str = "output",
    reduce: Reduce | None = None,
    of: Of | None = None,
    kind: Kinds = None,
) -> Layer:
    """The same layer, whose output is ``(y, captured)``: what layers inside it gave, by path.

    Parameters, state and paths are the layer's own, and what is captured are values of the program
    like any others: under ``jit``, ``grad``, ``vmap``, in ``repeat`` and in a stream. In ``repeat``
    and ``ensemble`` a value has an axis of the copies in front, and nested ones have two. Of a
    layer that is called several times there is a tuple, in the order of the calls. Of a
    ``Sequence`` a ``Sequence`` is captured, and in a stream what belongs to the block.

    Where one path is that of a wrapper and of the layer inside it, as for ``repeat`` and
    ``each_step``, the inner layer is captured, with what it was given and gave there.

    Args:
      layer: a model.
      *patterns: paths of layers, ``"encoder/*"``, ``"**/attend"``; those after a ``!`` are left out
        again, ``"!head/**"``, as in ``rewrite``; ``""`` is the model itself. After a colon the name
        of a value inside the layer: ``"**/attend:weights"``, the weights of attention after
        the softmax (batch, heads, queries, keys);
        ``"**/lstm:*_gate"``, of an LSTM ``input_gate``, ``forget_gate``, ``candidate``,
        ``output_gate`` and ``cell``, of a GRU ``reset_gate``, ``update_gate`` and ``candidate``,
        (batch, time, units); ``"**/moe:probabilities"``, what a router gives each expert. These
        are computed only where they are asked for, by the method that has them: attention then has
        all weights in memory, and a recurrent layer is one plain scan.
      what: ``"output"``, ``"input"``, or ``"gradient"``: that of ``of(y)`` with respect to the
        output of the layer.
      reduce: what becomes of a value where it arises, inside the loop of ``repeat`` for example, so
        that it need not be stored: a function of it, or by name ``"mean"``, ``"std"``, ``"norm"``
        (the root of the sum of squares), ``"histogram"`` (``counts`` and ``edges``) or ``"dead"``
        (the share of units that are 0 for the whole batch); several names give a dict. Steps of
        padding do not count, and no gradient passes through a named statistic.
      of: a function of the output to a scalar; its sum if None.
      kind: ``"lstm"``, ``jl.LSTM``, or several: layers of other kinds are left out; see
        ``rewrite``.

    Shapes:
      y: the output of the layer. captured: a dict from path to value.

    Raises:
      LayerError: for a pattern or a kind that fits no layer, a name that no such layer knows, a
        layer that a body calls inside a transformation of JAX, a layer in a ``pipeline``; for
        gradients of a layer that is called several times.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> block = jl.TransformerBlock(jl.SelfAttention(2), jl.Dense(8))
    >>> model = jl.serial(blocks=jl.repeat(block, 3), head=jl.Dense(5))
    >>> params, state = model.init(jax.random.key(0), jl.spec((4, 10, 8)))
    >>> looking = jl.capture(model, "blocks", "**/attend:weights")
    >>> (y, captured), _ = looking.apply(params, state, jnp.ones((4, 10, 8)))
    >>> {path: value.shape for path, value in captured.items()}
    {'blocks/attend:weights': (3, 4, 2, 10, 10), 'blocks': (3, 4, 10, 8)}
    >>> statistics = jl.capture(model, "blocks", reduce=("mean", "std"))
    >>> (y, captured), _ = statistics.apply(params, state, jnp.ones((4, 10, 8)))
    >>> captured["blocks"]["std"].shape
    (3,)
    """
    inner = lift(layer)
    what = arguments.one_of("what", what, SIDES)

    def again(new: Layer) -> Layer:
        return capture(new, *patterns, what=what, reduce=reduce, of=of, kind=kind)

    selected = selection(inner, patterns, kind)
    owner, reduced = object(), reduction(reduce)
    if of is not None:
        arguments.function("of", of, "y")
    if what == "gradient":
        return _gradients(inner, selected, reduced, of, again)
    if of is not None:
        raise LayerError("of= is what gradients are of", hint="what='gradient'")
    record = functools.partial(_recorder, owner, what, reduced)
    recording = rewritten(inner, selected, record)

    def run(function: Callable[[], Any]) -> tuple[Any, dict[str, PyTree]]:
        with error_context(inner):
            result, found = captured_for(owner, function)
        return result, by_name(found)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        (y, new), found = run(lambda: recording._apply(params, state, x, key=key, train=train))
        return (y, found), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, _ = traced(inner, key, x)
        # Layers that were traced before do not run again there: values show in a run of all.
        params, state = placeholders(found.params), placeholders(found.state)
        return found, apply(params, state, x, key=key, train=False)[0]

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        with error_context(inner):
            return stream_of(recording).start(params, state, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        step = stream_of(recording).advance
        (y, after, new), found = run(lambda: step(params, state, carry, x, key=key, train=train))
        return (y, found), after, new

    return wrapper(inner, abstract, apply, again, Stepping(start, advance))


def _gradients(
    inner: Layer,
    selected: dict[str, Selected],
    reduce: Callable[[PyTree], PyTree],
    of: Of | None,
    again: Callable[[Layer], Layer],
) -> Layer:
    if named := [f"{one.path}:{one.names[0]}" for one in selected.values() if one.names]:
        raise LayerError(
            "gradients are of outputs of layers, and not of values in them", got=repr(named[0])
        )
    owners, entry = (object(), object()), entry_name()

    def around(selected: Selected, layer: Layer) -> Layer:
        inside = injector(owners[1], entry, lambda y, given: y + given["delta"], selected, layer)
        return _recorder(owners[0], "output", lambda value: value, selected, inside)

    recording = rewritten(inner, selected, around)

    # Outside jit the gradient of a loop would be compiled at each call.
    @compiled_when_eager("train", "collects")
    def program(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool, collects: Wanted
    ) -> tuple[PyTree, State, dict[str, PyTree], Collected]:
        def run(state: State) -> tuple[PyTree, State]:
            return recording._apply(params, state, x, key=key, train=train)

        with error_context(inner):
            return with_gradients(run, state, entry, owners, of, reduce, collects)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        y, new, found, rest = program(params, state, x, key=key, train=train, collects=wanted())
        add_collected(rest)
        return (y, found), new if train else state

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, _ = traced(inner, key, x)
        params, state = placeholders(found.params), placeholders(found.state)
        return found, apply(params, state, x, key=key, train=False)[0]

    return wrapper(inner, abstract, apply, again, "gradients are of whole sequences")


def _recorder(
    owner: object, what: str, reduce: Callable[[PyTree], PyTree], selected: Selected, layer: Layer
) -> Layer:
    """The layer, which gives what is selected of it to ``owner``."""
    names = frozenset(selected.names)

    def recorded(x: PyTree, run: Callable[[], Any]) -> Any:
        """What a run gives, its output first."""
        with error_context(layer):
            if owner not in wanted().owners:
                return run()
            result, values = asking(names, run) if names else (run(), {})
            if selected.whole:
                values[""] = x if what == "input" else result[0]
            for name in ("", *selected.names) if selected.whole else selected.names:
                path = f"{selected.path}:{name}" if name else selected.path
                add_captured(reduce(values[name]), owner, path)
        return result

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        return recorded(x, lambda: layer._apply(params, state, x, key=key, train=train))  # type: ignore[no-any-return]

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        step = stream_of(layer).advance
        return recorded(x, lambda: step(params, state, carry, x, key=key, train=train))  # type: ignore[no-any-return]

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(layer, key, x)

    again = functools.partial(_recorder, owner, what, reduce, selected)
    return unseen(wrapper(layer, abstract, apply, again, Stepping(start_of(layer), advance)), layer)


def by_name(found: list[Captured]) -> dict[str, PyTree]:
    """The values by name; of a layer that was called several times a tuple."""
    values: dict[str, list[PyTree]] = {}
    for one in found:
        values.setdefault(one.name, []).append(one.value)
    return {name: own[0] if len(own) == 1 else tuple(own) for name, own in values.items()}
