"""Wrappers of one layer: many copies in sequence or side by side, and rematerialisation.

All are transparent: they go by the layer's own name, and their parameters are the layer's own,
stacked along a new first axis for ``repeat`` and ``ensemble``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from ..base import arguments
from ..base.constructors import lift, out_spec
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.initialization import Path
from ..base.layer import Layer
from ..base.receptive_field import ReceptiveField
from ..base.sequence import sequences_in
from ..base.sequence_mode import SequenceMode, with_receptive_field
from ..base.specs import (
    Params,
    PyTree,
    State,
    format_short,
    format_spec,
    spec_key,
    specs_of,
)
from ..base.step_pair import (
    Carry,
    StepPair,
    check_carry,
    stream_of,
)
from ..base.tracing import init_child, trace

Policy = Callable[..., bool]


@factory
def repeat(layer: Any, n: int, remat: bool | Policy | None = None) -> Layer:
    """``n`` copies in sequence, each with parameters of its own, as one ``lax.scan``.

    Compile time does not grow with ``n``. Parameters and state are the layer's, each leaf with a
    new first axis of size ``n``. Copy i is initialised with ``fold_in(key, i)``.

    Args:
      layer: a layer whose output has the shapes and dtypes of its input.
      n: how many, at least 1.
      remat: True to keep only each copy's input for the backward pass, or a policy of
        ``jax.checkpoint_policies``.

    Raises:
      LayerError: if the output is not shaped like the input.

    >>> import jax, jlayers as jl
    >>> deep = jl.repeat(jl.residual(jl.Dense(8)), 12)
    >>> params, state = deep.init(jax.random.key(0), jl.spec((4, 8)))
    >>> params["body"]["kernel"].shape
    (12, 8, 8)
    """
    inner = lift(layer)
    n = arguments.positive("n", n)
    if remat is not None and not isinstance(remat, bool) and not callable(remat):
        raise LayerError(f"remat must be True, False or a policy, got {format_short(remat)}")

    def init(key: Any, x: PyTree) -> tuple[Params, State]:
        with error_context(inner):
            y = out_spec(inner, x)
        if spec_key(with_receptive_field(y, None)) != spec_key(
            with_receptive_field(specs_of(x), None)
        ):
            raise LayerError(
                "the output of a repeated layer differs from its input",
                expected=format_spec(specs_of(x)),
                got=format_spec(y),
                hint="a layer that keeps its shape and dtype, or serial",
            )
        return _stacked_init(inner, n, key, x)

    def apply(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        def step(x: PyTree, copy: tuple[Params, State, Any]) -> tuple[PyTree, State]:
            with error_context(inner):
                return inner._apply(copy[0], copy[1], x, key=copy[2], train=train)

        if remat:
            policy = None if remat is True else remat
            step = jax.checkpoint(step, policy=policy, prevent_cse=False)
        # The receptive field must not enter the loop's carry, whose structure cannot change.
        plain = with_receptive_field(x, None)
        y, new_state = lax.scan(step, plain, (params, state, _keys(key, n)), length=n)
        return _through_copies(inner, n, x, y), new_state if train else state

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        return _stacked_start(inner, n, params, state, x, capacity)

    def block(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, Carry]:
        def step(loop: Any, copy: Any) -> tuple[Any, None]:
            (x, carries), (params, state, key, i) = loop, copy
            before = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), carries)
            with error_context(inner):
                x, after = stream_of(inner).step(params, state, before, x, key=key, train=train)
                check_carry(before, after)
            put = lax.dynamic_update_index_in_dim
            return (x, jax.tree.map(lambda a, b: put(a, b, i, 0), carries, after)), None

        # The carries of all copies stay in one place: as a scan's input and output they would be
        # copied, and a cache of keys and values is most of what a short step touches.
        copies = (params, state, _keys(key, n), jax.numpy.arange(n))
        (y, after), _ = lax.scan(step, (x, carry), copies, length=n)
        return y, after

    return _wrapper(
        inner, init, apply, lambda new: repeat(new, n, remat), n, StepPair(start, block)
    )


@factory
def ensemble(layer: Any, n: int) -> Layer:
    """``n`` independent copies on the one input, side by side under ``vmap``.

    Parameters, state and outputs have a new first axis of size ``n``. Copy i is initialised
    with ``fold_in(key, i)``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ensemble(jl.Dense(3), 5), jl.spec((8, 2))).shape
    (5, 8, 3)
    """
    inner = lift(layer)
    n = arguments.positive("n", n)

    def init(key: Any, x: PyTree) -> tuple[Params, State]:
        return _stacked_init(inner, n, key, x)

    def apply(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        def one(params: Params, state: State, key: Any) -> tuple[PyTree, State]:
            with error_context(inner):
                return inner._apply(params, state, x, key=key, train=train)

        y, new_state = jax.vmap(one, axis_size=n)(params, state, _keys(key, n))
        return y, new_state if train else state

    unstreamed = "the copies' outputs do not begin with (batch, time)"
    return _wrapper(inner, init, apply, lambda new: ensemble(new, n), n, unstreamed)


@factory
def remat(layer: Any, policy: Policy | None = None) -> Layer:
    """The same layer, recomputed in the backward pass instead of kept (``jax.checkpoint``).

    Args:
      layer: any layer.
      policy: what to keep, from ``jax.checkpoint_policies``; nothing but the input by default.

    >>> import jlayers as jl
    >>> jl.remat(jl.Dense(3))
    remat(Dense(3))
    """
    inner = lift(layer)
    if policy is not None and not callable(policy):
        raise LayerError(
            f"policy must be one of jax.checkpoint_policies, got {format_short(policy)}"
        )

    def apply(
        params: Params, state: State, x: PyTree, *, key: jax.Array | None, train: bool
    ) -> tuple[PyTree, State]:
        def run(params: Params, state: State, x: PyTree, key: Any) -> tuple[PyTree, State]:
            with error_context(inner):
                return inner._apply(params, state, x, key=key, train=train)

        y, new_state = jax.checkpoint(run, policy=policy)(params, state, x, key)
        return y, new_state if train else state

    def init(key: Any, x: PyTree) -> tuple[Params, State]:
        return init_child(inner, key, x)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        with error_context(inner):
            return stream_of(inner).start(params, state, x, capacity=capacity)

    def step(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, Carry]:
        def run(params: Params, state: State, carry: Carry, x: PyTree, key: Any) -> Any:
            with error_context(inner):
                return stream_of(inner).step(params, state, carry, x, key=key, train=train)

        return jax.checkpoint(run, policy=policy)(params, state, carry, x, key)  # type: ignore[no-any-return]

    return _wrapper(inner, init, apply, lambda new: remat(new, policy), 1, StepPair(start, step))


def _wrapper(
    layer: Layer,
    init: Callable[..., tuple[Params, State]],
    apply: Callable[..., tuple[PyTree, State]],
    again: Callable[[Layer], Layer],
    copies: int,
    stream: StepPair | str,
) -> Layer:
    return Layer(
        init,
        apply,
        name=layer.kind,
        children={"": layer},
        rebuild=lambda new: again(new[""]),
        copies=copies,
        by_path=True,
        sequence_mode=SequenceMode.DELEGATE,
        stream=stream,
    )


def _stacked_start(
    layer: Layer, n: int, params: Params, state: State, x: PyTree, capacity: int | None
) -> Carry:
    def one(params: Params, state: State) -> Carry:
        with error_context(layer):
            return stream_of(layer).start(params, state, x, capacity=capacity)

    return jax.vmap(one, axis_size=n)(params, state)


def _through_copies(layer: Layer, n: int, x: PyTree, y: PyTree) -> PyTree:
    """``y`` with the receptive field of n copies on ``x``, where that of ``x`` is tracked."""
    fields = [sequence._receptive_field for sequence in sequences_in(x)]
    if None in fields or not fields:
        return y
    made = trace(layer, with_receptive_field(x, ReceptiveField())).out
    once = [sequence._receptive_field or ReceptiveField() for sequence in sequences_in(made)]
    field = functools.reduce(ReceptiveField.merge, fields)  # type: ignore[arg-type]
    for _ in range(n):
        field = field.compose(functools.reduce(ReceptiveField.merge, once))  # type: ignore[union-attr]
    return with_receptive_field(y, field)


def _stacked_init(layer: Layer, n: int, key: Any, x: PyTree) -> tuple[Params, State]:
    with error_context(layer):
        if isinstance(key, Path):
            return init_child(layer, key.stack(n), x)
        return jax.vmap(lambda key: layer._init(key, x))(_keys(key, n))


def _keys(key: jax.Array | None, n: int) -> jax.Array | None:
    if key is None:
        return None
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jax.numpy.arange(n))
