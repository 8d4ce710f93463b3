"""One equation in both traces: its parameters and shapes as pairs, and what a rule gets to see.

How to read this file: ``Equation`` is the argument of every rule, ``Differs`` says that the two
traces are not the same program at other sizes. The functions at the end look at jaxprs without
importing JAX: a program is a ``ClosedJaxpr`` in JAX 0.10 and a ``Jaxpr`` in 0.12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .domain import Cause, Pair, Shape, Sizes, Value

# Parameters that say how and where something is computed, not what.
_IGNORED = frozenset(
    {
        "accuracy",
        "debug_info",
        "layout",
        "name",
        "out_sharding",
        "precision",
        "preferred_element_type",
        "sharding",
        "unroll",
    }
)

# Parameters that are sizes, of which rules see both.
_PAIRED = frozenset(
    {
        "length",
        "limit_indices",
        "new_sizes",
        "padding",
        "padding_config",
        "reps",
        "shape",
        "sizes",
        "slice_sizes",
        "start_indices",
        "window_dimensions",
    }
)


class Differs(Exception):  # noqa: N818 - caught where an equation is taken for unknown
    """The two traces differ in structure; ``cause`` says where, if known."""

    def __init__(self, cause: Cause | str):
        super().__init__(cause)
        self.cause = cause if isinstance(cause, Cause) else None


class Equation:
    """An equation of the first trace and its like of the second.

    Attributes:
      name: of the primitive.
      params: of either trace.
      avals: of the operands, in either trace.
      operands, results: shapes as pairs.
      sizes: rows and steps of the inputs.
      enclosing: the equations whose bodies this one is in.
    """

    __slots__ = (
        "_number",
        "_walk",
        "avals",
        "enclosing",
        "name",
        "operands",
        "params",
        "results",
        "sizes",
    )

    def __init__(
        self,
        first: Any,
        second: Any,
        sizes: Sizes,
        enclosing: tuple[Any, ...],
        walk: Callable[..., list[Value]],
        number: Callable[[], int],
    ):
        self.name: str = first.primitive.name
        self.params: tuple[dict[str, Any], dict[str, Any]] = (first.params, second.params)
        self.avals = ([v.aval for v in first.invars], [v.aval for v in second.invars])
        self.operands = shapes(first.invars, second.invars)
        self.results = shapes(first.outvars, second.outvars)
        self.sizes = sizes
        self.enclosing = (*enclosing, first)
        self._walk = walk
        self._number = number

    def walk(self, programs: tuple[Any, Any], arguments: Sequence[Value]) -> list[Value]:
        """The results of a program inside this equation."""
        return self._walk(programs, arguments, self.sizes, self.enclosing, self._number)

    def new_loop(self) -> int:
        """A number for a loop."""
        return self._number()

    def cause(self, reason: str) -> Cause:
        """That this equation did it."""
        return Cause(self.enclosing, self.name, reason)

    def param(self, name: str) -> tuple[Any, Any]:
        """A parameter in each trace."""
        return self.params[0].get(name), self.params[1].get(name)

    def fixed(self, name: str) -> Any:
        """A parameter that must not depend on the sizes."""
        first, second = self.param(name)
        if not alike(first, second):
            raise Differs(name)
        return first

    def pairs(self, name: str) -> tuple[Pair, ...]:
        """A parameter that is a sequence of numbers, as pairs."""
        first, second = self.param(name)
        if len(first) != len(second):
            raise Differs(name)
        return tuple((int(a), int(b)) for a, b in zip(first, second, strict=True))

    def has_equal_params(self) -> bool:
        """Whether no parameter depends on the sizes, but those that rules see both of."""
        first, second = self.params
        if first.keys() != second.keys():
            return False
        return all(
            key in _IGNORED or key in _PAIRED or alike(value, second[key])
            for key, value in first.items()
        )


# From an equation and its operands' values to its results' values.
Rule = Callable[[Equation, list[Value]], list[Value]]
Rules = Mapping[str, Rule]


def alike(first: Any, second: Any) -> bool:
    """Whether two parameters are equal; those that cannot be compared are not."""
    if first is second:
        return True
    try:
        return bool(first == second)
    except Exception:
        return False


def inner(program: Any) -> Any:
    """What has ``invars``, ``eqns`` and ``outvars``."""
    return getattr(program, "jaxpr", program)


def constants(program: Any) -> Sequence[Any]:
    """The arrays that a program closes over."""
    found: Sequence[Any] = getattr(program, "consts", ())
    return found


def is_literal(variable: Any) -> bool:
    """Whether an operand is a number in the program's text."""
    return hasattr(variable, "val")


def shapes(first: Sequence[Any], second: Sequence[Any]) -> tuple[Shape, ...]:
    """The shapes of variables, as pairs."""
    if len(first) != len(second):
        raise Differs("variables")
    return tuple(shape(a.aval, b.aval) for a, b in zip(first, second, strict=True))


def shape(first: Any, second: Any) -> Shape:
    """The shape of a variable, as pairs."""
    a, b = getattr(first, "shape", ()), getattr(second, "shape", ())
    if len(a) != len(b):
        raise Differs("rank")
    return tuple((int(m), int(n)) for m, n in zip(a, b, strict=True))
