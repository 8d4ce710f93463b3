"""The inputs and outputs of an exported model: their names, and their sizes without a number."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ...base.dependence import symbols_of
from ...base.errors import InteropError
from ...base.specs import format_short, path_text
from .sizes import is_int


class Inputs(NamedTuple):
    """What a model takes.

    Attributes:
      specs: the tree of specs, with symbolic sizes.
      names: of its leaves, in order.
      sizes: a number for each symbol, from the spec that was given.
      examples: arrays that were given instead of specs, by position.
    """

    specs: Any
    names: list[str]
    sizes: dict[str, int]
    examples: dict[int, np.ndarray]


def describe(x: Any, batch: str | None, time: str | None) -> Inputs:
    """Names and symbolic sizes for a tree of specs or arrays."""
    leaves, treedef = jax.tree.flatten(x)
    names = names_of(x, "x")
    for name, leaf in zip(names, leaves, strict=True):
        if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise InteropError(
                f"the input {name!r} is {format_short(leaf)}",
                expected="a spec of an array, or an array",
                hint=f"jl.spec({x})" if isinstance(x, tuple) and {*map(type, x)} == {int} else None,
            )
    examples = {i: np.asarray(leaf) for i, leaf in enumerate(leaves) if hasattr(leaf, "__array__")}
    specs = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    if all(is_int(dim) for spec in specs for dim in spec.shape):
        specs, sizes = _with_symbols(specs, names, {0: batch, 1: time})
    else:
        sizes = dict.fromkeys(symbols_of(specs), 4)
    return Inputs(jax.tree.unflatten(treedef, specs), names, sizes, examples)


def _with_symbols(
    specs: list[Any], names: list[str], symbols: dict[int, str | None]
) -> tuple[list[Any], dict[str, int]]:
    given = [symbol for symbol in symbols.values() if symbol is not None]
    if len(set(given)) < len(given) or not all(map(_is_symbol, given)):
        raise InteropError(
            "batch and time must be names of sizes, or None",
            expected="two identifiers such as 'rows' and 'steps'",
            got=f"batch={symbols[0]!r}, time={symbols[1]!r}",
        )
    scope = export.SymbolicScope()
    sizes: dict[str, int] = {}
    for axis, symbol in symbols.items():
        if symbol is None:
            continue
        found = {
            name: s.shape[axis] for name, s in zip(names, specs, strict=True) if len(s.shape) > axis
        }
        if len(set(found.values())) > 1:
            raise InteropError(
                f"axis {axis} of the inputs has several sizes, which cannot all be {symbol!r}",
                got=", ".join(f"{name}: {size}" for name, size in found.items()),
                hint="jax.export.symbolic_shape for the sizes in x that shall be free, or None",
            )
        sizes |= dict.fromkeys([symbol], *set(found.values())) if found else {}
    new = []
    for spec in specs:
        dims = [symbols.get(axis) or str(dim) for axis, dim in enumerate(spec.shape)]
        shape = export.symbolic_shape(", ".join(dims), scope=scope) if dims else ()
        new.append(jax.ShapeDtypeStruct(shape, spec.dtype))
    return new, sizes


def _is_symbol(name: object) -> bool:
    # Of functions that may be in symbolic sizes.
    taken = ("floordiv", "mod", "max", "min")
    return isinstance(name, str) and name.isidentifier() and name not in taken and name != "_"


def names_of(tree: Any, root: str) -> list[str]:
    """``x`` for a single leaf, and its path for one of several: ``x/nodes``.

    Of ``{"a/b": ..., "a": {"b": ...}}`` the second is ``x/a/b_1``.
    """
    paths = [path_text(path) for path, _ in jax.tree.leaves_with_path(tree)]
    names: dict[str, None] = {}
    for path in paths:
        name = hint = f"{root}/{path}" if path else root
        for count in itertools.count(1):
            if name not in names:
                break
            name = f"{hint}_{count}"
        names[name] = None
    return list(names)
