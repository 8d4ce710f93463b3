"""The namespace ``f`` of a ``compose`` body, once for init and once for apply."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .errors import LayerError, error_context
from .layer import Layer
from .naming import check_name, child_key, entry_of, merge_entry
from .parameters import Initializer, cast_like, make
from .specs import Params, PyTree, State, checked_spec, format_spec, specs_of, storage_dtype
from .tracing import Declaration, Trace, run


class Variable:
    """A value that stays between steps: read ``.value``, and set it when training.

    Setting raises ``LayerError`` outside training, and for another shape or dtype.
    """

    __slots__ = ("_frame", "_name")

    def __init__(self, frame: Scope, name: str):
        self._frame = frame
        self._name = name

    @property
    def value(self) -> jax.Array:
        return self._frame._variables[self._name]  # type: ignore[no-any-return]

    @value.setter
    def value(self, new: jax.Array) -> None:
        if not self._frame.train:
            raise LayerError(
                f"the variable {self._name!r} is set outside training",
                hint=f"if f.train: {self._name}.value = ...",
            )
        old = self.value
        wide = jnp.issubdtype(old.dtype, jnp.inexact)
        if isinstance(new, int) or (isinstance(new, float) and wide):
            new = jnp.asarray(new, old.dtype)  # a Python number has no dtype of its own
        if specs_of(new, f"the variable {self._name!r}") != specs_of(old):
            raise LayerError(
                f"the variable {self._name!r} would change its shape or dtype",
                expected=format_spec(old),
                got=format_spec(new),
            )
        self._frame._variables[self._name] = jnp.asarray(new, old.dtype)


class Scope:
    """The ``f`` of a ``compose`` body.

    ``f.child(x)`` or ``f["child"](x)`` calls a child; calling one twice shares its parameters.

    Attributes:
      train: whether this is a training step, a Python bool.
      children: the names of the children, in order.
      streaming: whether ``x`` is a block of a sequence, of which others may come.
    """

    train: bool
    streaming = False

    def __init__(self, children: Mapping[str, Layer], x: PyTree, key: Any, train: bool):
        self.train = train
        self._children = children
        self._x = x
        self._key = key
        self._keys_drawn = 0
        self._calls: list[tuple[str, PyTree, PyTree]] = []
        self._variables: dict[str, Any] = {}
        self._asked: set[str] = set()

    @property
    def children(self) -> tuple[str, ...]:
        return tuple(self._children)

    def __getattr__(self, name: str) -> Callable[[PyTree], PyTree]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Callable[[PyTree], PyTree]:
        if name not in self._children:
            raise LayerError(
                f"the body asks for a child {name!r} that was not given",
                got=f"children {', '.join(self._children) or 'none'}",
                hint=f"compose(body, {name}=...)",
            )
        return functools.partial(self._call, name)

    def param(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = None
    ) -> jax.Array:
        """A trainable parameter of this layer.

        Args:
          name: its name in the parameters.
          init: ``init(key, shape, dtype)``, as in ``jax.nn.initializers``.
          shape: its shape.
          dtype: of storage and use; by default stored in float32 (float64 for float64 inputs)
            and given in the floating dtype of the body's input.
        """
        stored = storage_dtype(self._x) if dtype is None else dtype
        value = self._param(name, self._declare(name, init, shape, stored))
        return value if dtype is not None else cast_like(value, self._x)  # type: ignore[no-any-return]

    def variable(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> Variable:
        """A value in the state, such as a running mean: read and set its ``.value``.

        Args:
          name: its name in the state.
          init: ``init(key, shape, dtype)``.
          shape: its shape.
          dtype: its dtype.
        """
        self._variables[name] = self._variable(name, self._declare(name, init, shape, dtype))
        return Variable(self, name)

    def key(self) -> jax.Array:
        """A fresh key at each call.

        Raises:
          LayerError: if ``apply`` was given none.
        """
        if self._key is None:
            raise LayerError("needs a key and got none", hint="layer.apply(..., key=key)")
        self._keys_drawn += 1
        return jax.random.fold_in(self._key, self._keys_drawn)

    def _declare(self, name: str, init: Initializer, shape: Any, dtype: Any) -> Declaration:
        check_name(name)
        if name in self._children or name in self._asked:
            raise LayerError(
                f"{name!r} stands for two things in one layer",
                hint="ask for a parameter once and keep it; another name for another one",
            )
        self._asked.add(name)
        wanted = checked_spec(f"the shape of {name!r}", shape, dtype)
        return Declaration(init, wanted.shape, wanted.dtype)

    def _call(self, name: str, /, *xs: PyTree, **named: PyTree) -> PyTree:
        if len(xs) != 1 or named:
            raise LayerError(
                f"the child {name!r} takes one input",
                got=f"{len(xs)} inputs" + "".join(f", and one named {own!r}" for own in named),
                hint=f"f.{name}(x); several inputs are a tuple: f.{name}((a, b))",
            )
        child = self._children[name]
        scope = jax.named_scope(name) if name else contextlib.nullcontext()
        with error_context(child, name, self._before), scope:
            y = self._run_child(name, child, xs[0])
        self._calls.append((name, xs[0], y))
        return y

    def _before(self) -> list[tuple[str, str, str]]:
        return [
            (name, format_spec(specs_of(x)), format_spec(specs_of(y)))
            for name, x, y in self._calls
            if name
        ]

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        raise NotImplementedError

    def _param(self, name: str, wanted: Declaration) -> Any:
        raise NotImplementedError

    def _variable(self, name: str, wanted: Declaration) -> Any:
        raise NotImplementedError


class InitScope(Scope):
    """Runs a body abstractly: notes what it asks for, each child's inputs and shapes."""

    def __init__(self, children: Mapping[str, Layer], x: PyTree, key: jax.Array):
        super().__init__(children, x, key, train=False)
        self.params: Params = {}
        self.state: State = {}
        self.inputs: dict[str, list[PyTree]] = {name: [] for name in children}
        self.params_declared: dict[str, Declaration] = {}
        self.state_declared: dict[str, Declaration] = {}

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        found, y = run(child, self._key, x)
        for tree, new, what in (
            (self.params, found.params, "parameters"),
            (self.state, found.state, "state"),
        ):
            if self.inputs[name] and tree.get(name, {}) != new:
                raise LayerError(
                    f"two calls with different inputs need different {what}",
                    got=f"{format_spec(self.inputs[name][0])} and {format_spec(specs_of(x))}",
                    hint="two children in the place of one that is called twice",
                )
            if new:
                merge_entry(tree, name, new)
        self.inputs[name].append(specs_of(x))
        return y

    def _param(self, name: str, wanted: Declaration) -> jax.Array:
        self.params_declared[name] = wanted
        value: jax.Array = make(self._key, name, *wanted)
        self.params[name] = specs_of(value)
        return value

    def _variable(self, name: str, wanted: Declaration) -> jax.Array:
        self.state_declared[name] = wanted
        value: jax.Array = make(self._key, name, *wanted)
        self.state[name] = specs_of(value)
        return value

    def found(self) -> Trace:
        idle = [name for name, calls in self.inputs.items() if not calls]
        if idle:
            raise LayerError(
                f"the body never calls its child {idle[0]!r}",
                hint="call every child whatever f.train is, or leave it out",
            )
        return Trace(
            self.params,
            self.state,
            None,
            {name: tuple(calls) for name, calls in self.inputs.items()},
            self.params_declared,
            self.state_declared,
        )


class ApplyScope(Scope):
    """Runs a body on given parameters and state, and collects the next state."""

    def __init__(
        self,
        children: Mapping[str, Layer],
        params: Params,
        state: State,
        x: PyTree,
        key: jax.Array | None,
        train: bool,
    ):
        super().__init__(children, x, key, train)
        self._params = params
        self._old_state = state
        self._state_of_children: dict[str, State] = {}
        self._times: dict[str, int] = {}

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        again = self._times.get(name, 0)
        self._times[name] = again + 1
        # From the parent's key: a key folded with 1 is a part of split(key), which the first call
        # may have drawn from. No child's name holds a slash.
        key = child_key(self._key, f"{name}/{again}" if again else name)
        params = entry_of(self._params, name)
        state = self._state_of_children.get(name, entry_of(self._old_state, name))
        call = f"{name}/{again}" if again else name
        y, self._state_of_children[name] = self._run_call(call, child, params, state, x, key)
        return y

    def _run_call(
        self, call: str, child: Layer, params: Params, state: State, x: PyTree, key: Any
    ) -> tuple[PyTree, State]:
        return child._apply(params, state, x, key=key, train=self.train)

    def _param(self, name: str, wanted: Declaration) -> Any:
        return self._declared(self._params, name)

    def _variable(self, name: str, wanted: Declaration) -> Any:
        return self._declared(self._old_state, name)

    def _declared(self, tree: Mapping[str, Any], name: str) -> Any:
        if name not in tree:
            raise LayerError(
                f"{name!r} is asked for in apply and was not at init",
                hint="ask for it whatever f.train is",
            )
        return tree[name]

    def next_state(self) -> State:
        if not self._old_state:
            return self._old_state
        new = dict(self._old_state) | self._variables
        for name, state in self._state_of_children.items():
            if state:
                merge_entry(new, name, state)
        return new
