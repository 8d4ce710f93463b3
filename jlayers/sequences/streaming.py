"""stream: a causal model one block of steps at a time; causal: a custom layer that streams.

How to read this file: ``stream`` gives users the checked ``StepPair`` of a model, ``causal`` builds
a layer from one, ``receptive_field`` asks which steps an output depends on. What a composite does
with the steps of its children is in ``base/scope.py`` (``ApplyScope`` with a carry).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax

from ..base import arguments
from ..base.arrays import native_tree
from ..base.collecting import muted
from ..base.constructors import LayerOrFunction, lift, of_step
from ..base.errors import LayerError, error_context, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.receptive_field import CAUSAL, ReceptiveField
from ..base.sequence import is_sequence, sequences_in
from ..base.sequence_mode import SequenceMode, tracking
from ..base.specs import as_array, format_spec, path_text, specs_of
from ..base.step_pair import Blocks, StepPair, check_carry, stream_of, taking
from ..base.tracing import trace
from ..base.types import Carry, Params, PyTree, State
from ..base.validation import check_tree, check_tree_matches


@public_api
def stream(layer: LayerOrFunction, *, capacity: int | None = None) -> StepPair:
    """``start`` and ``step`` of a causal layer: its carry, and its output for the next block.

    ``start(params, state, x)`` gives the carry before the first step, for a block ``x`` or its
    spec; ``step(params, state, carry, block, key=None, train=False)`` takes the next block,
    (batch, k, ...), and gives its output and the next carry. The outputs of all blocks,
    concatenated, are what ``apply`` returns for the whole sequence. A carry is a dict of arrays,
    named like the parameters, whose shapes and dtypes never change: a step compiles once for each
    size of block, and a carry can be donated, saved and sharded.

    Args:
      layer: a causal layer.
      capacity: for how many steps attention without a window allocates its cache.

    Returns:
      ``(start, step)``.

    Raises:
      LayerError: when a layer inside reads later steps, naming it; from ``step``, for a block that
        is not a multiple of the strides, and for a carry of another layer.

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
    # None: no layer inside remembers all steps, or each has a window.
    if capacity is not None:
        capacity = arguments.positive("capacity", capacity)

    @public_api
    def start(params: Params, state: State, x: PyTree) -> Carry:
        with error_context(layer):
            _check_blocks(x)
            # What is too short for a window is a block here, and not an input.
            with taking(Blocks(streamed=True)):
                found = trace(layer, x)
            params, state = native_tree(params, "params"), native_tree(state, "state")
            check_tree_matches(params, found.params, "params", x, beside=state)
            check_tree_matches(state, found.state, "state", x)
            carry = begin(params, state, x)
            # After begin: a layer that cannot be streamed has said so there, by name.
            check_causal(layer, x)
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
            params, state = native_tree(params, "params"), native_tree(state, "state")
            with taking(Blocks(streamed=True)):
                trace(layer, x)
            # A block is a part of a sequence: its statistics are not those of training.
            if train and state:
                raise LayerError(
                    "has state, which a step cannot update: statistics are of whole batches",
                    got=", ".join(path_text(path) for path, _ in jax.tree.leaves_with_path(state)),
                    hint="train=False",
                )
            # The carry's specs follow from the block; nothing is computed to know them.
            expected = jax.eval_shape(lambda p, s: begin(p, s, x), params, state)
            check_tree_matches(carry, expected, "carry", x)
            advance = functools.partial(stream_of(layer).advance, key=key, train=train)
            # A block is a part of a sequence; what trains a model sees the whole.
            with taking(Blocks(streamed=True)):
                y, after, _ = muted(lambda: advance(params, state, carry, x))
            # With a carry of other shapes every block would be compiled by itself.
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
    """A layer from ``start`` and ``step`` alone: its ``apply`` is one step over the whole sequence.

    Args:
      start: ``start(params, state, x, *, capacity) -> carry``, a dict of arrays of fixed
        shapes, for the specs of a block of arrays.
      step: ``step(params, state, carry, x, *, key, train) -> (y, carry)`` for a block: an
        array, or a ``Sequence`` with zeros in the padding. A carry of None means that ``x`` is
        the whole sequence.
      init: ``init(key, x) -> params``, where there are any.
      receptive_field: the input steps that an output step depends on; by default all earlier ones.
        With steps beyond those of its stride the layer is refused in a stream.
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
    stride, _, lookahead = receptive_field
    ahead = lookahead > 0 and lookahead > stride - 1
    return Layer(
        lambda key, x: ({} if init is None else init(key, x), {}),
        of_step(step),
        name=name,
        # Declared and not derived: the pass sees shapes, and not which steps a step reads.
        sequence_mode=SequenceMode("whole", lambda x: receptive_field),
        stream="its receptive field has later steps" if ahead else StepPair(start, step),
    )


def _check_blocks(x: PyTree) -> None:
    for leaf in jax.tree.leaves(x):
        if len(getattr(leaf, "shape", ())) < 2:
            raise LayerError(
                "takes blocks", expected="(batch, steps, ...)", got=format_spec(specs_of(x))
            )


def check_causal(layer: Layer, x: PyTree, beside: PyTree = None) -> None:
    """Raises where a body looks ahead between its children, which no ``StepPair`` shows.

    Args:
      beside: what the layer reads beside the block ``x``, all of it at every step: it is given
        ``(x, beside)``. None where that is not known.
    """
    # With several inputs their fields cannot be told apart in the output.
    if len(jax.tree.leaves(x, is_leaf=is_sequence)) > 1:
        return  # a memory beside the block, all of which may be read
    followed = tracking(specs_of(x))
    tracked = followed if beside is None else (followed, beside)
    for sequence in sequences_in(trace(layer, tracked).out):
        # A finite one is that of windows and functions, each of which was asked for its own step:
        # windows may end in the block that their output comes with.
        field = sequence._receptive_field
        if field is not None and math.isinf(field.lookahead):
            raise LayerError(
                "cannot be streamed: its output depends on later steps",
                got=str(field),
            )


@public_api
def receptive_field(layer: LayerOrFunction, x: PyTree) -> ReceptiveField:
    """Which steps of its input a step of the layer's output depends on.

    Args:
      layer: a layer from sequences to sequences.
      x: arrays or specs, (batch, time, ...).

    Returns:
      A ``ReceptiveField``: stride, lookback and lookahead, ``math.inf`` for no bound, and from
      these its size and latency. It is composed of the receptive fields of the layers.

    Raises:
      LayerError: for a layer whose output is not a sequence.

    >>> import jlayers as jl
    >>> block = jl.Conv(4, 3, padding="CAUSAL", strides=2)
    >>> jl.receptive_field(jl.serial(block, block), jl.spec((1, 16, 4)))
    ReceptiveField(stride=4, lookback=6, lookahead=0)
    """
    layer = lift(layer)
    with error_context(layer):
        _check_blocks(x)
        y = trace(layer, tracking(specs_of(x))).out
        found = [sequence._receptive_field for sequence in sequences_in(y)]
        # Two outputs may have two receptive fields, and one step has one.
        if len(found) != 1 or found[0] is None:
            raise LayerError("its output is not one sequence", got=format_spec(y))
        return found[0]
