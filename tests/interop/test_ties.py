"""Arrays of a file under several names: those in one place in memory, and no others."""

import numpy as np

from jlayers.interop.formats.binary import LazyArrays
from jlayers.interop.ties import tied_names


def test_views_of_one_memory():
    table = np.ones((4, 3))
    arrays = {"embed": table, "head": table[:], "other": table.copy(), "transposed": table.T}
    arrays |= {"none": table[:0], "none_too": table[:0]}
    assert tied_names(arrays, arrays) == {"head"}


def test_arrays_that_are_made_when_they_are_used():
    """The memory of one that is given up may be the next one's."""
    arrays = LazyArrays({str(i): (lambda: np.ones((64, 64))) for i in range(8)})
    assert tied_names(arrays, arrays) == set()
