"""Proof that a graph computes what the model does: both on random inputs, in two sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ...base.dependence import number
from ...base.errors import InteropError
from ...base.layer import Layer
from ...base.types import Params, State
from .inputs import Inputs
from .locating import first_departure
from .runtime import differs, session_of
from .writing import Written


def compare(
    layer: Layer,
    params: Params,
    state: State,
    inputs: Inputs,
    written: Written,
    source: Any,
    larger: Sequence[int] = (0, 3),
) -> None:
    """Runs both where onnxruntime is installed.

    Args:
      source: the graph, or the path of its file.

    Raises:
      InteropError: where they differ.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return
    session = session_of(source)
    run = jax.jit(lambda params, state, x: layer.apply(params, state, x)[0])
    wanted = {value.name for value in session.get_inputs()}
    for more in larger if inputs.sizes else larger[:1]:
        # Symbols are at least 1 in JAX.
        sizes = {name: max(size, 1) + more for name, size in inputs.sizes.items()}
        leaves = examples(inputs, sizes, seed=more)
        x = jax.tree.unflatten(jax.tree.structure(inputs.specs), leaves)
        expected = jax.tree.leaves(run(params, state, x))
        feed = {name: a for name, a in zip(inputs.names, leaves, strict=True) if name in wanted}
        try:
            got = session.run(written.outputs, feed)
        except Exception as error:
            raise InteropError(
                "onnxruntime cannot run the graph", got=str(error)[:500], hint="check=False"
            ) from error
        for name, y, found in zip(written.outputs, expected, got, strict=True):
            if (difference := differs(np.asarray(y), found)) is not None:
                where = first_departure(written.run, written.marks, params, state, x)
                raise InteropError(
                    f"the output {name!r} is not the model's in onnxruntime",
                    got=f"{difference}, for sizes {sizes}" if sizes else difference,
                    hint=where and f"the first to depart: {where}",
                )


def examples(inputs: Inputs, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    """Random inputs: small ids, a mask that is mostly true, normal numbers."""
    rng = np.random.default_rng(seed)
    leaves = []
    for i, spec in enumerate(jax.tree.leaves(inputs.specs)):
        shape = tuple(number(dim, sizes) for dim in spec.shape)
        given = inputs.examples.get(i)
        if given is not None and given.shape == shape:
            leaves.append(given)
        elif spec.dtype == bool:
            leaves.append(rng.random(shape) < 0.8)
        elif np.issubdtype(spec.dtype, np.integer):
            leaves.append(rng.integers(0, 2, shape).astype(spec.dtype))
        else:
            leaves.append(rng.normal(size=shape).astype(spec.dtype))
    return leaves
