"""How far one call goes: the files that a traced apply enters, and how often it changes file.

A newcomer who follows ``params`` and ``x`` through a model opens these files in this order.
"""

import itertools
import os
import sys

import jax
import jax.numpy as jnp

import jlayers as jl

PACKAGE = os.path.dirname(jl.__file__) + os.sep


def files_entered(call):
    """The file of jlayers of each Python call that ``call`` makes, in order."""
    files = []

    def note(frame, event, _):
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            files.append(path.removeprefix(PACKAGE))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def moves(files):
    """How often the next call is in another file."""
    return sum(here != there for here, there in itertools.pairwise(files))


def test_a_traced_apply_enters_few_files():
    model = jl.serial(jl.Conv(4, 3), jax.nn.relu, jl.Dense(2))
    x = jnp.ones((2, 8, 3))
    params, state = model.init(jax.random.key(0), x)
    model.apply(params, state, x)
    files = files_entered(
        lambda: jax.make_jaxpr(lambda params, x: model.apply(params, state, x)[0])(params, x)
    )
    assert len(set(files)) <= 16, sorted(set(files))
    assert moves(files) <= 45, files


def test_what_serial_does_at_init_is_in_few_files():
    """``init`` of a model whose layers were traced before: what is left is serial's own."""
    model = jl.serial(jl.Dense(4), jax.nn.relu, jl.Dense(2))
    x = jl.spec((2, 3))
    first = jl.serial(*model.children.values())
    first.init(jax.random.key(0), x)
    explained = {
        "combinators/serial.py",  # the body
        "base/scope.py",  # InitScope runs it, and writes the table
        "base/tracing.py",  # the pass, and what it found
        "base/layer.py",  # init draws the table
        "base/initialization.py",  # how
        "base/parameters.py",  # an entry of the table; keys by name
        "base/collecting.py",  # the pass adds nothing to a loss
    }
    # Helpers on trees and texts, of which the name says enough; the compiler of initialisers.
    helpers = {
        "base/errors.py",
        "base/specs.py",
        "base/memo.py",
        "base/paths.py",
        "base/arguments.py",
        "base/initializer_programs.py",
    }
    entered = set(files_entered(lambda: model.init(jax.random.key(0), x)))
    assert entered - helpers <= explained
