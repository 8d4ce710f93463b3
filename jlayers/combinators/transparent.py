"""What wrappers of one layer share: its name is theirs, and so are its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import LayerError, error_context
from ..base.layer import Layer
from ..base.lazy_weights import guarded
from ..base.parameters import MadeFrom, ParamSpec
from ..base.paths import INSTRUMENT, check_each_fits, fits, flatten, unflatten
from ..base.sequence_mode import SequenceMode
from ..base.specs import format_spec, specs_of
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import AbstractFn, Trace, run
from ..base.types import ApplyFn, Carry, Initializer, Key, Params, PyTree, State
from ..base.weight_use import Change, WeightUse


def wrapper(
    layer: Layer,
    abstract: AbstractFn,
    apply: ApplyFn,
    again: Callable[[Layer], Layer],
    stream: Stepping | str,
    copies: int | None = None,
) -> Layer:
    """A layer around ``layer``.

    Args:
      abstract, apply, stream: as for ``Layer``.
      copies: how many there are, where parameters have an axis of copies.
      again: the same wrapper around another layer.
    """
    made = Layer(
        None,
        apply,
        name=layer.kind,
        children={"": layer},
        rebuild=lambda new: again(new[""]),
        copies=1 if copies is None else copies,
        abstract=abstract,
        sequence_mode=SequenceMode.DELEGATE,
        stream=stream,
    )
    return made if copies is None else made._replace(_weights=WeightUse(stacked=True))


def traced(layer: Layer, key: jax.Array, x: PyTree, calls: int = 1) -> tuple[Trace, PyTree]:
    """The abstract pass of a wrapper that calls its layer once, or several times alike."""
    with error_context(layer):
        found, y = run(layer, key, x)
    inputs = {"": (specs_of(x),) * calls}
    return Trace(found.params, found.state, None, inputs, inside={"": found}), y


def start_of(layer: Layer) -> Callable[..., Carry]:
    """The ``start`` of a wrapper whose carry is that of ``layer``."""

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        with error_context(layer):
            return stream_of(layer).start(params, state, x, capacity=capacity)

    return start


def with_changed_weights(
    layer: Layer, change: Change, abstract: AbstractFn, again: Callable[[Layer], Layer]
) -> Layer:
    """A layer that is ``layer`` with other weights, made of its own parameters and state.

    Args:
      change: it may put lazy weights where the layer has arrays.
      abstract, again: as for ``wrapper``.
    """
    inner = guarded(layer)

    def merged(state: State, own: State) -> State:
        return unflatten({**flatten(state), **own}) if own else state

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        params, rest, own = change(params, state, train)
        with error_context(layer):
            y, new = inner._apply(params, rest, x, key=key, train=train)
        return y, merged(new, own) if train else state

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        params, rest, _ = change(params, state, False)
        with error_context(layer):
            return stream_of(inner).start(params, rest, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        params, rest, own = change(params, state, train)
        with error_context(layer):
            step = stream_of(inner).advance
            y, carry, new = step(params, rest, carry, x, key=key, train=train)
        return y, carry, merged(new, own) if train else state

    made = wrapper(layer, abstract, apply, again, Stepping(start, advance))
    return made._replace(_weights=WeightUse(change=change))


class Parts(NamedTuple):
    """What a transform puts beside a weight, each of them by the end of its name.

    Attributes:
      params: ``"lora_a"`` is the parameter ``kernel_lora_a``; ``""`` the weight's own parameter,
        with other initial values.
      state: the same for entries of the state.
    """

    params: Mapping[str, ParamSpec] = {}
    state: Mapping[str, ParamSpec] = {}


def with_lazy_weights(
    layer: Layer,
    patterns: tuple[str, ...],
    again: Callable[[Layer], Layer],
    weight: Callable[..., Any],
    *,
    params: tuple[str, ...] = (),
    state: tuple[str, ...] = (),
    parts: Callable[[ParamSpec], Parts] = lambda spec: Parts(),
    update: Callable[..., Mapping[str, jax.Array]] | None = None,
    least_axes: int = 2,
    floating: bool = True,
) -> Layer:
    """``with_changed_weights`` that treats each weight whose path fits by itself.

    Args:
      patterns: of parameters of ``layer``.
      again: the same around another layer.
      weight: ``weight(array, **parts)``, what the layer inside gets; the array may be a lazy weight
        already, and all of them may have axes of copies in front.
      params, state: the names of what is beside a weight, without ``""``.
      parts: how these are made, from the weight's entry of the table of parameters.
      update: ``update(array, **parts of the state)``, the next ones; called in training.
      least_axes: of one copy of a weight.
      floating: whether it has to be a floating array.
    """
    beside, kept_beside = params, state

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(layer, key, x)
        tables: tuple[dict[str, ParamSpec], dict[str, ParamSpec]] = ({}, {})
        weights = weights_of(found, patterns, least_axes, floating, layer)
        for path, spec in weights.items():
            for table, made in zip(tables, parts(spec), strict=True):
                table |= {f"{path}_{name}" if name else path: s for name, s in made.items()}
        own = {path for path in tables[0] if path in weights}
        return with_entries(found, tables[0], tables[1], own), y

    # Which of these paths are weights, and not what is beside one.
    @functools.lru_cache(maxsize=16)
    def weights_in(paths: tuple[str, ...], entries: tuple[str, ...]) -> list[str]:
        found, lacking = [], {}
        for path in paths:
            if not weight_fits(path, patterns):
                continue
            parts = [f"{path}_{name}" for name in beside if f"{path}_{name}" not in paths]
            parts += [f"{path}_{name}" for name in kept_beside if f"{path}_{name}" not in entries]
            if parts:
                lacking[path] = parts
            else:
                found.append(path)
        for path in found:
            for name in beside:
                lacking.pop(f"{path}_{name}", None)
        # apply has checked its trees; merge is given trees, and no input to check them for.
        if lacking or not found:
            raise not_those_of_the_model(next(iter(lacking.values()), patterns))
        return found

    def change(params: Params, state: State, train: bool) -> tuple[Params, State, State]:
        leaves, rest = flatten(params), flatten(state)
        after: dict[str, jax.Array] = {}
        for path in weights_in(tuple(leaves), tuple(rest)):
            given = {name: leaves.pop(f"{path}_{name}") for name in beside}
            kept = {name: rest.pop(f"{path}_{name}") for name in kept_beside}
            if update is not None and train:
                kept = dict(update(leaves[path], **kept))
            after |= {f"{path}_{name}": value for name, value in kept.items()}
            leaves[path] = weight(leaves[path], **given, **kept)
        return unflatten(leaves), unflatten(rest) if after else state, after

    return with_changed_weights(layer, change, abstract, again)


def not_those_of_the_model(absent: Iterable[str]) -> LayerError:
    """The error for trees that lack what a transform has put into them."""
    return LayerError(
        "params and state are not those of the model",
        got="none of " + ", ".join(absent),
        hint="those that init of the model with its transforms gives",
    )


def with_entries(
    found: Trace,
    params: Mapping[str, ParamSpec],
    state: Mapping[str, ParamSpec],
    replaced: Iterable[str] = (),
) -> Trace:
    """The pass of a wrapper that adds entries to the tables of the layer inside, by their paths.

    Args:
      replaced: the paths of those that are there and made in another way.

    Raises:
      LayerError: where one has the name of another, as when a transform is applied twice.
    """
    trees = []
    for tree, table, known in (
        (found.params, params, found.parameters),
        (found.state, state, found.variables),
    ):
        for path in table:
            if path in known and path not in replaced:
                raise LayerError(f"{path!r} is there already", got=repr(known[path]))
        specs = {path: jax.ShapeDtypeStruct(s.shape, s.dtype) for path, s in table.items()}
        trees.append(unflatten({**flatten(tree), **specs}) if specs else tree)
    return dataclasses.replace(
        found, params=trees[0], state=trees[1], own_parameters=params, own_variables=state
    )


def weights_of(
    found: Trace,
    patterns: tuple[str, ...],
    least_axes: int = 2,
    floating: bool = True,
    layer: Layer | None = None,
) -> dict[str, ParamSpec]:
    """The parameters that fit, which are floating and have an axis beside that of outputs.

    Args:
      layer: the one that they are of, by which copies are counted, also those that a table hides.

    Raises:
      LayerError: for a pattern that fits none, and for a parameter of fewer axes or of integers.
    """
    check_each_fits(patterns, [*found.parameters], negated=True)
    chosen = {path: spec for path, spec in found.parameters.items() if weight_fits(path, patterns)}
    if layer is not None:
        chosen = {path: _weight(spec, copies_at(layer, path)) for path, spec in chosen.items()}
    for path, spec in chosen.items():
        if floating and not jnp.issubdtype(spec.dtype, jnp.floating):
            raise LayerError(
                f"{path} is not a floating array, and cannot be transformed",
                got=format_spec(spec),
                hint="a quantised weight comes last: quantize(lora(model))",
            )
        if len(spec.shape_of_one) < least_axes:
            raise LayerError(
                f"{path} has no axis beside that of outputs",
                got=format_spec(spec),
                hint='a pattern of kernels alone: "**/*kernel"',
            )
    return chosen


def weight_fits(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a parameter is selected: ``**`` takes none of an instrument, such as a probe."""
    own = not any(name.startswith(INSTRUMENT) for name in path.split("/"))
    return own and fits(path, patterns)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Weight(ParamSpec):
    """A weight's entry of a table.

    Attributes:
      hidden: sizes of axes of copies that the table does not know of, as inside a pair of functions
        around a ``repeat``, which makes all copies in one call.
    """

    hidden: tuple[int, ...] = ()

    @property
    def shape_of_one(self) -> tuple[int, ...]:
        return self.shape[len(self.copies) + len(self.hidden) :]


def _weight(spec: ParamSpec, copies: int) -> ParamSpec:
    hidden = spec.shape[len(spec.copies) : copies]
    return _Weight(spec.initializer, spec.shape, spec.dtype, spec.key_path, hidden)


def made_from(
    weight: ParamSpec, function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]
) -> ParamSpec:
    """An array whose initial value is ``function`` of that of a weight: drawn by the same key.

    Args:
      shape: of one copy.
    """
    hidden = _hidden(weight)
    for _ in hidden:
        function = jax.vmap(function)
    made = MadeFrom(weight, (*hidden, *weight.shape_of_one), function)
    return beside(weight, made, shape, weight.key_path)


def drawn_beside(
    weight: ParamSpec, name: str, init: Initializer, shape: tuple[int, ...]
) -> ParamSpec:
    """An array of an initialiser of its own, as many copies of it as of the weight."""
    hidden = _hidden(weight)

    def of_copies(key: jax.Array, _: object, dtype: Any) -> jax.Array:
        def of_one(key: jax.Array) -> jax.Array:
            return init(key, shape, dtype)

        make: Callable[[jax.Array], jax.Array] = of_one
        for _size in hidden:
            make = jax.vmap(make)
        return make(jax.random.split(key, hidden))

    return beside(weight, of_copies if hidden else init, shape, (*weight.key_path, name))


def beside(
    weight: ParamSpec,
    init: Initializer,
    shape: tuple[int, ...],
    key_path: tuple[str | int, ...],
    dtype: np.dtype[Any] | None = None,
) -> ParamSpec:
    """An array in as many copies as a weight; ``shape`` is that of one, ``dtype`` the weight's."""
    whole = (*weight.copies, *_hidden(weight), *shape)
    return ParamSpec(init, whole, dtype or weight.dtype, key_path)


def _hidden(weight: ParamSpec) -> tuple[int, ...]:
    return weight.hidden if isinstance(weight, _Weight) else ()


def copies_at(layer: Layer, path: str) -> int:
    """How many axes of copies a parameter has in front, from the layers that it is in."""
    name, _, rest = path.partition("/")
    copies = int(layer._weights.stacked)
    if "" in layer.children:
        return copies + copies_at(layer.children[""], path)
    return copies + (copies_at(layer.children[name], rest) if name in layer.children else 0)
