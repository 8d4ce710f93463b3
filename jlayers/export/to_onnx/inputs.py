"""The inputs and outputs of an exported model: their names, and their sizes without a number."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from ...base.errors import InteropError
from ...base.specs import path_text
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
    examples = {i: np.asarray(leaf) for i, leaf in enumerate(leaves) if hasattr(leaf, "__array__")}
    specs = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    if all(is_int(dim) for spec in specs for dim in spec.shape):
        specs, sizes = _with_symbols(specs, names, {0: batch, 1: time})
    else:
        symbols = {str(dim) for spec in specs for dim in spec.shape if not is_int(dim)}
        sizes = {name: 4 for name in symbols if name.isidentifier()}
    return Inputs(jax.tree.unflatten(treedef, specs), names, sizes, examples)


def _with_symbols(
    specs: list[Any], names: list[str], symbols: dict[int, str | None]
) -> tuple[list[Any], dict[str, int]]:
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
