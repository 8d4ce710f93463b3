"""The graph of a model: traced with symbolic sizes, and converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from onnx import helper

from ...base.errors import InteropError, JlayersError
from ...base.layer import Layer
from ...base.specs import path_text
from ...base.types import Params, State
from . import operators  # noqa: F401 - fills the table of layers
from .call import full
from .converter import Converter
from .graph import Graph, entered
from .inputs import Inputs, names_of
from .operators.marking import Marks
from .primitives.complexes import is_complex
from .sizes import is_int, source
from .values import Known, Tensor, Value

# The oldest version of the file format that has these operators.
_IR = {20: 9, 21: 10, 22: 10, 23: 11}


class Written(NamedTuple):
    """A model in ONNX.

    Attributes:
      model: the file's content.
      outputs: the names of its outputs, in the order of the leaves.
      size: of all arrays, in bytes.
      run: ``run(params, state, x)``, the model with its marks.
      marks: on its layers.
    """

    model: onnx.ModelProto
    outputs: list[str]
    size: int
    run: Callable[[Params, State, Any], Any]
    marks: Marks


def write(
    layer: Layer, params: Params, state: State, inputs: Inputs, graph: Graph, opset: int
) -> Written:
    """Traces and converts a layer."""
    marks = Marks(opset)
    marked = marks.mark(layer)

    def run(params: Params, state: State, x: Any) -> Any:
        return marked.apply(params, state, x)[0]

    program, out = _traced(run, params, state, inputs)
    if not jax.tree.leaves(out):
        raise InteropError("the model has no output", got=str(out))
    leaves = [
        (path_text(path), leaf)
        for tree in (params, state)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]
    given: list[Value] = [Known(np.asarray(leaf), path) for path, leaf in leaves]
    variables = program.jaxpr.invars[len(given) :]
    specs = jax.tree.leaves(inputs.specs)
    for name, spec, var in zip(inputs.names, specs, variables, strict=True):
        if is_complex(spec):
            raise InteropError(f"the input {name!r} is complex: ONNX has real inputs alone")
        shape = tuple(spec.shape)
        own = graph.add_input(name, shape, spec.dtype)
        given.append(Tensor(entered(graph, own, spec.dtype, var.aval.dtype), shape))
        for axis, dim in enumerate(shape):
            if not is_int(dim) and (found := source(own, axis, dim)) is not None:
                symbol, where = found
                # The size itself needs no arithmetic.
                if where.factor == 1 and not where.rest:
                    graph.symbols[symbol] = where
                graph.symbols.setdefault(symbol, where)
    # Before any parameter may have one of these names.
    names = [graph.fresh(name) for name in names_of(out, "y")]
    converter = Converter(marks.operators)
    results = converter.run(program, given, graph)
    for name, value, spec in zip(names, results, jax.tree.leaves(out), strict=True):
        if is_complex(spec):
            raise InteropError(f"the output {name!r} is complex: ONNX has real outputs alone")
        graph.add_output(full(graph, value, spec), name, spec.shape, spec.dtype, new=name)
    model = helper.make_model(
        graph.proto("jlayers"),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR.get(opset, 12),
        producer_name="jlayers",
    )
    size = sum(array.nbytes for array in graph.initializers.values())
    return Written(model, names, size, run, marks)


def _traced(
    run: Callable[[Params, State, Any], Any], params: Params, state: State, inputs: Inputs
) -> tuple[Any, Any]:
    """The program, and the specs of its outputs."""
    # Newer versions of JAX warn of specs whose dtype they do not have.
    specs = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(
            spec.shape, jax.numpy.asarray(np.zeros((), spec.dtype)).dtype
        ),
        inputs.specs,
    )
    try:
        program, out = jax.make_jaxpr(run, return_shape=True)(params, state, specs)
        return program, out
    except JlayersError:
        raise
    except Exception as error:
        if not inputs.sizes:
            raise
        # JAX says at length which comparison it cannot decide.
        raised = InteropError(
            f"the model cannot be traced with free sizes: {', '.join(sorted(inputs.sizes))}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            hint="batch=None and time=None for the sizes of x",
        )
        for note in getattr(error, "__notes__", ()):
            raised.add_note(note)
        raise raised from error
