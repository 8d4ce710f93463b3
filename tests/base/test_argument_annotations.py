"""factory checks the arguments that their annotations say something of."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest

import jlayers as jl
from jlayers.base import arguments
from jlayers.base.arguments import AboveZero, Fraction, Positive, Sizes
from jlayers.base.factory import _checks

if TYPE_CHECKING:
    from nowhere import Unknown

FACTORIES = [
    value for name in jl.__all__ if hasattr(value := getattr(jl, name), "__jlayers_factory__")
]


@jl.factory
def Block(
    width: Positive,
    *sizes: int,
    rate: Fraction = 0.5,
    window: Sizes | None = None,
    cap: AboveZero | None = None,
    last: bool = True,
    other: Unknown = None,
    plain: Any = 3,
    **more: bool,
):
    SEEN.append((width, sizes, rate, window, cap, last, other, plain, more))
    return jl.Dense(width)


SEEN: list[Any] = []


def test_values_come_as_the_layer_uses_them():
    made = Block(np.int64(3), 0, rate=0, window=[2, 3], cap=1, last=False, other=1, more=5)
    assert SEEN[-1] == (3, (0,), 0.0, (2, 3), 1.0, False, 1, 3, {"more": 5})
    assert [type(value) for value in SEEN[-1][:5]] == [int, tuple, float, tuple, float]
    assert repr(made) == (
        "Block(np.int64(3), 0, rate=0, window=[2, 3], cap=1, last=False, other=1, more=5)"
    )
    Block(4)
    assert SEEN[-1] == (4, (), 0.5, None, None, True, None, 3, {})


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Block(0), "Block: width must be a positive int, got 0"),
        (lambda: Block(3, rate=1), "Block: rate must be at least 0 and less than 1, got 1"),
        (lambda: Block(3, window=()), "Block: window must be a positive int or a tuple of them"),
        (lambda: Block(3, cap=0), "Block: cap must be a number above 0, got 0"),
        (lambda: Block(3, last=1), "Block: last must be True or False, got 1"),
    ],
)
def test_an_invalid_argument_is_refused_before_the_call(call, text):
    before = len(SEEN)
    with pytest.raises(jl.LayerError) as caught:
        call()
    assert str(caught.value).startswith(text)
    assert len(SEEN) == before


def checks_of(function):
    return _checks(inspect.unwrap(function), inspect.signature(function))


def test_every_layer_says_what_its_arguments_are():
    """A number, a flag or an initialiser of a public layer that no annotation mentions."""
    loose = ("int", "float", "int | None", "float | None", "bool | None")
    unchecked = {
        f"{function.__name__}.{name}"
        for function in FACTORIES
        if ".layers." in function.__module__
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in checks_of(function)
        and parameter.annotation in loose
        # Einsum checks its sizes, whose names are letters, by itself.
        and parameter.kind is not parameter.VAR_KEYWORD
    }
    assert unchecked == set()


def test_bools_and_initialisers_are_checked():
    checks = checks_of(jl.Conv)
    assert checks["bias"] is arguments.flag
    assert checks["kernel_init"] is checks["bias_init"] is arguments.initializer
    assert "method" not in checks


def test_checks_under_a_trace():
    def run(x):
        layer = jl.Dense(4)
        return layer.apply(layer.init(jax.random.key(0), x)[0], {}, x)[0]

    assert jax.jit(run)(np.ones((2, 3), np.float32)).shape == (2, 4)
