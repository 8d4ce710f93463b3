"""Cell: what one step of a recurrent layer computes.

How to read this file: ``CellDefinition`` is all that ``RNN`` reads of a cell. ``Cell`` makes one
from a user's functions; the cells of jlayers, which also have an algorithm for all steps at once,
give theirs to ``Cell.of``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.description import Call
from ...base.errors import LayerError, calling_user_code, public_api
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.repr_text import function_text
from ...base.specs import cast_like, format_short, format_spec, specs_of
from ...base.types import Initializer, Key, Params, Spec, State
from ...core.dtypes import at_least_float32
from ...core.recurrent.chunking import Carry
from ...core.recurrent.linear import Coefficients, linear_recurrence
from ...core.recurrent.stepwise import ScanOptions, StepCell

Parameters = dict[str, tuple[Initializer, Sequence[int]] | None]
CarrySpecs = dict[str, Spec]
Scan = Callable[[Params, jax.Array, Carry, ScanOptions, str | None], tuple[jax.Array, Carry] | None]


def check_features(x: Any, leading: str) -> None:
    """Raises unless ``x`` is (*leading, features): (batch, time, features) for a sequence."""
    # One axis more than leading has commas, and the features.
    axes, rank = f"({leading}, features)", leading.count(",") + 2
    arguments.one_array(
        x, axes, rank, lower="Reshape((time, features)) before it; Embedding for ids"
    )
    arguments.floating(x)
    arguments.not_empty(x, axes)


def check_rank(rank: int) -> Callable[[Any, str], None]:
    """Raises unless ``x`` has ``rank`` axes after the leading ones."""
    if rank == 1:
        return check_features

    def check(x: Any, leading: str) -> None:
        arguments.one_array(x, f"({leading}, ...)", leading.count(",") + 1 + rank)
        arguments.floating(x)

    return check


# Apart from Cell, which is public: what RNN reads may change without breaking users' cells.
class CellDefinition(NamedTuple):
    """What ``RNN`` knows of a cell.

    Attributes:
      parameters: the initialiser and shape of each parameter, for the spec of one step's input;
        an entry of None is left out.
      carry: the name and spec of each array of the carry, in order; the first is the output.
      bind: ``bind(params, names)``, the step for given parameters and names of the carry. It is
        called outside the scan, so that what depends on parameters alone is computed once.
      scan: ``scan(params, x, carry, options, method)``, a faster algorithm for (batch, time, ...);
        None for options that it does not cover.
      check: ``check(x, leading)`` raises for an input that the cell does not take; ``leading`` is
        "batch", or "batch, time" for a sequence.
      float32: parameters that stay in float32 at least, whatever the dtype of the input.
      has_product: whether h meets a kernel, where recurrent dropout would act.
      name: of the operation, in errors and ``explain``; by default the layer's kind.
      gates: the names that the cell's ``gates`` gives, of what a step computes on the way.
    """

    parameters: Callable[[Spec], Parameters]
    carry: Callable[[Spec], CarrySpecs]
    bind: Callable[[Params, tuple[str, ...]], StepCell[Any]]
    scan: Scan | None = None
    check: Callable[[Any, str], None] = check_features
    float32: tuple[str, ...] = ()
    has_product: bool = True
    name: str | None = None
    gates: tuple[str, ...] = ()

    def cast(self, params: Params, x: jax.Array) -> Params:
        """The parameters in the dtype in which they are used."""
        wide = {name: params[name].astype(at_least_float32(x.dtype)) for name in self.float32}
        cast: Params = cast_like(params, x)
        return cast | wide


@dataclasses.dataclass(init=False, repr=False, eq=False)
class Cell(Layer):
    """One step of a recurrence; ``RNN(cell)`` runs it over a sequence.

    Masks, resets, streaming, ``reverse`` and all other options of ``RNN`` work for every cell. By
    itself a cell is a layer of one step: ``apply`` takes ``(x, carry)`` and gives ``(y, carry)``.

    Args:
      parameters: ``parameters(x) -> {name: (init, shape)}`` for the spec of one step's input,
        (batch, features); ``init`` as in ``jax.nn.initializers``.
      carry: the sizes of the arrays (batch, size) that a step passes to the next one, by name:
        ``{"h": 32}``. Or ``carry(x)`` that gives their specs. The first is the output.
      step: ``step(params, x, h, carry) -> carry``, dicts of arrays (batch, ...). ``h`` is the first
        entry of ``carry`` as the products with recurrent kernels should read it: ``RNN`` applies
        recurrent dropout to it. The parameters have the dtype of the input.
      project: ``project(params, x)``, the part of a step that depends on the input alone, which
        replaces ``x`` in ``step``. It is computed for all steps at once, from (time, batch,
        features): one large product instead of many small ones.
      rank: how many axes the input of a step has after the batch: 3 for (height, width, channels).

    Shapes:
      x: ((batch, features), carry); ``RNN`` takes (batch, time, features).
      y: (the first entry of the carry in the dtype of ``x``, carry).

    Raises:
      LayerError: where a step gives a carry of other names, shapes or dtypes.

    A layer of leaky integrators (Jaeger et al., 2007):

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> @jl.factory
    ... def LeakyCell(features, leak=0.1):
    ...     def parameters(x):
    ...         return {
    ...             "kernel": (jax.nn.initializers.glorot_uniform(), (x.shape[-1], features)),
    ...             "recurrent_kernel": (jax.nn.initializers.orthogonal(), (features, features)),
    ...         }
    ...     def step(params, x, h, carry):
    ...         new = jnp.tanh(x + h @ params["recurrent_kernel"])
    ...         return {"h": (1 - leak) * carry["h"] + leak * new}
    ...     return jl.Cell(parameters, {"h": features}, step,
    ...                    project=lambda params, x: x @ params["kernel"])
    >>> jl.RNN(LeakyCell(16), reverse=True)
    RNN(LeakyCell(16), reverse=True)
    >>> jl.out_spec(jl.RNN(LeakyCell(16)), jl.spec((4, 10, 8))).shape
    (4, 10, 16)
    """

    definition: CellDefinition

    @public_api
    def __init__(
        self,
        parameters: Callable[[Spec], Parameters],
        carry: Mapping[str, int] | Callable[[Spec], CarrySpecs],
        step: Callable[[Params, Any, jax.Array, dict[str, jax.Array]], dict[str, jax.Array]],
        *,
        project: Callable[[Params, jax.Array], Any] | None = None,
        rank: int = 1,
    ):
        arguments.function("parameters", parameters, "x")
        arguments.function("step", step, "params, x, h, carry")
        if project is not None:
            arguments.function("project", project, "params, x")
        sizes_or_carry = dict(carry) if isinstance(carry, Mapping) else carry
        if isinstance(carry, Mapping):
            sizes = {
                name: arguments.positive(f"the size of {name!r} in the carry", carry[name])
                for name in carry
            }
            # From here on there is one form of carry.
            carry = rows(sizes)
        arguments.function("carry", carry, "x")

        def bind(params: Params, names: tuple[str, ...]) -> StepCell[Any]:
            def step_(projected: Any, h: jax.Array, before: Carry) -> Carry:
                # By name for the user; the core's carry is a tuple, whose order is fixed.
                old = dict(zip(names, before, strict=True))
                new = step(params, projected, h, old)
                if specs_of(new, "the carry") != specs_of(old):
                    raise LayerError(
                        "the step gave another carry than it was given",
                        expected=format_spec(specs_of(old)),
                        got=format_short(new),
                    )
                return tuple(new[name] for name in names)

            def projected_of(x: jax.Array) -> Any:
                if project is None:
                    return x
                projected = project(params, x)
                leaves = jax.tree.leaves(projected)
                # A scan would take other axes for time, and give a result of another length.
                if not leaves or any(jnp.shape(leaf)[:2] != x.shape[:2] for leaf in leaves):
                    raise LayerError(
                        "project must keep the leading axes (time, batch)",
                        expected=f"arrays [{x.shape[0]}, {x.shape[1]}, ...]",
                        got=format_short(projected),
                    )
                return projected

            return StepCell(projected_of, step_)

        given = Call(Cell, (parameters, sizes_or_carry, step), {"project": project, "rank": rank})
        text = f"Cell({function_text(parameters)}, {function_text(step)})"
        check = check_rank(arguments.positive("rank", rank))
        parameters, carry = _checked_parameters(parameters), _checked_carry(carry)
        self._define(CellDefinition(parameters, carry, bind, check=check), text)
        self._set(_call=given)

    @classmethod
    def of(cls, definition: CellDefinition) -> Cell:
        # Without __init__, whose checks are for a user's functions.
        cell = object.__new__(cls)
        cell._define(definition, f"Cell({definition.name})")
        return cell

    def _define(self, definition: CellDefinition, text: str) -> None:
        def parts(inputs: Any) -> tuple[Any, dict[str, Any], CarrySpecs]:
            if not (isinstance(inputs, tuple | list) and len(inputs) == 2):
                raise LayerError(
                    "a cell takes one step: (x, carry)",
                    got=format_short(inputs),
                    hint="RNN(cell) for a sequence",
                )
            x, carry = inputs
            # The same check as RNN's, so that a cell alone and in RNN refuses the same inputs.
            definition.check(x, "batch")
            specs = definition.carry(x)
            wanted = {name: spec.shape for name, spec in specs.items()}
            fits = isinstance(carry, dict)
            if not fits or {name: jnp.shape(value) for name, value in carry.items()} != wanted:
                raise LayerError(
                    "the carry does not fit the cell",
                    expected=format_spec(specs),
                    got=format_short(carry),
                )
            return x, carry, specs

        def init(key: jax.Array, inputs: Any) -> tuple[Params, State]:
            x, _, _ = parts(inputs)
            return initialize(key, x, **definition.parameters(x)), {}

        def apply(
            params: Params, state: State, inputs: Any, *, key: Key, train: bool
        ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], State]:
            x, carry, specs = parts(inputs)
            cell = definition.bind(definition.cast(params, x), tuple(specs))
            before = tuple(carry[name].astype(spec.dtype) for name, spec in specs.items())
            # As a sequence of one step, since a projection may treat the time axis apart.
            projected = jax.tree.map(lambda values: values[0], cell.project(x[None]))
            after = cell.step(projected, before[0], before)
            return (after[0].astype(x.dtype), dict(zip(specs, after, strict=True))), state

        # RNN(cell) is what streams.
        super().__init__(init, apply, stream="it is one step of a sequence")
        self._set(definition=definition, kind="cell", maker="Cell", _text=lambda: text)


def rows(sizes: Mapping[str, int], wide: bool = False) -> Callable[[Spec], CarrySpecs]:
    """``carry`` of vectors (batch, size), in the dtype of the input; ``wide``: float32 at least."""

    def carry(x: Spec) -> CarrySpecs:
        dtype = at_least_float32(x.dtype) if wide else x.dtype
        return {name: Spec((x.shape[0], size), dtype) for name, size in sizes.items()}

    return carry


def fused_scan(run: Callable[..., tuple[jax.Array, Carry]], **arguments: object) -> Scan:
    """``scan`` by a function of ``core.recurrent.fused``, which knows no noise and no resets."""

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        # The caller then takes the plain scan.
        if not options.fusible:
            return None
        where = {"reverse": options.reverse, "mask": options.mask}
        return run(x, carry, **params, **where, method=method, **arguments)

    return scan


def linear_scan_of(bind: Callable[[Params, tuple[str, ...]], StepCell[Coefficients]]) -> Scan:
    """``scan`` of a linear recurrence, for which there are no gates to store or recompute."""

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        # The plain scan alone has zoneout, and the choice that method= makes.
        if options.zoneout or method is not None:
            return None
        decay, update = bind(params, ("h",)).project(x)
        outputs, last = linear_recurrence(decay, update, carry[0], options)
        return outputs, (last,)

    return scan


def _checked_parameters(parameters: Callable[[Spec], Parameters]) -> Callable[[Spec], Parameters]:
    """A user's ``parameters``, whose result is checked."""

    def is_pair(entry: object) -> bool:
        return isinstance(entry, tuple) and len(entry) == 2 and callable(entry[0])

    def checked(x: Spec) -> Parameters:
        with calling_user_code("parameters"):
            found = parameters(x)
        if not isinstance(found, dict) or not all(
            entry is None or is_pair(entry) for entry in found.values()
        ):
            raise LayerError(
                "parameters must give an initialiser and a shape for each name",
                expected='{"kernel": (init, shape)}',
                got=format_short(found),
            )
        return dict(found)

    return checked


def _checked_carry(carry: Callable[[Spec], CarrySpecs]) -> Callable[[Spec], CarrySpecs]:
    """A user's ``carry``, whose result is checked."""

    def checked(x: Spec) -> CarrySpecs:
        with calling_user_code("carry"):
            specs = carry(x)
        if not isinstance(specs, dict) or not specs:
            raise LayerError(
                "carry must give one named array or more",
                expected='{"h": jl.spec((batch, size))}',
                got=format_short(specs),
            )
        # Entry by entry: jax.tree would sort the names, and the first is the output.
        return {name: specs_of(spec, "the carry") for name, spec in specs.items()}

    return checked
