"""Parameters: their names, the keys that follow from the names, and how each of them is made.

How to read this file: ``ParamSpec`` is one entry of the table that the abstract pass writes
(``tracing``) and that ``init`` draws from (``initialization``). Layers ask for their parameters by
``initialize`` and ``make``. Names come first, because the keys follow from them.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from . import arguments
from .errors import Described, LayerError, calling_user_code
from .repr_text import function_text
from .specs import format_spec, specs_of, storage_dtype
from .types import InitFn, Initializer, Key, Params, PyTree, State

# Children are named before layers exist here: this module is below ``layer``.
L = TypeVar("L", bound=Described)

# Between a small and a capital letter, and before the last capital of an acronym.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """``MaxPool`` -> ``max_pool``, ``SimpleRNN`` -> ``simple_rnn``, ``<lambda>`` -> ``lambda``."""
    return _WORD.sub("_", name.strip("<>")).lower()


def name_children(layers: Sequence[L], named: Mapping[str, L]) -> dict[str, L]:
    """Positional children by kind (``dense``, ``dense_1``, ...), then keyword children."""
    children: dict[str, L] = {}
    seen: Counter[str] = Counter()
    for layer in layers:
        number = seen[layer.kind]
        seen[layer.kind] += 1
        _add_child(children, f"{layer.kind}_{number}" if number else layer.kind, layer)
    for name, layer in named.items():
        _add_child(children, name, layer)
    return children


def _add_child(children: dict[str, L], name: str, layer: L) -> None:
    check_name(name)
    if name in children:
        raise LayerError(
            f"two children are named {name!r}",
            got=f"{children[name].short()} and {layer.short()}",
            hint="another keyword; positional children are named after their kind",
        )
    children[name] = layer


def check_name(name: str) -> None:
    """Raises unless ``name`` can be one segment of a path."""
    if not is_name(name):
        raise LayerError(
            f"{name!r} cannot be a name", expected="a non-empty string without / * ? [ ]"
        )


def is_name(name: object) -> bool:
    """A name is one segment of a path: no slash, no wildcard, not empty."""
    return isinstance(name, str) and bool(name) and not any(c in name for c in "/*?[]")


@functools.lru_cache(maxsize=4096)
def stable_hash(name: str) -> int:
    """32 bits of a name. Python's ``hash()`` changes with every process; keys must not."""
    # Four bytes are the 32 bits that fold_in takes.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


@overload
def child_key(key: jax.Array, name: str) -> jax.Array: ...
@overload
def child_key(key: None, name: str) -> None: ...
def child_key(key: Key, name: str) -> jax.Array | None:
    """``fold_in(key, hash of name)``: adding or removing a sibling changes no other key.

    Without a key there is none; a transparent child, whose name is empty, has its parent's.
    """
    # None: apply without a key; the layers that need one raise by themselves.
    if key is None or not name:
        return key
    return jax.random.fold_in(key, stable_hash(name))


def entry_of(tree: Params, name: str) -> Params:
    """The part of a tree that belongs to the child ``name``: all of it for the empty name."""
    return tree.get(name, {}) if name else tree


def merge_entry(tree: Params, name: str, entry: Params) -> None:
    """Puts a child's ``entry`` into its parent's tree; a child without arrays leaves none."""
    if not name:
        tree.update(entry)
    elif entry:
        tree[name] = entry


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class ParamSpec:
    """How one array of ``params`` or ``state`` is made: an entry of a model's table.

    Attributes:
      initializer: ``initializer(key, shape, dtype)``, which makes one copy; or an ``OwnInit``.
      shape, dtype: of the array, stacked axes included.
      key_path: what is folded into the key of ``init``, in this order: names, and for the copies
        of a ``repeat`` or an ``ensemble`` how many there are.

    >>> import jlayers as jl
    >>> jl.parameters(jl.repeat(jl.Dense(3), 2), jl.spec((8, 3)))["kernel"]
    ParamSpec(jax.nn.initializers.variance_scaling(...), float32[2, 3, 3], copies=(2,))
    """

    initializer: Initializer | OwnInit
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    key_path: tuple[str | int, ...] = ()

    @property
    def copies(self) -> tuple[int, ...]:
        """The sizes of the stacked axes, outermost first."""
        return tuple(step for step in self.key_path if isinstance(step, int))

    @property
    def shape_of_one(self) -> tuple[int, ...]:
        """The shape of one copy, which is what the initialiser is called with."""
        return self.shape[len(self.copies) :]

    # Parents prepend: the outermost name is folded into the key first.
    def inside(self, above: tuple[str | int, ...]) -> ParamSpec:
        """The same array seen from further out, below names and in copies."""
        stacked = tuple(step for step in above if isinstance(step, int))
        path = above + self.key_path
        return ParamSpec(self.initializer, stacked + self.shape, self.dtype, path)

    def __repr__(self) -> str:
        how = self.initializer
        made_by = repr(how) if isinstance(how, OwnInit) else function_text(how)
        stacked = f", copies={self.copies}" if self.copies else ""
        return f"ParamSpec({made_by}, {format_spec(self)}{stacked})"


class PairInit(NamedTuple):
    """The ``init`` of a layer whose arrays do not come from initialisers, and what it is given.

    Attributes:
      layer: for errors.
      init: ``init(key, x) -> (params, state)``.
      x: specs of the layer's input.
    """

    layer: Described
    init: InitFn
    x: PyTree


@dataclasses.dataclass(frozen=True, eq=False, slots=True, repr=False)
class OwnInit:
    """Instead of an initialiser: one call of the layer's own ``init`` makes all its arrays.

    Attributes:
      source: the ``init``, the same object for all arrays of a layer.
      tree: 0 for an array of params, 1 for one of state.
      path: of the array, within that tree.
    """

    source: PairInit
    tree: int
    path: tuple[str, ...]

    def array(self, made: tuple[Params, State]) -> jax.Array:
        """This array, of what ``init`` returned."""
        found: Any = made[self.tree]
        for name in self.path:
            found = found[name]
        return found  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"init of {self.source.layer.short()}"


@dataclasses.dataclass(frozen=True, eq=False)
class MadeFrom:
    """The initialiser of an array that is computed of a weight: drawn by the weight's own key.

    Attributes:
      weight: the entry of the weight.
      shape: that it is drawn in.
      function: of the weight so.
    """

    weight: ParamSpec
    shape: tuple[int, ...]
    function: Callable[[jax.Array], jax.Array]

    def __call__(self, key: jax.Array, _: object, __: object) -> jax.Array:
        how = self.weight.initializer
        if isinstance(how, OwnInit):
            return self.function(how.array(how.source.init(key, how.source.x)))
        return self.function(how(key, self.shape, self.weight.dtype))

    def __repr__(self) -> str:
        return f"made from {self.weight!r}"


class Made(NamedTuple):
    """One parameter that ``make`` made: of which key, under which name, and how."""

    key: jax.Array
    name: str
    value: jax.Array
    spec: ParamSpec


# A context variable and not a global: models are initialised in threads.
_recording: contextvars.ContextVar[list[Made] | None] = contextvars.ContextVar(
    "_recording", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[list[Made]]:
    """Collects what ``make`` makes inside."""
    made: list[Made] = []
    before = _recording.set(made)
    try:
        yield made
    finally:
        _recording.reset(before)


def make(
    key: jax.Array, name: str, init: Initializer, shape: Sequence[int], dtype: DTypeLike
) -> jax.Array:
    """One parameter from an initialiser, checked. The key is folded with the parameter's name.

    Raises:
      LayerError: for an initialiser that gives another shape or dtype, or no array.
    """
    what = f"the initialiser of {name!r}"
    arguments.function(what, init, "key, shape, dtype")
    # In the dtype that JAX will use, so that float64 asks for float32 where x64 is off.
    expected = specs_of(jax.ShapeDtypeStruct(tuple(shape), dtype))
    with calling_user_code(what):
        value = init(child_key(key, name), expected.shape, expected.dtype)
    # A factory of initialisers, such as glorot_uniform, that was passed without a call.
    if callable(value):
        raise LayerError(f"{what} gave a function", hint=f"call it: {function_text(init)}()")
    if specs_of(value, what) != expected:
        raise LayerError(
            f"{what} gave another shape or dtype",
            expected=format_spec(expected),
            got=format_spec(value),
        )
    # An initialiser may compute with NumPy.
    value = value if isinstance(value, jax.Array) else jnp.asarray(value)
    made = _recording.get()
    if made is not None:
        spec = ParamSpec(init, expected.shape, expected.dtype, (name,))
        made.append(Made(key, name, value, spec))
    return value


def initialize(
    key: jax.Array, x: PyTree, **wanted: tuple[Initializer, Sequence[int]] | None
) -> Params:
    """``{name: parameter}`` for ``name=(init, shape)``; a name with None is left out.

    The dtype of ``x`` decides that of the parameters: float32, or float64 for a float64 input. In
    ``apply``, ``cast_like`` gives them in the dtype of the input.
    """
    dtype = storage_dtype(x)
    return {
        name: make(key, name, how[0], how[1], dtype)
        for name, how in wanted.items()
        if how is not None
    }
