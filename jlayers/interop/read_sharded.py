"""``read_sharded``: the arrays of a file onto the devices where they are wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..base.errors import InteropError, public_api
from .formats.base import check_like
from .reading import format_of


@public_api
def read_sharded(
    path: str | os.PathLike[str], like: Mapping[str, Any], *, format: str | None = None
) -> dict[str, jax.Array]:
    """Arrays in a file of weights, as arrays of JAX with the shardings of a template.

    Each process reads what its devices need where the format lets it: Orbax's folders, and formats
    whose arrays are mapped. Of all others it reads the file, and keeps what its devices need.

    Args:
      path: as for ``read``.
      like: the arrays that are wanted by their names in the file, as arrays of JAX or as
        ``jax.ShapeDtypeStruct``, both with a sharding.
      format: as for ``read``.

    Returns:
      The arrays of these names.

    Raises:
      InteropError: as ``read``, and for an array that the file does not have in this shape and
        dtype.
      FileNotFoundError: where there is none.

    >>> import pathlib, tempfile, jax, jlayers as jl, numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> jl.interop.write(path, {"kernel": np.ones((8, 3), np.float32)}).name
    'model.safetensors'
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    >>> like = {"kernel": jax.ShapeDtypeStruct((8, 3), np.float32, sharding=rows)}
    >>> jl.interop.read_sharded(path, like)["kernel"].sharding == rows
    True
    """
    path, specs = Path(path), {name: _spec(name, leaf) for name, leaf in like.items()}
    known = format_of(path, format)
    if known.read_onto is not None:
        return known.read_onto(path, specs)
    arrays = known.read(path)
    for name, spec in specs.items():
        check_like(path, name, spec, arrays.get(name))
    return {name: _placed(arrays[name], spec) for name, spec in specs.items()}


def _spec(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding):
        raise InteropError(
            f"the template of {name!r} must have a sharding",
            got=type(leaf).__name__,
            hint="jax.ShapeDtypeStruct(shape, dtype, sharding=...)",
        )
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise InteropError(
            f"{name!r} is {leaf.dtype}, which is not enabled in JAX",
            hint='jax.config.update("jax_enable_x64", True)',
        )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed(array: np.ndarray, spec: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.make_array_from_callback(
        spec.shape, spec.sharding, lambda place: np.asarray(array[place])
    )
