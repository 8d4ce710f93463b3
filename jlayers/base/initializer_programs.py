"""What an initialiser computes, read from its jaxpr: one draw, and arithmetic on each element.

``initializers.glorot_uniform()`` of any shape is the same short list of operations on the bits of
the key, with other numbers in it. Parameters with the same list are drawn by one compiled program,
whatever their shapes and however many they are. An initialiser that does more (a decomposition, a
second draw, a gather) has no such program, and is called as it is.

How to read this file: ``initializer_program`` reads an initialiser into an ``InitializerProgram``
(``_Reader`` walks its jaxpr), and ``compiled`` turns the steps of one into a function that draws
rows of many parameters at once. ``docs/notes/0007-init.md`` has the measurements behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from .types import Initializer

# JAX has no public types for these.
Jaxpr: TypeAlias = Any
Equation: TypeAlias = Any
Primitive: TypeAlias = Any
Variable: TypeAlias = Any
# The place of the key among those of the steps, which count from 0.
_KEY = -1

# Words per row of a drawn block. A parameter takes whole rows: little is wasted on small ones, and
# the rows of one start at a multiple of 64 bytes, so that XLA can use them where they lie.
ROW = 4096
# Rows that are drawn at a time: what is computed on the way to them stays in the cache.
CHUNK = 16

# Operations that treat each element alone, whatever the shape.
_NAMES = """
    abs add and bitcast_convert_type ceil clamp convert_element_type copy cos div eq erf erf_inv
    erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne
    neg nextafter not or pow rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sqrt square stop_gradient sub tan tanh xor
"""
_ELEMENTWISE = frozenset(_NAMES.split())
_NUMBERS = frozenset(map(np.dtype, ("bool", "int32", "uint32", "float32")))
# XLA may round a product and the sum it goes into only once.
_PRODUCTS = frozenset(("mul", "integer_pow", "square"))
# What JAX compiles by itself when an initialiser is called alone; the name depends on its version.
_ONE_PROGRAM = frozenset(("jit", "pjit"))
_INLINED = frozenset(("custom_jvp_call",))


class Step(NamedTuple):
    """One operation: on what came out of earlier steps, by their place in the list.

    Attributes:
      primitive: the operation; or "bits", "number" or "constant", which are not operations.
      operands: places of earlier steps.
      params: of the primitive, sorted by name; (value, dtype) of a constant.
      full: whether there is a value for each element, or one for all of them.
      program: the index of the operation's program among those compiled for the initialiser.
    """

    primitive: Primitive
    operands: tuple[int, ...]
    params: tuple[tuple[str, Any], ...]
    full: bool
    program: int


class InitializerProgram(NamedTuple):
    """Steps that many shapes have in common, and the numbers that only this shape has."""

    steps: tuple[Step, ...]
    numbers: tuple[np.generic, ...]

    @property
    def constant(self) -> np.generic | None:
        """The value of all elements, where nothing is drawn or computed."""
        return self.numbers[0] if len(self.steps) == 1 and self.numbers else None


@functools.cache
def _key() -> jax.ShapeDtypeStruct:
    # Threefry alone gives element i from the key and i (docs/notes/0007-init.md).
    key: jax.ShapeDtypeStruct = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return key


class _NoProgramError(Exception):
    """The initialiser does what an ``InitializerProgram`` cannot express."""


def initializer_program(
    init: Initializer, shape: tuple[int, ...], dtype: DTypeLike
) -> InitializerProgram | None:
    """The program of ``init(key, shape, dtype)``, or None where it has none."""
    closed = jax.make_jaxpr(lambda key: init(key, shape, dtype))(_key())
    try:
        return _Reader(closed, int(np.prod(shape))).program()
    except _NoProgramError:
        return None


class _Reader:
    """Writes the steps of one jaxpr."""

    def __init__(self, closed: Jaxpr, size: int):
        self._closed = closed
        self._size = size
        self._steps: list[Step] = []
        self._numbers: list[np.generic] = []
        self._programs = 0

    def program(self) -> InitializerProgram:
        (key,) = self._closed.jaxpr.invars
        places = self._read(self._closed, {key: _KEY}, top=True)
        if len(places) != 1 or places[0] == _KEY:
            raise _NoProgramError
        steps = self._steps
        if places[0] != len(steps) - 1 or sum(s.primitive == "bits" for s in steps) > 1:
            raise _NoProgramError
        return InitializerProgram(tuple(steps), tuple(self._numbers))

    def _read(self, closed: Jaxpr, env: dict[Variable, int], top: bool) -> list[int]:
        jaxpr = closed.jaxpr
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            if np.size(value) != 1:
                raise _NoProgramError
            env[var] = self._literal(value, var.aval.dtype, top)

        def place(atom: Variable) -> int:
            if hasattr(atom, "val"):
                return self._literal(atom.val, atom.aval.dtype, top)
            return env[atom]

        for eqn in jaxpr.eqns:
            self._programs += top
            name = eqn.primitive.name
            if name in _ONE_PROGRAM or name in _INLINED:
                inner = eqn.params["jaxpr" if name in _ONE_PROGRAM else "call_jaxpr"]
                places = [place(atom) for atom in eqn.invars]
                known = dict(zip(inner.jaxpr.invars, places, strict=True))
                made = self._read(inner, known, top=False)
            else:
                made = [self._step(eqn, name, place)]
            for var, there in zip(eqn.outvars, made, strict=True):
                env[var] = there
        return [place(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: Equation, name: str, place: Callable[[Variable], int]) -> int:
        if len(eqn.outvars) != 1:
            raise _NoProgramError
        size = int(np.prod(eqn.outvars[0].aval.shape))
        if name == "random_bits":
            if place(eqn.invars[0]) != _KEY or eqn.params["bit_width"] != 32 or size != self._size:
                raise _NoProgramError
            return self._add("bits", (), (), True)
        operands = tuple(place(atom) for atom in eqn.invars)
        if _KEY in operands:
            raise _NoProgramError
        full = any(self._steps[operand].full for operand in operands)
        if name in ("broadcast_in_dim", "reshape", "squeeze") and len(operands) == 1:
            # The order of the elements stays; a number for all of them is not spread out.
            if full and size != self._size:
                raise _NoProgramError
            return operands[0]
        if name not in _ELEMENTWISE or (full and size != self._size):
            raise _NoProgramError
        if name in ("add", "sub") and any(map(self._rounded_before, operands)):
            raise _NoProgramError
        params = tuple(sorted(eqn.params.items()))
        try:
            hash(params)
        except TypeError:
            raise _NoProgramError from None
        return self._add(eqn.primitive, operands, params, full)

    def _rounded_before(self, operand: int) -> bool:
        """A product of an earlier program: in one with the sum, it would be rounded with it."""
        step = self._steps[operand]
        is_product = getattr(step.primitive, "name", None) in _PRODUCTS
        return is_product and step.program != self._programs

    def _literal(self, value: ArrayLike, dtype: np.dtype[Any], top: bool) -> int:
        if dtype not in _NUMBERS:
            raise _NoProgramError
        number = np.asarray(value, dtype)
        if top:
            self._numbers.append(number.reshape(())[()])  # type: ignore[arg-type]
            return self._add("number", (), (("dtype", number.dtype),), False)
        # Inside a program of JAX's own it is part of what XLA optimises, and stays so.
        kept = (("value", number.item()), ("dtype", number.dtype))
        return self._add("constant", (), kept, False)

    def _add(
        self,
        primitive: Primitive,
        operands: tuple[int, ...],
        params: tuple[tuple[str, Any], ...],
        full: bool,
    ) -> int:
        self._steps.append(Step(primitive, operands, params, full, self._programs))
        return len(self._steps) - 1


@functools.lru_cache(maxsize=256)
def compiled(steps: tuple[Step, ...]) -> Callable[..., jax.Array]:
    """The compiled steps: ``(keys, starts, numbers) -> block``.

    Args of the result:
      keys: uint32 (rows, 2), the data of keys; rows are a multiple of CHUNK.
      starts: uint32 (rows,), the place of a row's first element in its parameter.
      numbers: one array (rows,) for each step "number".

    Returns of the result:
      (rows, ROW): what the initialiser gives for elements ``start .. start + ROW`` of each row.
    """

    def block(keys: jax.Array, starts: jax.Array, numbers: tuple[jax.Array, ...]) -> jax.Array:
        rows = (jax.random.wrap_key_data(keys, impl="threefry2x32"), starts, numbers)
        drawn: jax.Array = lax.map(lambda row: _run(steps, *row), rows, batch_size=CHUNK)
        return drawn

    return jax.jit(block)


def _run(
    steps: tuple[Step, ...], key: jax.Array, start: jax.Array, numbers: tuple[jax.Array, ...]
) -> jax.Array:
    """One row."""
    numbers_left = iter(numbers)
    values: list[jax.Array] = []
    for step in steps:
        if step.primitive == "bits":
            values.append(_bits(key, start))
        elif step.primitive == "number":
            values.append(next(numbers_left))
        elif step.primitive == "constant":
            made = dict(step.params)
            values.append(jnp.asarray(made["value"], made["dtype"]))
        else:
            operands = [_apart(values[i], steps[i], step) for i in step.operands]
            if step.full:
                operands = [jnp.broadcast_to(operand, (ROW,)) for operand in operands]
            values.append(step.primitive.bind(*operands, **dict(step.params)))
    return jnp.broadcast_to(values[-1], (ROW,))


def _bits(key: jax.Array, start: jax.Array) -> jax.Array:
    """``jax.random.bits(key, (start + ROW,))[start:]``.

    Both hash the number of the element with the key, to two words: ``fold_in`` makes a key of
    them, ``bits`` joins them.
    """
    elements = start + lax.iota(jnp.uint32, ROW)
    words = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, elements))
    bits: jax.Array = words[:, 0] ^ words[:, 1]
    return bits


def _apart(value: jax.Array, made_in: Step, used_in: Step) -> jax.Array:
    """Keeps XLA from joining what are several programs where the initialiser is called alone.

    In one program XLA would turn ``(2 ** 0.5 * x) * s`` into ``x * (2 ** 0.5 * s)``.
    """
    if made_in.program == used_in.program or made_in.primitive == "number":
        return value
    kept: jax.Array = lax.optimization_barrier(value)
    return kept
