"""Parts of arrays: their text, what they share, and which of them are an array."""

import itertools

import numpy as np
import pytest

from jlayers.checkpoint import Part, parts


def cells(shape, index):
    """The elements that an index holds, as a mask."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*bounds) for bounds in index)] = True
    return mask


def test_what_parts_share_is_what_both_hold():
    shape, pick = (5, 4), np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(300):
        one, other = (
            tuple(tuple(sorted(pick.choice(size + 1, 2, replace=False).tolist())) for size in shape)
            for _ in range(2)
        )
        both = cells(shape, one) & cells(shape, other)
        shared = parts.overlap(one, other)
        seen[shared is None] += 1
        assert (shared is None) == (not both.any())
        if shared is not None:
            assert (cells(shape, shared) == both).all()
            numbers = np.arange(20).reshape(shape)
            cut = numbers[tuple(slice(*bounds) for bounds in one)][parts.within(one, shared)]
            assert (cut.ravel() == numbers[both]).all()
            assert parts.shape_of(shared) == cut.shape
    assert min(seen.values()) > 50


def test_empty_arrays_have_parts():
    """Each device has one of an array without elements."""
    first, second = ((0, 0), (0, 2)), ((0, 0), (2, 4))
    parts.check_grid((0, 4), [first, second])
    assert parts.overlap(first, ((0, 0), (0, 4))) == first
    assert parts.overlap(first, second) is None


@pytest.mark.parametrize("cuts", [((0, 5),), ((0, 2), (2, 5)), ((0, 1), (1, 2), (2, 5))])
def test_any_grid_is_an_array(cuts):
    columns = ((0, 3), (3, 4))
    cut = list(itertools.product(cuts, columns))
    parts.check_grid((5, 4), cut)
    parts.check_grid((5, 4), cut[::-1])
    for i in range(len(cut)):
        with pytest.raises(ValueError, match=r"gap|parts are missing"):
            parts.check_grid((5, 4), cut[:i] + cut[i + 1 :])


@pytest.mark.parametrize(
    ("shape", "cut", "why"),
    [
        ((4,), [((0, 2),), ((0, 2),), ((2, 4),)], "a part occurs twice"),
        ((4,), [((0, 3),), ((2, 4),)], "parts overlap"),
        ((4,), [((0, 4),), ((0, 2),), ((2, 4),)], "parts overlap"),
        ((4,), [((0, 1),), ((2, 4),)], "parts leave a gap"),
        ((4,), [((0, 2),), ((2, 6),)], "parts reach beyond it"),
        ((4,), [((0, 2),), ((2, 3),)], "parts leave a gap"),
        ((4,), [((0, 4),), ((4, 4),)], "parts leave a gap"),
        ((4,), [((4, 0),)], "parts leave a gap"),
        ((4,), [], "parts leave a gap"),
        ((), [], "parts are missing"),
        ((4,), [()], "other axes"),
        ((4,), [((0, 4), (0, 1))], "other axes"),
        ((2, 2), [((0, 1), (0, 2)), ((1, 2), (0, 1))], "gap|overlap|missing"),
        # Each axis is cut well, and a corner is missing.
        ((2, 2), [((0, 1), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (0, 1))], "parts are missing"),
    ],
)
def test_other_lists_are_not(shape, cut, why):
    with pytest.raises(ValueError, match=why):
        parts.check_grid(shape, cut)


def test_a_part_as_text():
    for part in (Part(0, (), 0), Part(7, ((0, 3),), 1), Part(12, ((4, 8), (0, 10**17)), 2**32 - 1)):
        assert parts.parse(str(part)) == part


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0 0:2", "0 0:2 1234567", "0 0:2 1234567G", "0 0:2, 00000000"),
        *("-1 0:2 00000000", "0 :2 00000000", "0 0:2,,0:2 00000000", "00 0:2 00000000"),
        *("0 00:2 00000000", "0 0:2 00000000\n", "٣ 0:2 00000000", "0 0:2 0000000A"),
        "0 0:" + "9" * 5000 + " 00000000",
        # Of the kind that takes a careless expression for ever.
        "0 " + "1" * 18 + ":" + ("1" * 18 + ":") * 50 + " 00000000",
    ],
)
def test_other_texts_are_not_parts(text):
    with pytest.raises(ValueError, match=r".|^$"):
        parts.parse(text)
