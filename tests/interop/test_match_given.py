"""Arrays that match is given: orders of names, of bytes, and what is not an array of numbers."""

import numpy as np
import pytest

import jlayers as jl

X = jl.spec((1, 3))
GIVEN = {"weight": np.arange(6.0).reshape(2, 3), "bias": np.ones(2)}


def test_layers_in_the_order_of_text_go_by_their_numbers():
    model = jl.repeat(jl.residual(jl.Dense(3, bias=False)), 12)
    arrays = {f"h.{i}.w.weight": np.full((3, 3), float(i)) for i in sorted(range(12), key=str)}
    params, _ = jl.interop.match(model, X, arrays).load()
    np.testing.assert_array_equal(params["body"]["kernel"][:, 0, 0], range(12))


def test_bytes_in_the_other_order():
    swapped = {name: array.astype(">f4") for name, array in GIVEN.items()}
    params, _ = jl.interop.match(jl.Dense(2), X, swapped).load()
    np.testing.assert_array_equal(params["kernel"], GIVEN["weight"].T)


WRONG = {
    "records": (
        {"weight": np.zeros((2, 3), [("a", "f4")])},
        "'weight' must be an array of numbers",
    ),
    "texts": ({"weight": np.full((2, 3), "x")}, "'weight' must be an array of numbers"),
    "objects": ({"weight": np.full((2, 3), None)}, "'weight' must be an array of numbers"),
    "a list": ({"weight": [[1.0]]}, "'weight' must be an array(\n.*)*got: +list"),
    "a number for a name": ({0: np.zeros(3)}, "the names of arrays must be text(\n.*)*got: +0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_an_array_of_numbers(name):
    given, text = WRONG[name]
    with pytest.raises(jl.InteropError, match=text):
        jl.interop.match(jl.Dense(2), X, GIVEN | given).load()
    with pytest.raises(jl.InteropError, match="a rule must be text"):
        jl.interop.match(jl.Dense(2), X, GIVEN, rules=[3])
