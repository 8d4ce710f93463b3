"""Rules for what is computed element by element, and for random numbers.

How to read this file: ``ELEMENTWISE`` is a white list, since a primitive that is not known must
never pass for harmless. ``RULES`` at the end is what the walk looks up.
"""

from __future__ import annotations

from .combine import READS_SIZE, meet, touch, union, unknown
from .domain import Value, plain, plain_axes, varies
from .equation import Equation, Rules

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne
neg nextafter not one_minus_square or polygamma polynomial population_count pow pvary real
reduce_precision regularized_incomplete_beta rem round rsqrt select_n sharding_constraint
shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub
tan tanh xor zeta
"""
ELEMENTWISE = frozenset(_NAMES.split())
# One result for each operand.
_IDENTITIES = frozenset({"device_put", "optimization_barrier"})
# Generators of constants; with a key that depends on the input they are unknown.
_RANDOM_NAMES = """
random_bits random_clone random_fold_in random_gamma random_seed random_split random_unwrap
random_wrap rng_bit_generator rng_uniform threefry2x32 threefry4x32 philox2x32 philox4x32
"""
RANDOM = frozenset(_RANDOM_NAMES.split())


def elementwise(equation: Equation, arguments: list[Value]) -> list[Value]:
    """All operands and results have one shape, but for scalars and dimensions of length 1."""
    shape = equation.results[0]
    if any(len(operand) not in (0, len(shape)) for operand in equation.operands):
        return unknown(equation, arguments)
    return [meet(arguments, shape, equation)] * len(equation.results)


def select(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Elementwise, or the first case where it is known to be chosen: no index is negative."""
    if arguments[0].known.number == (0, 0):
        return [arguments[1]]
    return elementwise(equation, arguments)


def bitcast(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Elementwise; a change of width gains or loses a last dimension, the parts of an element."""
    value, before, after = arguments[0], equation.operands[0], equation.results[0]
    if len(before) > len(after):
        value = touch(value, [len(before) - 1], equation)
    axes = (*value.axes[: len(after)], *plain_axes(after[len(before) :]))
    return [value._replace(axes=axes)]


def identities(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Operands as they are."""
    return list(arguments)


def iota(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Counts along one dimension, and is the same along the others."""
    if arguments:
        return unknown(equation, arguments)
    dimension = equation.fixed("dimension")
    axes = list(plain_axes(equation.results[0], same=True))
    axes[dimension] = plain_axes([equation.results[0][dimension]])[0]
    return [Value(tuple(axes))]


def empty(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Some constant, the same everywhere, whatever an operand holds."""
    return [Value(plain_axes(shape, same=True)) for shape in equation.results]


def random(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Numbers drawn from a key.

    With a key that is given, those of one step are drawn like those of any other: which step gets
    which number says nothing of where the step is, so they count as the same all along rows and
    steps. With a key of the program's own they are a table of positions.
    """
    base = union(arguments, equation.cause(READS_SIZE))
    if base.window is not None:
        return unknown(equation, arguments)
    return [
        base._replace(axes=tuple(plain(size, base.given and varies(size)) for size in shape))
        for shape in equation.results
    ]


RULES: Rules = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(_IDENTITIES, identities),
    **dict.fromkeys(RANDOM, random),
    "bitcast_convert_type": bitcast,
    "select_n": select,
    "iota": iota,
    "empty": empty,
    "empty2": empty,
    "zeros_like": empty,
}
