"""The tiers: which rows of a table are for ``make test``, and which for ``make test-all`` alone.

``make test`` runs every public layer, every mechanism, every error and every page once, in minutes.
What is more (further options and shapes of the same) is marked ``full``. No row of the table of
instances is left out of ``make test-all``; ``test_tiers.py`` asserts both. Many seeds of one
property are for ``make soak``.
"""

import pytest


def full(*values):
    """Parameters for ``make test-all`` alone."""
    return [pytest.param(value, marks=pytest.mark.full) for value in values]


def soak(*values):
    """Parameters for ``make soak`` alone: the same again, with other seeds and sizes."""
    return [pytest.param(value, marks=pytest.mark.soak) for value in values]


def sample(values, *fast):
    """All values as parameters; those at the positions ``fast`` (the first) are in both tiers."""
    fast = {i % len(values) for i in fast or (0,)}
    return [value if i in fast else full(value)[0] for i, value in enumerate(values)]


def named(names, *fast):
    """All names as parameters; those that are ``fast`` are in both tiers."""
    if unknown := set(fast) - set(names):
        raise ValueError(f"not in the table: {unknown}")
    return [name if name in fast else full(name)[0] for name in names]


def rows(table, optimised=(), without=(), alike=()):
    """The names of a table, marked ``full`` where the row's column says so, or it is ``alike``.

    ``alike`` are the rows in which what is asked here runs as it does in another one.
    """

    def marks(name, row):
        yield from [pytest.mark.full] * (row.full or name in alike)
        yield from [pytest.mark.optimised(full=True)] * (name in optimised)

    return [
        pytest.param(name, marks=list(marks(name, row)))
        for name, row in table.items()
        if name not in without
    ]
