"""Bodies: a function of a scope ``f`` and an input, and the layer that it makes.

How to read this file: ``composite`` makes the layer, and every combinator calls it. Its functions
run the body with one of two scopes: ``InitScope`` in the abstract pass, where it writes the table
of parameters, and ``ApplyScope`` in ``apply`` and, with a carry, for one block of a stream.
``Scope`` is what both offer to the body. They stay in one file, longer than others, because a
change of one mode has to be made in all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..core.weights import array_of, arrays_in
from .added_losses import check_loss
from .collecting import add_loss
from .errors import LayerError, error_context
from .layer import Layer, Rebuild
from .parameters import ParamSpec, check_name, child_key, entry_of, make, merge_entry
from .positions import POSITIONS
from .sequence_mode import SequenceMode
from .specs import cast_like, checked_spec, format_spec, placeholders, specs_of, storage_dtype
from .step_pair import Stepping, are_whole, stream_of
from .tracing import Trace, run, trace_given
from .types import Carry, Initializer, Key, Params, PyTree, Spec, State

# In which of the two trees of a layer a name is declared.
Tree = Literal["params", "state"]


class Variable:
    """A value of the state: read ``.value``, and in training set it.

    Setting raises ``LayerError`` outside training, and for another shape or dtype.
    """

    __slots__ = ("_name", "_scope")

    def __init__(self, scope: Scope, name: str):
        self._scope = scope
        self._name = name

    @property
    def value(self) -> jax.Array:
        return self._scope._variables[self._name]  # type: ignore[no-any-return]

    @value.setter
    def value(self, new: jax.Array) -> None:
        if not self._scope.train:
            raise LayerError(
                f"the variable {self._name!r} is set outside training",
                hint=f"if f.train: {self._name}.value = ...",
            )
        old = self.value
        wide = jnp.issubdtype(old.dtype, jnp.inexact)
        if isinstance(new, int) or (isinstance(new, float) and wide):
            new = jnp.asarray(new, old.dtype)  # a Python number takes the variable's dtype
        if specs_of(new, f"the variable {self._name!r}") != specs_of(old):
            raise LayerError(
                f"the variable {self._name!r} would change its shape or dtype",
                expected=format_spec(old),
                got=format_spec(new),
            )
        self._scope._variables[self._name] = jnp.asarray(new, old.dtype)


# A child that every body has, called by ``f.positions``: it has a carry, as children have.
_HIDDEN = {"positions": POSITIONS}


class Child:
    """``f.child``: called, it is the child's output; ``f.child.params`` are its parameters."""

    __slots__ = ("_name", "_scope")

    def __init__(self, scope: Scope, name: str):
        self._scope = scope
        self._name = name

    def __call__(self, *xs: PyTree, **named: PyTree) -> PyTree:
        return self._scope._call(self._name, *xs, **named)

    @property
    def params(self) -> Params:
        """The child's parameters, to tie weights: ``h @ f.embed.params["embedding"].T``.

        Raises:
          LayerError: before the first call of the child, from which its sizes come.
        """
        params: Params = arrays_in(self._scope._params_of(self._name))
        return params

    def __getattr__(self, name: str) -> Any:
        own = f"; f.{self._name}.params holds its parameters, by name" if name[0] != "_" else ""
        raise AttributeError(f"a child has no attribute {name!r}{own}")


class Scope:
    """The ``f`` of a ``compose`` body.

    ``f.child(x)`` or ``f["child"](x)`` calls a child; calling one twice shares its parameters.
    ``f.child.params`` are its parameters.

    Attributes:
      train: whether this is a training step, a Python bool.
      children: the names of the children, in order.
      streaming: whether ``x`` is one block of a longer sequence.
    """

    train: bool
    streaming = False

    def __init__(self, children: Mapping[str, Layer], x: PyTree, key: Any, train: bool):
        self.train = train
        self._children = children
        # Models had children of that name before bodies had positions: theirs is the name.
        if "positions" in children:
            self.__dict__["positions"] = Child(self, "positions")
        self._x = x
        self._key = key
        self._keys_drawn = 0
        self._calls: list[tuple[str, PyTree, PyTree]] = []
        self._variables: dict[str, Any] = {}
        self._names: set[str] = set()

    @property
    def children(self) -> tuple[str, ...]:
        return tuple(self._children)

    def __getattr__(self, name: str) -> Child:
        # copy and pickle look for special methods; those are not children.
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Child:
        if name not in self._children:
            raise LayerError(
                f"the body calls a child {name!r} that was not given",
                got=f"children {', '.join(self._children) or 'none'}",
                hint=f"compose(body, {name}=...)",
            )
        return Child(self, name)

    def param(
        self, name: str, init: Initializer, shape: Sequence[int], dtype: DTypeLike | None = None
    ) -> jax.Array:
        """A trainable parameter of this layer.

        Args:
          name: its name in the parameters.
          init: ``init(key, shape, dtype)``, as in ``jax.nn.initializers``.
          shape: its shape.
          dtype: in which it is stored and used; by default it is stored in float32 (float64 for
            float64 inputs) and used in the floating dtype of the body's input.
        """
        stored = storage_dtype(self._x) if dtype is None else dtype
        value = self._declared("params", name, init, shape, stored)
        # Parameters may have been cast since they were drawn.
        return cast_like(value, self._x) if dtype is None else value.astype(dtype)

    def variable(
        self, name: str, init: Initializer, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Variable:
        """A value in the state, such as a running mean: read and set its ``.value``.

        Args:
          name: its name in the state.
          init: ``init(key, shape, dtype)``.
          shape: its shape.
          dtype: its dtype.
        """
        self._variables[name] = self._declared("state", name, init, shape, dtype)
        return Variable(self, name)

    def key(self) -> jax.Array:
        """A fresh key at each call.

        Raises:
          LayerError: if ``apply`` was called without a key.
        """
        if self._key is None:
            raise LayerError("needs a key and got none", hint="layer.apply(..., key=key)")
        # Counted, so that a body that asks twice draws two different numbers.
        self._keys_drawn += 1
        return jax.random.fold_in(self._key, self._keys_drawn)

    def positions(self, x: PyTree) -> PyTree:
        """The absolute position of each step of ``x``, int32 (batch, time).

        Positions count the valid steps of a row: padding in front of it counts nothing, and in a
        stream they go on from block to block.

        Args:
          x: (batch, time, ...), an array or a ``Sequence``, whose positions are a ``Sequence``.
        """
        return self._call("positions", x)

    def add_loss(self, value: jax.Array) -> None:
        """Adds a floating scalar to the loss of the model.

        ``train_step`` and ``make_evaluator`` take it into account; see ``with_losses`` for a loop
        of your own. Where nothing collects it, as in a stream, it is dropped.

        Raises:
          LayerError: for anything but a floating scalar.
        """
        check_loss(value)

    def _declared(
        self, tree: Tree, name: str, init: Initializer, shape: Sequence[int], dtype: DTypeLike
    ) -> jax.Array:
        check_name(name)
        # Otherwise one would overwrite the other in the tree, silently.
        if name in self._children or name in self._names:
            raise LayerError(
                f"{name!r} names two things in one layer",
                hint="declare a parameter once and reuse its value; others need other names",
            )
        self._names.add(name)
        spec = checked_spec(f"the shape of {name!r}", shape, dtype)
        return self._entry(tree, name, init, spec)

    def _call(self, name: str, /, *xs: PyTree, **named: PyTree) -> PyTree:
        if len(xs) != 1 or named:
            raise LayerError(
                f"the child {name!r} takes one input",
                got=f"{len(xs)} inputs" + "".join(f", and one named {own!r}" for own in named),
                hint=f"f.{name}(x); several inputs are a tuple: f.{name}((a, b))",
            )
        child = _child_of(self._children, name)
        # Profiles show the path; a transparent wrapper adds no segment to it.
        scope = jax.named_scope(name) if name else contextlib.nullcontext()
        # The user made no layer of what the body itself asks for.
        context = (
            error_context(child, name, self._before)
            if name in self._children
            else contextlib.nullcontext()
        )
        with context, scope:
            y = self._run_child(name, child, xs[0])
        self._calls.append((name, xs[0], y))
        return y

    # A function, which only an error calls: a step that is right formats nothing.
    def _before(self) -> list[tuple[str, str, str]]:
        return [
            (name, format_spec(specs_of(x)), format_spec(specs_of(y)))
            for name, x, y in self._calls
            if name
        ]

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        raise NotImplementedError

    def _params_of(self, name: str) -> Params:
        raise NotImplementedError

    def _entry(self, tree: Tree, name: str, init: Initializer, spec: Spec) -> jax.Array:
        raise NotImplementedError


class InitScope(Scope):
    """Runs a body abstractly, and notes what it declares and each child's inputs and shapes."""

    def __init__(self, children: Mapping[str, Layer], x: PyTree, key: jax.Array):
        super().__init__(children, x, key, train=False)
        self._found: dict[str, Trace] = {}
        self._inputs: dict[str, list[PyTree]] = {name: [] for name in children}
        self._own: dict[Tree, dict[str, ParamSpec]] = {"params": {}, "state": {}}

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        found, y = run(child, self._key, x)
        # A child has one set of parameters, whatever the number of its calls.
        first = self._found.setdefault(name, found)
        self._inputs.setdefault(name, [])
        for before, now, what in (
            (first.params, found.params, "parameters"),
            (first.state, found.state, "state"),
        ):
            if before != now:
                raise LayerError(
                    f"two calls with different inputs need different {what}",
                    got=f"{format_spec(self._inputs[name][0])} and {format_spec(specs_of(x))}",
                    hint="two children instead of one that is called twice",
                )
        self._inputs[name].append(specs_of(x))
        return y

    def _params_of(self, name: str) -> Params:
        if name not in self._found:
            raise LayerError(
                f"the child {name!r} has no parameters before its first call",
                hint=f"f.{name}(x) before f.{name}.params",
            )
        params: Params = placeholders(self._found[name].params)
        return params

    def _entry(self, tree: Tree, name: str, init: Initializer, spec: Spec) -> jax.Array:
        value = make(self._key, name, init, spec.shape, spec.dtype)
        self._own[tree][name] = ParamSpec(init, value.shape, value.dtype, (name,))
        return value

    def found(self) -> Trace:
        """What the pass found, the output left out."""
        # Without an input its parameters cannot be known.
        unused = [name for name, calls in self._inputs.items() if not calls]
        if unused:
            raise LayerError(
                f"the body never calls its child {unused[0]!r}",
                hint="call every child whatever f.train is, or leave it out of compose",
            )
        params: Params = {}
        state: State = {}
        # In the order of the children, not of their calls.
        inside = {name: self._found[name] for name in self._children}
        for name, found in inside.items():
            merge_entry(params, name, found.params)
            merge_entry(state, name, found.state)
        for tree, table in ((params, self._own["params"]), (state, self._own["state"])):
            tree.update({name: Spec(spec.shape, spec.dtype) for name, spec in table.items()})
        return Trace(
            params,
            state,
            None,
            {name: tuple(calls) for name, calls in self._inputs.items()},
            self._own["params"],
            self._own["state"],
            inside,
        )


class ApplyScope(Scope):
    """Runs a body on given parameters and state, and collects the next state.

    With a carry ``x`` is a block of a sequence: the children take their step, and ``carry`` holds
    what they pass to the next block.
    """

    def __init__(
        self,
        children: Mapping[str, Layer],
        params: Params,
        state: State,
        x: PyTree,
        key: Key,
        train: bool,
        carry: Carry | None = None,
    ):
        super().__init__(children, x, key, train)
        self._given: dict[Tree, dict[str, Any]] = {"params": params, "state": state}
        self._state_of_children: dict[str, State] = {}
        self._times: dict[str, int] = {}
        self._old_carry = carry
        self.streaming = carry is not None
        self.carry: Carry = {}

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        again = self._times.get(name, 0)
        self._times[name] = again + 1
        call = f"{name}/{again}" if again else name
        # From the parent's key: a key folded with 1 is a part of split(key), which the first call
        # may have drawn from. No child's name holds a slash.
        key = child_key(self._key, call) if self._key is not None else None
        params, state = self._given["params"], self._given["state"]
        if name:
            params, state = params.get(name, {}), state.get(name, {})
        # A second call continues from the state after the first.
        state = self._state_of_children.get(name, state)
        if self._old_carry is not None:
            entry = entry_of(self._old_carry, call)
            advance = stream_of(child).advance
            y, carry, after = advance(params, state, entry, x, key=key, train=self.train)
            merge_entry(self.carry, call, carry)
        else:
            # An array has no mask: it needs none of the wrapper that takes Sequences.
            apply = child._apply_to_array if isinstance(x, jax.Array) else child._apply
            y, after = apply(params, state, x, key=key, train=self.train)
        self._state_of_children[name] = after
        return y

    def _params_of(self, name: str) -> Params:
        return entry_of(self._given["params"], name)

    def add_loss(self, value: jax.Array) -> None:
        add_loss(check_loss(value))

    def _entry(self, tree: Tree, name: str, init: Initializer, spec: Spec) -> jax.Array:
        if name not in self._given[tree]:
            raise LayerError(
                f"{name!r} is declared in apply and was not at init",
                hint="declare it whatever f.train is",
            )
        return array_of(self._given[tree][name])  # type: ignore[no-any-return]

    def next_state(self) -> State:
        old = self._given["state"]
        # Most layers have none: no dict is built for them.
        if not old:
            return old
        new = dict(old) | self._variables
        for name, state in self._state_of_children.items():
            merge_entry(new, name, state)
        return new


def _child_of(children: Mapping[str, Layer], name: str) -> Layer:
    child = children.get(name)
    return _HIDDEN[name] if child is None else child


Body = Callable[[Scope, PyTree], PyTree]


def composite(
    body: Body,
    children: Mapping[str, Layer],
    *,
    name: str | None = None,
    rebuild: Rebuild,
    each_step: bool = False,
    unstreamed: str | None = None,
    whole: str | None = None,
    check_stream: Callable[[PyTree], None] | None = None,
) -> Layer:
    """A layer from a body and its named children: what ``compose`` and the combinators are.

    A single child named ``""`` is transparent: its parameters are the layer's own.

    Args:
      each_step: whether it works on each step of a sequence by itself, whatever its children do.
      unstreamed: why it cannot be streamed, if not for its children.
      whole: why a block has to be the whole sequence, if not for its children.
      check_stream: raises where the body's own arithmetic needs more than a block of these specs.
    """

    def abstract(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        f = InitScope(children, x, key)
        y = body(f, x)
        return f.found(), y

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        f = ApplyScope(children, params, state, x, key, train)
        y = body(f, x)
        return y, f.next_state() if train else state

    # A child that is called twice has two carries, ``name`` and ``name/1``.
    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        carry: Carry = {}
        if check_stream is not None and not are_whole():
            check_stream(x)
        # Each child starts from what the body gives it, which the abstract pass has recorded.
        for name, inputs in trace_given(layer, params, state, x).inputs.items():
            child = _child_of(children, name)
            for again, child_x in enumerate(inputs):
                with error_context(child, name):
                    entry = stream_of(child).start(
                        entry_of(params, name), entry_of(state, name), child_x, capacity=capacity
                    )
                merge_entry(carry, f"{name}/{again}" if again else name, entry)
        return carry

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        f = ApplyScope(children, params, state, x, key, train, carry)
        y = body(f, x)
        return y, f.carry, f.next_state() if train else state

    layer = Layer(
        None,
        apply,
        name=name,
        children=children,
        rebuild=rebuild,
        abstract=abstract,
        sequence_mode=SequenceMode.DELEGATE,
        # each_step folds time into the batch: each step is by itself, whatever its children do.
        stream=unstreamed or (None if each_step else Stepping(start, advance, whole)),
    )
    return layer
