"""stream: a causal model one block of steps at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..base import arguments
from ..base.constructors import lift
from ..base.errors import LayerError, error_context, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.naming import entry_of, merge_entry
from ..base.receptive_field import CAUSAL, ReceptiveField
from ..base.scope import ApplyScope, Scope
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import SequenceMode
from ..base.specs import (
    Params,
    PyTree,
    State,
    as_array,
    format_spec,
    path_text,
    specs_of,
)
from ..base.step_pair import (
    Carry,
    StepPair,
    check_carry,
    of_step,
    stream_of,
)
from ..base.tracing import trace
from ..base.validation import check_tree, check_tree_matches

Body = Callable[[Scope, PyTree], PyTree]


@public_api
def stream(layer: Any, *, capacity: int | None = None) -> StepPair:
    """The second pair of a causal layer: what it remembers, and a step of any number of steps.

    ``start(params, state, x)`` gives the carry before the first step, for a block ``x`` or its
    spec; ``step(params, state, carry, block, key=None, train=False)`` takes the next block,
    (batch, k, ...), and gives its output and the next carry. Blocks of any sizes put together give
    what ``apply`` gives for the whole sequence. A carry is a dict of arrays, named like the
    parameters, whose shapes and dtypes never change: a step compiles once for each size of block,
    and a carry can be donated, saved and sharded.

    Args:
      layer: a causal layer.
      capacity: how many steps attention without a window has room for.

    Returns:
      ``(start, step)``.

    Raises:
      LayerError: when a layer inside reads later steps, naming it; from ``step``, for a block that
        is no multiple of the strides, and for a carry that is not the layer's own.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.serial(jl.Conv(4, 3, padding="CAUSAL"), jl.LSTM(5))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 6, 2)))
    >>> x = jax.random.normal(jax.random.key(1), (1, 6, 2))
    >>> start, step = jl.stream(model)
    >>> carry = start(params, state, x)
    >>> first, carry = step(params, state, carry, x[:, :4])
    >>> rest, carry = step(params, state, carry, x[:, 4:])
    >>> whole, _ = model.apply(params, state, x)
    >>> bool(jnp.allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6))
    True
    """
    layer = lift(layer)
    if capacity is not None:
        capacity = arguments.positive("capacity", capacity)

    @public_api
    def start(params: Params, state: State, x: PyTree) -> Carry:
        with error_context(layer):
            _check_blocks(x)
            found = trace(layer, x)
            check_tree_matches(params, found.params, "params", x, beside=state)
            check_tree_matches(state, found.state, "state", x)
            carry = begin(params, state, x)
            _check_sees_no_later_step(layer, x)
            return carry

    def begin(params: Params, state: State, x: PyTree) -> Carry:
        return stream_of(layer).start(params, state, specs_of(x), capacity=capacity)

    @public_api
    def step(
        params: Params,
        state: State,
        carry: Carry,
        x: PyTree,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[PyTree, Carry]:
        with error_context(layer):
            for tree, what in ((params, "params"), (state, "state"), (carry, "carry")):
                check_tree(tree, what)
            if key is not None:
                arguments.typed_key(key)
            arguments.train_flag(train)
            _check_blocks(x)
            x = jax.tree.map(as_array, x)
            trace(layer, x)
            if train and state:
                raise LayerError(
                    "has state, which a step does not move: statistics are those of whole batches",
                    got=", ".join(path_text(path) for path, _ in jax.tree.leaves_with_path(state)),
                    hint="train=False",
                )
            expected = jax.eval_shape(lambda p, s: begin(p, s, x), params, state)
            check_tree_matches(carry, expected, "carry", x)
            y, after = stream_of(layer).step(params, state, carry, x, key=key, train=train)
            check_carry(carry, after)
            return y, after

    return StepPair(start, step)


@factory
def causal(
    start: Callable[..., Carry],
    step: Callable[..., tuple[PyTree, Carry]],
    *,
    init: Callable[[jax.Array, PyTree], Params] | None = None,
    receptive_field: ReceptiveField = CAUSAL,
    name: str | None = None,
) -> Layer:
    """A layer from ``start`` and ``step`` alone: its ``apply`` is one step from the beginning.

    Args:
      start: ``start(params, state, x, *, capacity) -> carry``, a dict of arrays of fixed
        shapes, for the specs of a block of arrays.
      step: ``step(params, state, carry, x, *, key, train) -> (y, carry)`` for a block: an
        array, or a ``Sequence`` with zeros in the padding. With None for a carry, ``x`` is the
        whole sequence.
      init: ``init(key, x) -> params``, where there are any.
      receptive_field: which input steps an output step is made of; all earlier ones by default.
      name: what a parent names it after.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> def start(params, state, x, *, capacity):
    ...     return {"last": jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype)}
    >>> def step(params, state, carry, x, *, key, train):
    ...     before = (carry or start(params, state, x, capacity=None))["last"]
    ...     late = jnp.concatenate([before, x], 1)
    ...     return late[:, :-1], {"last": late[:, -1:]}
    >>> delay = jl.causal(start, step, receptive_field=jl.ReceptiveField(lookback=1, lookahead=-1))
    >>> delay.apply({}, {}, jnp.asarray([[[1.0], [2.0], [3.0]]]))[0].ravel().tolist()
    [0.0, 1.0, 2.0]
    """
    arguments.function("start", start, "params, state, x", by_name="capacity")
    arguments.function("step", step, "params, state, carry, x", by_name="key, train")
    if init is not None:
        arguments.function("init", init, "key, x")
    return Layer(
        lambda key, x: ({} if init is None else init(key, x), {}),
        of_step(step),
        name=name,
        sequence_mode=SequenceMode("whole", lambda x: receptive_field),
        stream=StepPair(start, step),
    )


def _check_blocks(x: PyTree) -> None:
    for leaf in jax.tree.leaves(x):
        if len(getattr(leaf, "shape", ())) < 2:
            raise LayerError(
                "takes blocks", expected="(batch, steps, ...)", got=format_spec(specs_of(x))
            )


def _check_sees_no_later_step(layer: Layer, x: PyTree) -> None:
    """What bodies do between their children can look ahead too, where they keep the mask."""
    if len(jax.tree.leaves(x, is_leaf=is_sequence)) > 1:
        return  # a memory beside the block, which is seen whole
    for sequence in sequences_in(trace(layer, _followed(x)).out):
        if sequence._receptive_field is not None and sequence._receptive_field.lookahead > 0:
            raise LayerError(
                "cannot be streamed: its output sees later steps",
                got=str(sequence._receptive_field),
            )


def _followed(x: PyTree) -> PyTree:
    """The input with what its steps are made of noted: themselves."""
    return jax.tree.map(
        lambda node: (node if is_sequence(node) else Sequence(node))._with_field(ReceptiveField()),
        specs_of(x),
        is_leaf=is_sequence,
    )


@public_api
def receptive_field(layer: Any, x: PyTree) -> ReceptiveField:
    """Which steps of its input a step of the layer's output is made of.

    Args:
      layer: a layer from sequences to sequences.
      x: arrays or specs, (batch, time, ...).

    Returns:
      A ``ReceptiveField``: stride, lookback and lookahead, ``math.inf`` for no bound; from these
      its size and the latency. It is composed of what the layers report of themselves.

    Raises:
      LayerError: for a layer whose output is no sequence.

    >>> import jlayers as jl
    >>> block = jl.Conv(4, 3, padding="CAUSAL", strides=2)
    >>> jl.receptive_field(jl.serial(block, block), jl.spec((1, 16, 4)))
    ReceptiveField(stride=4, lookback=6, lookahead=0)
    """
    layer = lift(layer)
    with error_context(layer):
        _check_blocks(x)
        y = trace(layer, _followed(x)).out
        found = [sequence._receptive_field for sequence in sequences_in(y)]
        if len(found) != 1 or found[0] is None:
            raise LayerError("its output is not one sequence", got=format_spec(y))
        return found[0]


class StepScope(ApplyScope):
    """Runs a body on a block: its children take their step."""

    streaming = True

    def __init__(
        self, children: Mapping[str, Layer], params: Params, state: State, carry: Carry, *rest: Any
    ):
        super().__init__(children, params, state, *rest)
        self._carry = carry
        self.carry: Carry = {}

    def _run_call(
        self, call: str, child: Layer, params: Params, state: State, x: PyTree, key: Any
    ) -> tuple[PyTree, State]:
        y, after = stream_of(child).step(
            params, state, entry_of(self._carry, call), x, key=key, train=self.train
        )
        if after:
            merge_entry(self.carry, call, after)
        return y, state


def stream_of_body(
    body: Body, children: Mapping[str, Layer], layer: Callable[[], Layer]
) -> StepPair:
    """The stream of a composite: its children's, wired by its body.

    A child that is called twice has two carries, ``name`` and ``name/1``.
    """

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        carry: Carry = {}
        for name, inputs in trace(layer(), x).inputs.items():
            child = children[name]
            for again, child_x in enumerate(inputs):
                with error_context(child, name):
                    entry = stream_of(child).start(
                        entry_of(params, name), entry_of(state, name), child_x, capacity=capacity
                    )
                if entry:
                    merge_entry(carry, f"{name}/{again}" if again else name, entry)
        return carry

    def step(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, Carry]:
        f = StepScope(children, params, state, carry, x, key, train)
        return body(f, x), f.carry

    return StepPair(start, step)
