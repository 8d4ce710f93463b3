"""Rules for what is computed element by element, and for random numbers.

How to read this file: ``ELEMENTWISE`` is a white list, since a primitive that is not known must
never pass for harmless. ``RULES`` at the end is what the walk looks up.
"""

from __future__ import annotations

from .combine import READS_SIZE, meet, union, unknown
from .domain import Value, plain_axes, varies
from .equation import Equation
from .registry import Rule, Rules

# f(0, ..., 0) = 0: what is zero in front of the first step stays so.
_KEEP_ZERO_NAMES = """
abs add add_any and asin asinh atan atanh cbrt ceil conj convert_element_type copy copy_p
device_put erf erf_inv expm1 floor imag log1p max min mul name neg optimization_barrier or
pvary real reduce_precision round select_n sharding_constraint sign sin sinh sqrt square
stop_gradient sub tan tanh xor
"""
_KEEP_ZERO = frozenset(_KEEP_ZERO_NAMES.split())
_OTHER_NAMES = """
acos acosh atan2 bessel_i0e bessel_i1e bitcast_convert_type clamp clz complex cos cosh digamma
div eq eq_to erfc exp exp2 ge gt igamma igamma_grad_a igammac integer_pow is_finite le le_to
lgamma log log2 logistic lt lt_to mulhi ne nextafter not one_minus_square polygamma polynomial
population_count pow regularized_incomplete_beta rem rsqrt shift_left shift_right_arithmetic
shift_right_logical zeta
"""
_OTHERS = frozenset(_OTHER_NAMES.split())
ELEMENTWISE = _KEEP_ZERO | _OTHERS
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
    value = meet(arguments, shape, equation)
    if not equation.has_equal_params():
        value = value._replace(place=value.place or equation.cause(READS_SIZE))
    if value.window is None:
        operands = arguments[1:] if equation.name == "select_n" else arguments
        some = any if equation.name == "mul" else all
        zero = equation.name in _KEEP_ZERO and some(operand.zero for operand in operands)
        value = value._replace(zero=zero)
    return [value] * len(equation.results)


def bitcast(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Elementwise, unless the width changes and a dimension is gained or lost."""
    if equation.operands[0] != equation.results[0]:
        return unknown(equation, arguments)
    return elementwise(equation, arguments)


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
    """An array that is not filled yet: some constant, the same everywhere."""
    return [Value(plain_axes(shape, same=True)) for shape in equation.results]


def zeros_like(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Zeros, whatever the operand holds."""
    return [Value(plain_axes(shape, same=True), zero=True) for shape in equation.results]


def random(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Numbers drawn from a key: others at each index, and others for another shape."""
    base = union(arguments, equation.cause(READS_SIZE))
    if base.window is not None:
        return unknown(equation, arguments)
    shapes = [*equation.operands, *equation.results]
    if any(varies(size) for shape in shapes for size in shape):
        base = base._replace(place=base.place or equation.cause("draws random numbers by position"))
    elif not equation.has_equal_params():
        base = base._replace(place=base.place or equation.cause(READS_SIZE))
    return [base._replace(axes=plain_axes(shape)) for shape in equation.results]


_elementwise: dict[str, Rule] = dict.fromkeys(ELEMENTWISE - _IDENTITIES, elementwise)

RULES: Rules = {
    **_elementwise,
    **dict.fromkeys(_IDENTITIES, identities),
    **dict.fromkeys(RANDOM, random),
    "bitcast_convert_type": bitcast,
    "iota": iota,
    "empty": empty,
    "empty2": empty,
    "zeros_like": zeros_like,
}
