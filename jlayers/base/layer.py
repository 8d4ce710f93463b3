"""The layer: a pair of pure functions over parameter pytrees, and its description."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec

import jax

from . import arguments
from .errors import LayerError, caller_location, error_context, public_api, truncate
from .frozen import Frozen
from .initialization import make_all, path_of
from .naming import check_name
from .repr_text import function_text
from .sequence_mode import (
    SequenceMode,
    taking_sequences,
)
from .specs import Params, PyTree, State, as_array, format_short, placeholders, specs_of
from .step_pair import StepPair, filling
from .tracing import (
    Trace,
    checked_result,
    init_child,
    run_pair,
    trace,
)
from .validation import check_tree, check_tree_matches

P = ParamSpec("P")


class _Required:
    def __repr__(self) -> str:
        return "<required>"


_REQUIRED: Any = _Required()


class Layer(Frozen):
    """A pair of pure functions, and a small description of itself.

    ::

        init, apply = layer

        params, state = layer.init(key, x)
        y, state      = layer.apply(params, state, x, key=None, train=False)

    ``params`` and ``state`` are nested dicts of arrays with string keys, always both; a layer
    that has none of the one has ``{}``. ``x`` is one pytree: several inputs are a tuple or a dict.

    A layer is immutable and compared by identity. It is closed over by ``jax.jit``, never passed
    through it: ``jax.jit(layer.apply, static_argnames="train")``.

    Args:
      init: ``init(key, x) -> (params, state)``; ``x`` holds ``jax.ShapeDtypeStruct``s.
      apply: ``apply(params, state, x, *, key, train) -> (y, state)``.
      name: the kind, after which a parent names its positional children.
      children: layers inside this one by name; the name ``""`` says that the child goes by the
        layer's own name and that its parameters are the layer's own.
      rebuild: the same layer around other children of the same names.
      sequence_mode: how it takes a ``Sequence``: by default step by step.
      stream: its ``StepPair`` if it is causal in time and mixes steps; or why it has none.

    Attributes:
      kind: what a parent names the layer after: ``dense``, ``dense_1``, ...
      children: read-only mapping of names to layers, in order.
      site: ``file:line`` that built it.
      copies: how many layers stand in this one's place: n for ``repeat`` and ``ensemble``.

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

    __slots__ = (
        "_abstract",
        "_apply",
        "_by_path",
        "_init",
        "_named",
        "_rebuild",
        "_sequence_mode",
        "_stream",
        "_text",
        "_traces",
        "children",
        "copies",
        "kind",
        "maker",
        "site",
    )

    kind: str
    children: Mapping[str, Layer]
    copies: int
    site: str
    maker: str
    _init: Callable[..., tuple[Params, State]]
    _apply: Callable[..., tuple[PyTree, State]]
    _rebuild: Callable[[dict[str, Layer]], Layer] | None
    _abstract: Callable[..., tuple[Trace, PyTree]]
    _by_path: bool
    _named: bool
    _stream: StepPair | str | None
    _sequence_mode: SequenceMode
    _text: Callable[[], str]
    _traces: dict[Any, Trace]

    @public_api
    def __init__(
        self,
        init: Callable[..., tuple[Params, State]],
        apply: Callable[..., tuple[PyTree, State]],
        *,
        name: str | None = None,
        children: Mapping[str, Layer] | None = None,
        rebuild: Callable[[dict[str, Layer]], Layer] | None = None,
        copies: int = 1,
        abstract: Callable[..., tuple[Trace, PyTree]] = run_pair,
        by_path: bool = False,
        sequence_mode: SequenceMode = SequenceMode.PER_STEP,
        stream: StepPair | str | None = None,
    ):
        arguments.function("Layer's init", init, "key, x")
        arguments.function("Layer's apply", apply, "params, state, x", by_name="key, train")
        if name is not None:
            check_name(name)
        if children and rebuild is None:
            raise LayerError("a layer with children needs rebuild", hint="rebuild=lambda new: ...")
        kind = name or "layer"
        given = (init, apply)
        init, apply = taking_sequences(init, apply, sequence_mode)
        if isinstance(stream, StepPair) and sequence_mode.kind == "whole":
            stream = filling(stream)
        self._set(
            kind=kind,
            maker=kind,
            children=MappingProxyType(dict(children or {})),
            copies=copies,
            site=caller_location(),
            _named=name is not None,
            _text=lambda: f"Layer({', '.join(map(function_text, given))}, name={kind!r})",
            _init=init,
            _apply=apply,
            _rebuild=rebuild,
            _abstract=abstract,
            _by_path=by_path,
            _sequence_mode=sequence_mode,
            _stream=stream,
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
            trace(self, x)
            path = path_of(key)
            if path is None:
                return self._init(key, specs_of(x))
            return make_all(init_child(self, path, specs_of(x)))  # type: ignore[no-any-return]

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
          params, state: as ``init`` returned them, or later versions of these.
          x: arrays, one pytree.
          key: a typed key, for layers that draw random numbers.
          train: whether this is a training step; a Python bool.

        Returns:
          ``(y, state)``; with ``train=False`` the state is the one that came in.

        Raises:
          LayerError: where the input does not fit, where parameters or state are not the layer's
            own (all differences by path), and where a key is needed and missing.
        """
        with error_context(self):
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
            found = trace(self, x)
            x = jax.tree.map(as_array, x)
            check_tree_matches(params, found.params, "params", x, beside=state)
            check_tree_matches(state, found.state, "state", x)
            y, new_state = checked_result(self._apply(params, state, x, key=key, train=train))
            if train:
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
            rebuilt = self._rebuild({name: children[name] for name in self.children})
            return rebuilt._copy(kind=self.kind, site=self.site)

    def short(self) -> str:
        """The ``repr`` cut to one line."""
        return truncate(repr(self))

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        yield self.init
        yield self.apply

    def __repr__(self) -> str:
        return self._text()

    @public_api
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with error_context(self):
            raise LayerError(
                "a layer is called like a function",
                hint="y, state = layer.apply(params, state, x); inside a compose body, f.child(x)",
            )

    def _stand_in(self, calls: list[PyTree]) -> Layer:
        """A layer of the same shapes that computes nothing and notes the input of each call."""

        def init(key: jax.Array, x: PyTree) -> tuple[Params, State]:
            found = trace(self, x)
            return placeholders(found.params), placeholders(found.state)

        def apply(
            params: Params, state: State, x: PyTree, *, key: Any, train: bool
        ) -> tuple[PyTree, State]:
            calls.append(specs_of(x))
            return placeholders(trace(self, x).out), state

        return Layer(init, apply, name=self.kind, sequence_mode=SequenceMode.DELEGATE)._copy(
            maker=self.maker
        )
