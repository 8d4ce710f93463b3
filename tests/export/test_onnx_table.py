"""Every row of the table of layers as an ONNX graph, run by onnxruntime beside the layer.

Sizes of batches and of time are free in the graph, and those of the inputs are not the ones that
it was made with.
"""

import jax
import numpy as np
import pytest
from jax import export
from oracles.onnx_runs import agree
from tables.instances import INSTANCES
from tables.tiers import named

import jlayers as jl

# Rows that cannot be exported, with the text of the error.
REFUSED = {}
FAST = (
    "dense",
    "conv 2-D",
    "lstm",
    "layer norm",
    "batch norm",
    "self-attention",
    "embedding",
    "max pool",
    "stft",
    "graph attention",
    "repeat",
    "s5",
    "mixture of experts with a capacity",
    "orthogonalize_weights by other methods",
)


def free(row):
    """The row's input with symbols for its free sizes, and a size for each symbol.

    Axes of one size have one symbol: those of nodes and edges are not taken for each other.
    """
    axes = row.axes_without_size()
    scope = export.SymbolicScope()
    sizes = {}

    def symbolic(leaf):
        if isinstance(leaf, np.ndarray) or not leaf.shape:
            return leaf
        dims = [f"n{axis}_{n}" if axis in axes else str(n) for axis, n in enumerate(leaf.shape)]
        sizes.update({dim: n + 1 for dim, n in zip(dims, leaf.shape, strict=True) if dim[0] == "n"})
        shape = export.symbolic_shape(", ".join(dims), scope=scope)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(symbolic, row.x), sizes


def random(leaf, sizes, rng):
    if isinstance(leaf, np.ndarray):
        return leaf
    shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in leaf.shape]
    if leaf.dtype == bool:
        return rng.random(shape) < 0.7
    if np.issubdtype(leaf.dtype, np.integer):
        return rng.integers(0, 2, shape).astype(leaf.dtype)
    return rng.normal(size=shape).astype(leaf.dtype)


@pytest.mark.parametrize("name", named(INSTANCES, *FAST))
def test_the_table_in_onnxruntime(name, key):
    row = INSTANCES[name]
    params, state = row.layer.init(key, row.x)
    spec, sizes = free(row)
    if name in REFUSED:
        with pytest.raises(jl.InteropError, match=REFUSED[name]):
            jl.export.onnx(row.layer, params, state, spec, check=False)
        return
    rng = np.random.default_rng(0)
    x = jax.tree.map(lambda leaf: random(leaf, sizes, rng), spec)
    agree(row.layer, params, state, spec, x)


def test_most_of_the_table_can_be_exported():
    assert set(REFUSED) <= set(INSTANCES)
    assert len(REFUSED) <= 0.05 * len(INSTANCES)
