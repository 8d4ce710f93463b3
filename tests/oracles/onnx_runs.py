"""Runs a function and its ONNX graph side by side."""

import jax
import numpy as np
import onnxruntime

import jlayers as jl


def run(model, x):
    """The outputs of a graph, in order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, map(np.asarray, x), strict=True))
    return session.run(None, feed)


def agree(layer, params, state, spec, x, **options):
    """Exports a layer for a spec, and compares it with the graph on an input; the graph."""
    model = jl.export.onnx(layer, params, state, spec, check=False, **options)
    expected = jax.jit(lambda x: layer.apply(params, state, x)[0])(x)
    got = run(model, jax.tree.leaves(x))
    for y, found in zip(jax.tree.leaves(expected), got, strict=True):
        assert (found.dtype, found.shape) == (y.dtype, y.shape)
        # Small outputs by their own scale.
        scale = min(1, np.max(np.abs(y), initial=0, where=np.isfinite(y)))
        np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5 * scale)
    return model


def kinds(model):
    """The operators of a graph and of those inside it."""
    found = []

    def visit(graph):
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)

    visit(model.graph)
    return found
