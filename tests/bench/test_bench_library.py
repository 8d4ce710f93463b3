"""The rows about the library compare what they time. No timing is tested here."""

import pytest

from bench import groups, library
from bench.data import default_promotion

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = {name: case for table in library.TABLES for name, case in table().items()}
SMALL = {"pool-sum-3x3-s2": (2, 9, 9, 4), "layer-norm-axes": (2, 5, 5, 4), "min-gru": (2, 9, 4)}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_the_rows_answer(name, gradient):
    case = CASES[name]._replace(x=SMALL[name])
    with default_promotion():
        answer = library.answer(name, case, gradient, 1e-9, 3)
    assert float(answer.figure.split("x")[0]) > 0
    assert answer.question == f"{name}, {'gradient' if gradient else 'forward'}"


def test_what_differs_is_not_timed():
    case = CASES["pool-sum-3x3-s2"]._replace(
        x=(2, 9, 9, 4), peers=lambda: {"wrong": lambda params, x: x[:, :4, :4]}
    )
    with default_promotion(), pytest.raises(AssertionError, match="is off by"):
        library.answer("wrong", case, False, 1e-9, 3)


def test_the_rows_are_found():
    assert groups.choose(["library"], groups.entries()) == list(library.ROWS)
