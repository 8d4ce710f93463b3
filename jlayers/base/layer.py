"""The layer: a pair of pure functions over parameter pytrees, and its description.

How to read this file: ``Layer.init`` and ``Layer.apply`` are the two public functions. Both ask
the abstract pass (``tracing``) what the layer needs for this input; ``init`` draws the table that
the pass wrote (``initialization``), ``apply`` calls the layer's own function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Self

import jax

from . import arguments
from .arrays import native_tree
from .description import Call, portable
from .editing import Editable
from .errors import LayerError, caller_location, error_context, public_api, truncate
from .initialization import draw
from .notebook import InNotebooks
from .parameters import check_name
from .repr_text import function_text
from .sequence_mode import SequenceMode, taking_sequences
from .specs import (
    as_array,
    format_short,
    input_specs,
    placeholders,
    spec_key,
    specs_of,
    tree_matches,
)
from .step_pair import StepPair, Stepping, filling, stream_of
from .tracing import AbstractFn, Trace, checked_result, run, run_pair, trace, trace_given
from .types import ApplyFn, Carry, InitFn, Key, Params, PyTree, State
from .validation import check_tree, check_tree_matches
from .weight_use import WeightUse
from .wrong_input import refuse_trees


class _Required:
    def __repr__(self) -> str:
        return "<required>"


# Not None, which is a valid x: a layer without inputs.
_REQUIRED: Any = _Required()
Rebuild = Callable[[dict[str, "Layer"]], "Layer"]


@dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, weakref_slot=True)
class Layer(Editable, InNotebooks):
    """A pair of pure functions, and a small description of itself.

    ::

        init, apply = layer

        params, state = layer.init(key, x)
        y, state      = layer.apply(params, state, x, key=None, train=False)

    ``params`` and ``state`` are nested dicts of arrays with string keys. Every layer has both;
    without parameters or state they are ``{}``. ``x`` is one pytree: several inputs are a tuple or
    a dict.

    A layer is immutable and compared by identity. It is closed over by ``jax.jit``, never passed
    through it: ``jax.jit(layer.apply, static_argnames="train")``.

    Args:
      init: ``init(key, x) -> (params, state)``; ``x`` holds ``jax.ShapeDtypeStruct``s.
      apply: ``apply(params, state, x, *, key, train) -> (y, state)``.
      name: the kind, after which a parent names its positional children.
      children: layers inside this one by name; a child named ``""`` has the path and the
        parameters of the layer itself.
      rebuild: ``rebuild(children)``, the same layer around other children of the same names.
      sequence_mode: how it takes a ``Sequence``; by default ``apply`` is looked at, and has to
        work on each step by itself.
      stream: its ``StepPair`` if it is causal in time and mixes steps; or a text that says why it
        cannot be streamed.
      lazy_weights: names of parameters that ``apply`` takes as they come from a transform of
        weights, such as ``lora``: it calls ``core.dense`` with them. Others are arrays.
      abstract: instead of ``init``, the layer's part of the abstract pass, which writes the table
        of parameters; combinators have one.

    Attributes:
      kind: what a parent names the layer after: ``dense``, ``dense_1``, ...
      children: read-only mapping of names to layers, in order.
      maker: the name of the function that built it.
      site: ``file:line`` of that call.
      copies: how many copies of its child it holds: n for ``repeat`` and ``ensemble``.
      args: read-only mapping of the arguments that it was built with, by name.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> count = jl.Layer(
    ...     init=lambda key, x: ({}, {"calls": jnp.zeros((), jnp.int32)}),
    ...     apply=lambda params, state, x, *, key, train: (
    ...         x, {"calls": state["calls"] + 1} if train else state),
    ...     name="count")
    >>> params, state = count.init(jax.random.key(0), jl.spec((4,)))
    >>> count.apply(params, state, jnp.ones(4), train=True)[1]
    {'calls': Array(1, dtype=int32)}
    """

    kind: str
    maker: str
    site: str
    children: Mapping[str, Layer]
    copies: int
    _named: bool
    _text: Callable[[], str]
    _call: Call
    _init: InitFn | None
    _apply: ApplyFn
    _apply_to_array: ApplyFn
    _rebuild: Rebuild | None
    _of_children: Rebuild | None
    _abstract: AbstractFn
    _sequence_mode: SequenceMode
    _stream: Stepping | str | None
    _weights: WeightUse
    _values: tuple[str, ...]
    _traces: dict[Hashable, Trace]

    @public_api
    def __init__(
        self,
        init: InitFn | None,
        apply: ApplyFn,
        *,
        name: str | None = None,
        children: Mapping[str, Layer] | None = None,
        rebuild: Rebuild | None = None,
        copies: int = 1,
        abstract: AbstractFn | None = None,
        sequence_mode: SequenceMode = SequenceMode.UNKNOWN,
        stream: StepPair | Stepping | str | None = None,
        lazy_weights: tuple[str, ...] = (),
    ):
        if abstract is None:
            arguments.function("Layer's init", init, "key, x")
        arguments.function("Layer's apply", apply, "params, state, x", by_name="key, train")
        if name is not None:
            check_name(name)
        # Without it rewrite could not change the children.
        if children and rebuild is None:
            raise LayerError("a layer with children needs rebuild", hint="rebuild=lambda new: ...")
        if not isinstance(lazy_weights, tuple | list):
            raise LayerError(
                f"lazy_weights must be a tuple of names, got {format_short(lazy_weights)}",
                hint='lazy_weights=("kernel",)',
            )
        kind = name or "layer"
        options = {
            "name": name,
            "children": children,
            "rebuild": rebuild,
            "copies": copies,
            "abstract": abstract,
            "sequence_mode": sequence_mode,
            "stream": stream,
            "lazy_weights": lazy_weights,
        }
        given = [function for function in (init, apply) if function is not None]
        # Blocks are filled with zeros in the padding, as whole Sequences are.
        if isinstance(stream, StepPair):
            stream = Stepping.of(stream)
        if isinstance(stream, Stepping) and sequence_mode.kind == "whole":
            stream = filling(stream)
        init_of, apply_to = taking_sequences(init, apply, sequence_mode)
        self._set(
            kind=kind,
            maker=kind,
            site=caller_location(),
            # A copy that cannot be written to: what was traced depends on the children.
            children=MappingProxyType(dict(children or {})),
            copies=copies,
            _named=name is not None,
            _text=lambda: f"Layer({', '.join(map(function_text, given))}, name={kind!r})",
            _call=Call(type(self), (init, apply), options),
            _init=init_of,
            _apply=apply_to,
            _apply_to_array=apply,
            _rebuild=rebuild,
            _of_children=None,
            _abstract=run_pair if abstract is None else abstract,
            _sequence_mode=sequence_mode,
            _stream=stream,
            _weights=WeightUse(tuple(lazy_weights)),
            # What it can give of its inside where that is asked for: see base/collecting.py.
            _values=(),
            _traces={},
        )

    @public_api
    def init(self, key: jax.Array, x: PyTree = _REQUIRED) -> tuple[Params, State]:
        """New parameters and state for inputs shaped like ``x``.

        The whole model is checked before the first parameter is made.

        Args:
          key: a typed key, ``jax.random.key(0)``.
          x: arrays or ``jax.ShapeDtypeStruct``s; only shapes and dtypes are used.

        Returns:
          ``(params, state)``, nested dicts of arrays.

        Raises:
          LayerError: where ``x`` does not fit the layer or a layer inside it.
        """
        with error_context(self):
            if x is _REQUIRED:
                raise LayerError(
                    "init got one argument",
                    expected="init(key, x)",
                    hint="x may be a spec: jl.spec((32, 784))",
                )
            arguments.typed_key(key)
            return draw(trace(self, x), key)

    @public_api
    def apply(
        self,
        params: Params,
        state: State,
        x: PyTree = _REQUIRED,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[PyTree, State]:
        """The output of the layer, and its next state.

        Args:
          params, state: as ``init`` returned them, or as training has updated them.
          x: arrays, one pytree.
          key: a typed key, for layers that draw random numbers.
          train: whether this is a training step; a Python bool.

        Returns:
          ``(y, state)``; with ``train=False`` the state is the one that came in.

        Raises:
          LayerError: where the input does not fit, where parameters or state are not those of the
            layer (with all differences by path), and where a key is needed and missing.
        """
        # On this path no module is entered that only explains what is wrong.
        with error_context(self):
            # A message needs the order of the checks; a call that is right needs none of them.
            dicts = type(params) is dict and type(state) is dict
            if key is not None or not dicts or x is _REQUIRED or type(train) is not bool:
                _check_arguments(params, state, x, key, train)
            found = self._traces.get(spec_key(input_specs(x)))
            if found is None:
                found = trace(self, x)
            # Layers are written for the methods and the promotion rules of JAX arrays.
            x = jax.tree.map(as_array, x)
            if not (tree_matches(params, found.params) and tree_matches(state, found.state)):
                # Also what NumPy or another library holds in a way that JAX does not take.
                params, state = native_tree(params, "params"), native_tree(state, "state")
                refuse_trees(self, params, state, x)
            result = self._apply(params, state, x, key=key, train=train)
            if not (type(result) is tuple and len(result) == 2 and type(result[1]) is dict):
                result = checked_result(result)
            y, new_state = result
            # With train=False the layer returned the state it got, which was checked.
            if train and not tree_matches(new_state, found.state):
                check_tree_matches(new_state, found.state, "new state", x)
            return y, new_state

    @public_api
    def rebuild(self, children: Mapping[str, Layer]) -> Layer:
        """The same layer around other children of the same names.

        Raises:
          LayerError: if the names are not those of ``children``.
        """
        with error_context(self):
            names = list(children) if isinstance(children, Mapping) else None
            if self._rebuild is None or names is None or set(names) != set(self.children):
                raise LayerError(
                    "cannot be rebuilt around these children",
                    expected=", ".join(self.children) or "no children",
                    got=format_short(children)
                    if names is None
                    else ", ".join(names) or "no children",
                )
            # In the layer's own order, which its function may rely on.
            rebuilt = self._rebuild({name: children[name] for name in self.children})
            # The kind keeps its place in a parent's names; the site is where the user built it.
            return rebuilt._replace(kind=self.kind, site=self.site)

    def short(self) -> str:
        """The ``repr`` cut to one line."""
        return truncate(repr(self))

    # For ``init, apply = layer``, as for the pairs of optax and stax.
    def __iter__(self) -> Iterator[Callable[..., tuple[PyTree, State]]]:
        yield self.init
        yield self.apply

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Layer is immutable: {name!r} of {self.short()} was not set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Layer is immutable: {name!r} of {self.short()} was not deleted")

    def __copy__(self) -> Layer:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Layer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The call that built it. What was found out since, and the functions inside, stay here.
        make, args, kwargs, _ = self._call
        with error_context(self):
            call = portable(make), portable(tuple(args)), portable(dict(kwargs))
        return _built_again, (*call, self.kind, self.site)

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    # Not ``dataclasses.replace``: it calls the constructor with every field, and this one takes
    # what a user gives. Nor ``frozen=True``, whose error does not say which layer it was.
    def _replace(self, **changes: object) -> Self:
        """The same layer with other values of some fields. What was traced is shared."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # The traces are shared: what differs is the description, not the functions.
        copy = object.__new__(type(self))
        copy._set(**(fields | changes))
        return copy

    def __repr__(self) -> str:
        return self._text()

    @public_api
    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        with error_context(self):
            raise LayerError(
                "a layer cannot be called like a function",
                hint="y, state = layer.apply(params, state, x); inside a compose body, f.child(x)",
            )

    def _stand_in(self, calls: list[PyTree]) -> Layer:
        """A layer of the same shapes that computes nothing and records the input of each call."""

        # The child is traced by itself, once: a stand-in costs nothing, however often it is called.
        def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
            found = trace(self, x)
            return placeholders(found.params), placeholders(found.state)

        def apply(
            params: Params, state: State, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, State]:
            calls.append(specs_of(x))
            return placeholders(trace_given(self, params, state, x).out), state

        def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
            return stream_of(self).start(params, state, x, capacity=capacity)

        def advance(
            params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, Carry, State]:
            return apply(params, state, x, key=key, train=train)[0], carry, state

        # A pass over the body, which may come before the call, is not recorded.
        return Layer(
            init,
            apply,
            name=self.kind,
            abstract=lambda layer, key, x: run(self, key, x),
            sequence_mode=SequenceMode.DELEGATE,
            stream=Stepping(start, advance),
        )._replace(maker=self.maker)


def _built_again(
    make: Callable[..., Layer], args: tuple[Any, ...], kwargs: dict[str, Any], kind: str, site: str
) -> Layer:
    """A layer from its pickle; the site is where it was built first."""
    return make(*args, **kwargs)._replace(kind=kind, site=site)


def _check_arguments(params: object, state: object, x: PyTree, key: object, train: object) -> None:
    """Raises for the first argument of ``apply`` that is of the wrong kind."""
    check_tree(params, "params")
    if x is _REQUIRED:
        raise LayerError(
            "apply got two arguments",
            expected="apply(params, state, x)",
            hint="the state that init returned goes between params and x; "
            "jl.without_state(layer) for a pair that has none",
        )
    check_tree(state, "state")
    if key is not None:
        arguments.typed_key(key)
    arguments.train_flag(train)
