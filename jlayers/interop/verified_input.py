"""The input on which a model and its original are compared, for either of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import InteropError
from ..base.layer import Layer
from ..base.sequence import is_sequence
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..inspection import parameters
from .references.recorded import INPUT


def our_input(
    model: Layer,
    x: PyTree,
    recording: Mapping[str, Any] | None,
    channels_first: bool,
    key: jax.Array | None,
) -> PyTree:
    """Our input, as arrays: as given, as recorded, or drawn.

    Raises:
      InteropError: where there is none, for a spec where there is a recording, and for one of
        integers where the model has no embedding.
    """
    if x is None:
        if recording is None or INPUT not in recording:
            raise InteropError(
                "there is no input to run the model on",
                expected="x, an array or a spec such as jl.spec((1, 28, 28, 1))"
                + ("" if recording is None else f", or the recorded {INPUT!r}"),
            )
        x = jnp.asarray(recording[INPUT])
        return jnp.moveaxis(x, 1, -1) if channels_first and _is_image(x) else x
    specs = [leaf for leaf in jax.tree.leaves(x) if isinstance(leaf, jax.ShapeDtypeStruct)]
    if specs and recording is not None:
        raise InteropError(
            "recorded activations are those of one input",
            expected="x as it was there",
            got=format_spec(specs_of(x)),
        )
    keys = jax.random.split(jax.random.key(0) if key is None else key, max(len(specs), 1))
    drawn = iter(keys)
    ids = _ids(model, x) if specs else None

    def array(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return _draw(leaf, next(drawn), ids)
        # In a dtype that JAX computes in, so that the original gets the same numbers.
        return jnp.asarray(leaf)

    return jax.tree.map(array, x)


def _ids(model: Layer, x: PyTree) -> int | None:
    """How many ids the smallest embedding knows."""
    table = parameters(model, x)
    sizes = [s.shape_of_one[0] for p, s in table.items() if p.split("/")[-1] == "embedding"]
    return min(sizes, default=None)


def _draw(spec: jax.ShapeDtypeStruct, key: jax.Array, ids: int | None) -> jax.Array:
    # Of a Sequence's mask: all steps are valid.
    if jnp.issubdtype(spec.dtype, jnp.bool_):
        return jnp.ones(spec.shape, bool)
    if jnp.issubdtype(spec.dtype, jnp.integer):
        if ids is None:
            raise InteropError(
                "random integers need a range, and the model has no embedding",
                got=format_spec(spec),
                hint="x as an array",
            )
        return jax.random.randint(key, spec.shape, 0, ids, spec.dtype)
    return jax.random.normal(key, spec.shape, spec.dtype)


def their_input(
    x: PyTree, channels_first: bool, to_reference: Callable[[PyTree], PyTree] | None
) -> PyTree:
    """The original's input, as NumPy arrays."""

    def plain(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf.values if is_sequence(leaf) else leaf)
        if channels_first and to_reference is None and _is_image(array):
            return np.ascontiguousarray(np.moveaxis(array, -1, 1))
        return array

    arrays = jax.tree.map(plain, x, is_leaf=is_sequence)
    return arrays if to_reference is None else to_reference(arrays)


def _is_image(array: Any) -> bool:
    return array.ndim > 2 and bool(jnp.issubdtype(array.dtype, jnp.floating))
