"""Wrappers of one layer: many copies in sequence or side by side, and rematerialisation.

All are transparent: they have the name of the layer inside, and its parameters, for ``repeat`` and
``ensemble`` stacked along a new first axis.

How to read this file: each wrapper has an ``abstract``, its part of the abstract pass, in which
the layer inside is traced once (``_stacked`` for copies), an ``apply``, and a ``Stepping``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.added_losses import add_loss, is_collecting
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.receptive_field import ReceptiveField
from ..base.sequence import sequences_in
from ..base.sequence_mode import with_receptive_field
from ..base.specs import format_short, format_spec, spec_key, specs_of
from ..base.step_pair import Stepping, check_carry, stream_of
from ..base.tracing import Trace, run, trace
from ..base.types import Carry, Key, Params, PyTree, Spec, State
from ..core.custom_gradient import varying_alike
from ..core.dispatch import compiled_when_eager
from .recomputation import stores_the_rest
from .transformed import Advanced, Losses, Mode, advanced, run_collecting, transformed
from .transparent import traced, wrapper

Policy = Callable[..., bool]


@factory
def repeat(
    layer: LayerOrFunction, n: int, remat: bool | Policy | None = None, *, shared: bool = False
) -> Layer:
    """``n`` copies in sequence, each with its own parameters, as one ``lax.scan``.

    Compile time does not grow with ``n``. Parameters and state are the layer's, each leaf with a
    new first axis of size ``n``. Copy i is initialised with ``fold_in(key, i)``. With ``shared`` it
    is one layer applied ``n`` times (Lan et al., 2019, arXiv:1909.11942): parameters and state are
    the layer's own.

    Args:
      layer: a layer whose output has the shapes and dtypes of its input.
      n: how many, at least 1.
      remat: what the backward pass recomputes. By default elementwise operations, which takes less
        time than to store them for every copy; True for all but each copy's input; False for
        nothing; or a policy of ``jax.checkpoint_policies``.
      shared: whether all copies have the same parameters, and one state goes through all of them.

    Raises:
      LayerError: if the output is not shaped like the input.

    >>> import jax, jlayers as jl
    >>> deep = jl.repeat(jl.residual(jl.Dense(8)), 12)
    >>> params, state = deep.init(jax.random.key(0), jl.spec((4, 8)))
    >>> params["body"]["kernel"].shape
    (12, 8, 8)
    """
    if isinstance(layer, int) and not isinstance(n, int):
        raise LayerError(
            f"expected a layer, got {layer}",
            expected="repeat(layer, n)",
            hint="the layer comes first",
        )
    inner = lift(layer)
    n = arguments.positive("n", n)
    if remat is not None and not isinstance(remat, bool) and not callable(remat):
        raise LayerError(f"remat must be True, False or a policy, got {format_short(remat)}")

    def abstract(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x, calls=n) if shared else _stacked(inner, n, key, x)
        # A layer may widen the receptive field, which does not belong to the shape.
        if spec_key(with_receptive_field(specs_of(y), None)) != spec_key(
            with_receptive_field(specs_of(x), None)
        ):
            raise LayerError(
                "the output of a repeated layer differs from its input",
                expected=format_spec(specs_of(x)),
                got=format_spec(specs_of(y)),
                hint="a layer that keeps its shape and dtype, or serial",
            )
        return found, _through_copies(inner, n, x, with_receptive_field(y, None))

    # Whether losses are collected is an argument: the compiled programs differ.
    @compiled_when_eager("train", "collects")
    def scan(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool, collects: bool
    ) -> tuple[PyTree, tuple[State, Losses]]:
        def step(
            loop: tuple[PyTree, State], copy: tuple[Params, State, Key]
        ) -> tuple[tuple[PyTree, State], tuple[State, Losses]]:
            own = (params, loop[1]) if shared else copy[:2]
            with error_context(inner):
                given = *own, loop[0], copy[2]
                (y, new), losses = run_collecting(inner, *given, train, collects)
                return (y, new if shared else {}), ({} if shared else new, losses)

        if remat is not False:
            policy: Policy | None = None
            if remat is not True:
                policy = stores_the_rest if remat is None else remat
            # prevent_cse is for straight code; a scan keeps the copies apart by itself.
            step = jax.checkpoint(step, policy=policy, prevent_cse=False)
        stacked = ({}, {}) if shared else (params, state)
        loop = x, _varying_as(x, state) if shared else {}
        (y, last), (new, losses) = lax.scan(step, loop, (*stacked, _keys(key, n)), length=n)
        return y, (last if shared else new, losses)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        # The receptive field must not enter the loop's carry, whose structure cannot change.
        plain = with_receptive_field(x, None)
        collects = is_collecting()
        y, (new_state, losses) = scan(params, state, plain, key=key, train=train, collects=collects)
        for loss in losses:
            add_loss(jnp.sum(loss))
        return _through_copies(inner, n, x, y), new_state if train else state

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        def one(params: Params, state: State) -> Carry:
            with error_context(inner):
                return stream_of(inner).start(params, state, x, capacity=capacity)

        return jax.vmap(one, None if shared else 0, axis_size=n)(params, state)

    @compiled_when_eager("mode")
    def scan_blocks(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, mode: Mode
    ) -> tuple[PyTree, Carry, State | None, Losses]:
        one: Callable[..., Advanced] = functools.partial(advanced, inner, mode)
        if remat is not None and remat is not False:
            policy = None if remat is True else remat
            one = jax.checkpoint(one, policy=policy, prevent_cse=False)

        def step(
            loop: tuple[PyTree, Carry, State], copy: PyTree
        ) -> tuple[PyTree, tuple[State | None, Losses]]:
            (x, carries, last), (*own, key, i) = loop, copy
            before = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), carries)
            with error_context(inner):
                given = (params, last) if shared else own
                (x, after, new), losses = one(*given, before, x, key)
                check_carry(before, after)
            put = lax.dynamic_update_index_in_dim
            carries = jax.tree.map(lambda a, b: put(a, b, i, 0), carries, after)
            # Unchanged, it need not be written again.
            stored = new if mode.train and not shared else None
            return (x, carries, new if shared else {}), (stored, losses)

        # The carries of all copies stay in one place: as a scan's input and output they would be
        # copied, and a cache of keys and values is most of what a short step touches.
        copies = (*(() if shared else (params, state)), _keys(key, n), jnp.arange(n))
        loop = x, carry, state if shared else {}
        (y, after, last), (new, losses) = lax.scan(step, loop, copies, length=n)
        return y, after, last if shared and mode.train else new, losses

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        mode = Mode.here(train)
        y, after, new, losses = scan_blocks(params, state, carry, x, key=key, mode=mode)
        for loss in losses:
            add_loss(jnp.sum(loss))
        return y, after, state if new is None else new

    again = functools.partial(repeat, n=n, remat=remat, shared=shared)
    return wrapper(inner, abstract, apply, again, Stepping(start, advance), None if shared else n)


@factory
def ensemble(layer: LayerOrFunction, n: int, *, shared: bool = True) -> Layer:
    """``n`` independent copies of a layer on one input, under ``vmap``.

    Parameters, state and outputs have a new first axis of size ``n``. Copy i is initialised
    with ``fold_in(key, i)``.

    Args:
      layer: any layer.
      n: how many, at least 1.
      shared: whether all copies take the same input. Otherwise arrays of the input have a first
        axis of size ``n``, and copy i takes the i-th entry.

    Raises:
      LayerError: without ``shared``, for an input with another first axis, and for a ``Sequence``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.ensemble(jl.Dense(3), 5), jl.spec((8, 2))).shape
    (5, 8, 3)
    """
    inner = lift(layer)
    n = arguments.positive("n", n)

    def abstract(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        if not shared:
            _check_entries(x, n)
            x = jax.tree.map(lambda leaf: leaf[0], x)
        found, y = _stacked(inner, n, key, x)
        return found, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), y)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        def one(
            params: Params, state: State, key: Key, x: PyTree
        ) -> tuple[tuple[PyTree, State], Losses]:
            with error_context(inner):
                return run_collecting(inner, params, state, x, key, train, is_collecting())

        # axis_size, for a layer without parameters, state and key has nothing to map over.
        mapped = jax.vmap(one, (0, 0, 0, None if shared else 0), axis_size=n)
        (y, new_state), losses = mapped(params, state, _keys(key, n), x)
        for loss in losses:
            add_loss(jnp.sum(loss))
        return y, new_state if train else state

    unstreamed = "its output does not begin with (batch, time)"
    again = (
        functools.partial(ensemble, n=n)
        if shared
        else functools.partial(ensemble, n=n, shared=False)
    )
    return wrapper(inner, abstract, apply, again, unstreamed, n)


@factory
def remat(layer: LayerOrFunction, policy: Policy | None = None) -> Layer:
    """The same layer, recomputed in the backward pass instead of stored (``jax.checkpoint``).

    On CPU jaxlib 0.10 undoes this outside of loops; ``repeat(layer, n, remat=True)`` is a loop.

    Args:
      layer: any layer.
      policy: what to store, of ``jax.checkpoint_policies``; by default the input alone.

    >>> import jlayers as jl
    >>> jl.remat(jl.Dense(3))
    remat(Dense(3))
    """
    inner = lift(layer)
    if policy is not None and not callable(policy):
        raise LayerError(
            f"policy must be one of jax.checkpoint_policies, got {format_short(policy)}"
        )

    def checkpointed(run: Callable[..., Any], *args: Any) -> Any:
        return jax.checkpoint(run, policy=policy)(*args)

    return transformed(inner, checkpointed, lambda new: remat(new, policy))


def _varying_as(x: PyTree, state: State) -> State:
    """The state as it is after a step: inside a ``shard_map`` it varies where the input does."""
    leaves, treedef = jax.tree.flatten((state, x))
    alike: tuple[State, PyTree] = jax.tree.unflatten(treedef, varying_alike(tuple(leaves)))
    return alike[0]


def _check_entries(x: PyTree, n: int) -> None:
    """Raises unless each copy of an ensemble has an entry of its own in every array."""
    if sequences_in(x) or any(jnp.shape(leaf)[:1] != (n,) for leaf in jax.tree.leaves(x)):
        raise LayerError(
            "the input does not hold an entry for each copy",
            expected=f"arrays ({n}, ...), without a mask",
            got=format_spec(specs_of(x)),
            hint="shared=True for one input of all copies",
        )


def _stacked(layer: Layer, n: int, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """The abstract pass of n copies, and the output of one of them."""
    with error_context(layer):
        found, y = run(layer, key, x)

    # The axis of the copies comes first in params and state, as lax.scan and vmap take it.
    def stacked(specs: PyTree) -> PyTree:
        if isinstance(specs, dict):  # not by jax.tree, which sorts
            return {name: stacked(entry) for name, entry in specs.items()}
        return Spec((n, *specs.shape), specs.dtype)

    inputs = {"": (specs_of(x),)}
    params, state = stacked(found.params), stacked(found.state)
    return Trace(params, state, None, inputs, inside={"": found}, copies=n), y


def _through_copies(layer: Layer, n: int, x: PyTree, y: PyTree) -> PyTree:
    """``y`` with the receptive field of n copies on ``x``, where that of ``x`` is tracked."""
    # n copies widen the field n times; the scan itself has to carry one structure.
    fields = [sequence._receptive_field for sequence in sequences_in(x)]
    if None in fields or not fields:
        return y
    made = trace(layer, with_receptive_field(x, ReceptiveField())).out
    once = [sequence._receptive_field or ReceptiveField() for sequence in sequences_in(made)]
    field = functools.reduce(ReceptiveField.merge, fields)  # type: ignore[arg-type]
    for _ in range(n):
        field = field.compose(functools.reduce(ReceptiveField.merge, once))  # type: ignore[union-attr]
    return with_receptive_field(y, field)


def _keys(key: Key, n: int) -> jax.Array | None:
    # No key for any copy: the layers that need one raise.
    if key is None:
        return None
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
