"""RNN: any cell over a sequence, with the options that belong to the loop.

How to read this file: ``RNN`` builds a layer from a cell's definition; its ``step`` takes a block
of any number of steps, and ``apply`` is one block from the initial carry. ``short_form`` makes
``LSTM(...)`` and the like from ``RNN`` and a cell.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import Fraction
from ...base.collecting import asked_of_layer
from ...base.constructors import of_step
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.masks import joined_masks
from ...base.parameters import initialize
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_short, format_spec
from ...base.step_pair import StepPair, Stepping
from ...base.types import Carry, Key, Params, PyTree, Spec, State
from ...core.dispatch import compiled_when_eager
from ...core.recurrent.chunking import METHODS
from ...core.recurrent.chunking import Carry as CoreCarry
from ...core.recurrent.stepwise import Gates, ScanOptions, expand, stepwise
from .cell import CarrySpecs, Cell


@factory
def RNN(
    cell: Layer,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    trainable_carry: bool = False,
    zoneout: Fraction = 0.0,
    recurrent_dropout: Fraction = 0.0,
    method: str | None = None,
) -> Layer:
    """Runs a cell over a sequence, from a carry of zeros.

    ``LSTM(32, peephole=True, reverse=True)`` is short for ``RNN(LSTMCell(32, peephole=True),
    reverse=True)``, and likewise ``GRU``, ``SimpleRNN``, ``MinGRU``, ``LinearRecurrence`` and
    ``ConvLSTM``. The parameters are the cell's, under the layer's own name.

    Padded steps are skipped; the carry is passed on unchanged. As the layer is causal, ``stream``
    takes it block by block.

    LSTM, GRU, MGU and SimpleRNN run on a fused algorithm with a custom gradient, and MinGRU and
    LinearRecurrence as a linear recurrence. With zoneout, recurrent dropout, resets, or options of
    the cell such as ``peephole``, ``layer_norm`` and ``clip``, they run as a plain scan over the
    steps, which is slower.

    Args:
      cell: ``LSTMCell(32)``, or a ``Cell`` of your own.
      return_sequences: False for the output of the last valid step only.
      reverse: from the last step to the first; a sequence of outputs stays in the input's order.
      trainable_carry: the initial carry is a parameter, zeros at init.
      zoneout: in training each value of the carry keeps its old value with this probability;
        outside training it is the expected one, ``zoneout * old + (1 - zoneout) * new`` (Krueger
        et al., 2017).
      recurrent_dropout: in training each value of h is dropped with this probability where it
        meets the recurrent kernel, the same ones in all steps (Gal & Ghahramani, 2016). In a
        stream they are drawn from the key of each block: the same key, the same mask.
      method: whether the gradient is to ``"store"`` what a step computes or ``"recompute"`` it; by
        default whichever is expected to be faster. ``jl.explain`` shows which.

    Shapes:
      x: (batch, time, in), floating; or ``(x, resets)`` with bools (batch, time): before a step
      where they are True, in the order in which steps run, the carry is the initial one again.
      y: (batch, time, H), or (batch, H) without ``return_sequences``; of the dtype of ``x``.
      params: those of the cell; with ``trainable_carry`` also initial_h (H,), and likewise for each
      other array of the carry.

    Raises:
      LayerError: for ``train=True`` without a key, with zoneout or dropout; for recurrent dropout
        of a cell without a recurrent kernel.

    >>> import jlayers as jl
    >>> layer = jl.RNN(jl.LSTMCell(32, projection=16), trainable_carry=True)
    >>> episodes = (jl.spec((4, 10, 8)), jl.spec((4, 10), bool))
    >>> jl.out_spec(layer, episodes).shape
    (4, 10, 16)
    """
    if not isinstance(cell, Cell):
        raise LayerError(
            f"cell must be a Cell, got {format_short(cell)}",
            hint=_other_cell(cell),
        )
    if method is not None and method not in METHODS:
        # Here, and not by the core: only the plain scan would look at it, at the first input.
        raise LayerError(
            f"method must be {' or '.join(map(repr, METHODS))}, got {format_short(method)}",
            hint="without method= the faster one is chosen",
        )
    definition = cell.definition
    # Ignored, it would be an option that regularises nothing.
    if recurrent_dropout and not definition.has_product:
        raise LayerError(
            "recurrent_dropout drops h where it meets a recurrent kernel, and this cell has none",
            got=cell.short(),
            hint="Dropout(rate, shared_axes=1) after it; zoneout",
        )

    def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        x, resets = _split_resets(x)
        definition.check(x, "batch, time")
        steps = Spec(x.shape[:2], bool)
        got = getattr(resets, "shape", None), getattr(resets, "dtype", None)
        if resets is not None and got != (steps.shape, steps.dtype):
            # A pair is taken for (x, resets) before anything is known of it.
            raise LayerError(
                "takes (x, resets), and these are not resets of its steps",
                expected=format_spec(steps),
                got=format_spec(resets),
                hint="jl.carried(layer) takes (x, carry), such as {'h': h, 'c': c}; "
                "concat() to merge two inputs into one",
            )
        parameters = definition.parameters(_one_step(x))
        if trainable_carry:
            for name, spec in definition.carry(_one_step(x)).items():
                # One would silently be drawn instead of the other.
                if f"initial_{name}" in parameters:
                    raise LayerError(
                        f"the cell has a parameter 'initial_{name}', and so has trainable_carry",
                        hint="another name for the parameter of the cell",
                    )
                parameters[f"initial_{name}"] = (initializers.zeros, spec.shape[1:])
        return initialize(key, x, **parameters), {}

    def initial(params: Params, name: str, zeros: jax.Array) -> jax.Array:
        if not trainable_carry:
            return zeros
        return zeros + jnp.broadcast_to(params[f"initial_{name}"].astype(zeros.dtype), zeros.shape)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        x, _ = _split_resets(x)
        return {
            name: initial(params, name, jnp.zeros(spec.shape, spec.dtype))
            for name, spec in definition.carry(_one_step(x)).items()
        }

    def step(
        params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry]:
        x, resets = _split_resets(x)
        (values, mask), (resets, mask_of_resets) = split(x), split(resets)
        if mask_of_resets is not None:
            mask = mask_of_resets if mask is None else joined_masks(mask, mask_of_resets)
        specs = definition.carry(_one_step(values))
        # Also in a stream: a reset takes a row back to the first carry.
        zeros = _zeros_like(values)
        firsts = {name: initial(params, name, zeros(spec)) for name, spec in specs.items()}
        carry = firsts if carry is None else _placed_as(firsts, carry)
        noise = draw_noise(specs, values.shape[1], key, train)
        options = ScanOptions(reverse, mask, resets, tuple(firsts.values()), *noise)
        # The cell gets its own parameters only, as keyword arguments of a core function.
        initials = {f"initial_{name}" for name in specs} if trainable_carry else set()
        own = {name: value for name, value in params.items() if name not in initials}
        own = definition.cast(own, values)
        before = tuple(carry[name] for name in specs)
        # A faster algorithm has no gates to give.
        asked = asked_of_layer()
        fast = definition.scan if asked is None else None
        found = fast and fast(own, values, before, options, method)
        if found is None:
            loop = options._replace(reverse=False, zoneout_rate=None)
            names, rate, gates = tuple(specs), options.zoneout_rate, asked is not None
            steps, last, told = one_by_one(
                own, values, before, loop, names=names, rate=rate, gates=gates
            )
            found = steps, last
            if asked is not None:
                for name, gate in told.items():
                    asked.give(name, join(gate, mask))
        outputs, after = found[0].astype(values.dtype), found[1]
        y = join(outputs, mask) if return_sequences else after[0].astype(outputs.dtype)
        return y, dict(zip(specs, after, strict=True))

    # The options that are not arrays are static, and put back inside.
    @compiled_when_eager("names", "rate", "gates")
    def one_by_one(
        params: Params,
        x: jax.Array,
        carry: CoreCarry,
        options: ScanOptions,
        *,
        names: tuple[str, ...],
        rate: float | None,
        gates: bool,
    ) -> tuple[jax.Array, CoreCarry, Gates]:
        step_cell, name = definition.bind(params, names), definition.name or cell.kind
        options = options._replace(reverse=reverse, zoneout_rate=rate)
        return stepwise(step_cell, x, carry, options, method=method, name=name, gates=gates)

    def draw_noise(
        specs: CarrySpecs, steps: int, key: Key, train: bool
    ) -> tuple[jax.Array | None, CoreCarry | None, float | None]:
        """The last three of ``ScanOptions``: masks in training, a rate outside it."""
        if not train:
            return None, None, zoneout or None
        if not (zoneout or recurrent_dropout):
            return None, None, None
        if key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        dropout_mask, zoneout_mask = None, None
        # Each draw has its own number, so that one option does not change the values of another.
        if recurrent_dropout:
            h = next(iter(specs.values()))
            keep = jax.random.bernoulli(jax.random.fold_in(key, 0), 1 - recurrent_dropout, h.shape)
            # One mask for all steps, scaled so that the mean is the same as outside training.
            dropout_mask = keep.astype(h.dtype) / (1 - recurrent_dropout)
        if zoneout:
            zoneout_mask = tuple(
                jax.random.bernoulli(jax.random.fold_in(key, i), zoneout, (steps, *spec.shape))
                for i, spec in enumerate(specs.values(), 1)
            )
        return dropout_mask, zoneout_mask, None

    whole = "it reads the sequence from its end" if reverse else None
    if not return_sequences:
        whole = "it gives the last step alone"
    # No bound, though gates may forget: the field says what can matter.
    field = ReceptiveField(1, 0, math.inf) if reverse else CAUSAL
    return Layer(
        init,
        of_step(step),
        sequence_mode=SequenceMode("whole", lambda x: field),
        stream=Stepping.of(StepPair(start, step), whole),
    )._replace(_values=definition.gates)


_LOOP_OPTIONS = [name for name in inspect.signature(RNN).parameters if name != "cell"]


def short_form(make_cell: Callable[..., Layer], given: dict[str, Any]) -> Layer:
    """``RNN(make_cell(...), ...)`` from the arguments of a factory that takes those of both."""
    # By RNN's signature, so that an option of the loop is listed in one place.
    loop = {name: given.pop(name) for name in _LOOP_OPTIONS if name in given}
    # Without their decorators, so that the layer and its errors have the short form's name.
    layer: Layer = inspect.unwrap(RNN)(inspect.unwrap(make_cell)(**given), **loop)
    return layer


def _other_cell(given: object) -> str:
    """What to pass instead of ``given`` as a cell."""
    if isinstance(given, tuple | list):
        return "jl.serial(jl.RNN(a), jl.RNN(b)), one RNN for each cell"
    if getattr(given, "__jlayers_factory__", False):
        return f"call it: {getattr(given, '__name__', 'cell')}(32)"
    if isinstance(given, Layer):
        return "LSTMCell(32); LSTM(32) is a layer by itself"
    return "LSTMCell(32), or jl.Cell(parameters, carry, step)"


def _one_step(x: Spec | jax.Array) -> Spec:
    """The spec of (batch, ...) for (batch, time, ...)."""
    return Spec((x.shape[0], *x.shape[2:]), x.dtype)


def _zeros_like(x: jax.Array) -> Callable[[Spec], jax.Array]:
    """Zeros made from a slice of ``x``, to have its sharding: a scan requires that of a carry."""
    one = jnp.zeros_like(x[:, 0, ..., :1])

    def zeros(spec: Spec) -> jax.Array:
        like = one.astype(spec.dtype)
        if len(spec.shape) == one.ndim and spec.shape[:-1] == one.shape[:-1]:
            return jnp.broadcast_to(like, spec.shape)
        # A carry of other axes than the input has the sharding of its batch only.
        return expand(like[:, *(0,) * (one.ndim - 1)], spec.shape)

    return zeros


def _placed_as(firsts: Carry, carry: Carry) -> Carry:
    """The carry with the sharding of ``firsts``, which is that of the input."""
    return {
        name: carry[name]
        if jax.typeof(carry[name]) == jax.typeof(first)
        else carry[name] + jnp.zeros_like(first)
        for name, first in firsts.items()
    }


def _split_resets(x: PyTree) -> tuple[PyTree, PyTree]:
    """``(x, resets)``, the latter None where the input has none."""
    if isinstance(x, tuple | list) and len(x) == 2:
        return x[0], x[1]
    return x, None
