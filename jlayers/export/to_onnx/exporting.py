"""``jl.export.onnx``: a model as an ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from ...base.constructors import LayerOrFunction, lift
from ...base.errors import InteropError, public_api
from ...base.types import Params, PyTree, State
from ...checkpoint.atomic import atomic_file, sync

if TYPE_CHECKING:
    import onnx as onnx_package

# A protobuf holds 2 GB at most; arrays of larger models lie beside the file.
_EXTERNAL = 1_900_000_000
# Before it, some of the operators that are written were not there.
_OLDEST = 20


@public_api
def onnx(
    model: LayerOrFunction,
    params: Params,
    state: State | None = None,
    x: PyTree = None,
    path: str | os.PathLike[str] | None = None,
    *,
    batch: str | None = "b",
    time: str | None = None,
    opset: int = 23,
    check: bool = True,
) -> onnx_package.ModelProto:
    """The model as an ONNX graph, in eval mode, with its parameters inside.

    Layers for which ONNX has operators become these (``Conv``, ``LSTM``, ``LayerNormalization``,
    ...); all others, and functions of yours, are written operation by operation, loops included.
    The parameters keep their paths as names: ``encoder/dense/kernel``.

    Args:
      model: a layer.
      params, state: as ``init`` returned them, or as training has updated them.
      x: a spec of the input, or an input; one pytree. Its leaves are the inputs of the graph: ``x``
        if there is one, ``x/nodes`` and so on by their paths if there are several. Sizes that are
        symbolic (``jax.export.symbolic_shape``) may differ from call to call.
      path: a file to write. More than 1.9 GB of parameters go into another one beside it,
        ``path`` and ``.data``, to which the model that is returned then refers; without a path,
        a graph of that size is not run.
      batch: what to call the size of axis 0 of all inputs, which is free; None for a fixed one.
        Without effect where ``x`` has symbolic sizes.
      time: the same for axis 1, which is fixed by default.
      opset: the version of ONNX's operators, from 20 to the newest that the package onnx
        knows.
      check: whether to run the graph on random inputs of two sizes and compare it with the model,
        where onnxruntime is installed.

    Returns:
      An ``onnx.ModelProto``. Outputs are ``y``, or ``y/0`` and so on by their paths.

    Raises:
      InteropError: for an operation that ONNX does not have, with the layer it is in; and where
        the graph does not compute what the model does; and for a path that cannot be written.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(2))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 4)))
    >>> graph = jl.export.onnx(model, params, state, jl.spec((1, 4))).graph
    >>> [node.op_type for node in graph.node]
    ['MatMul', 'Add', 'Relu', 'MatMul', 'Add', 'Identity']
    """
    package = _package()
    from .checking import compare
    from .graph import Graph
    from .inputs import describe
    from .writing import write

    if x is None:
        raise InteropError("x must be a spec of the input, or an input", hint="x=jl.spec((1, 784))")
    if isinstance(model, str | os.PathLike) or isinstance(x, str | os.PathLike):
        raise InteropError(
            "a path is where the model or its input should be",
            expected="onnx(model, params, state, x, path)",
            hint="state={} where the model has none",
        )
    if path is not None:
        _check_path(path)
    layer = lift(model)
    newest = package.defs.onnx_opset_version()
    if not isinstance(opset, int) or not _OLDEST <= opset <= newest:
        raise InteropError(f"opset must be an int from {_OLDEST} to {newest}, got {opset!r}")
    state = {} if state is None else state
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, state))):
        raise InteropError(
            "params and state must be arrays, got specs", hint="model.init(key, x) makes arrays"
        )
    inputs = describe(x, batch, time)
    written = write(layer, params, state, inputs, Graph(), opset)

    def prove(source: Any) -> None:
        package.checker.check_model(source)
        if check:
            compare(layer, params, state, inputs, written, source)

    # What is larger than a protobuf is looked at as a file.
    large = written.size >= _EXTERNAL
    if not large:
        prove(written.model)
    if path is not None:
        save(written.model, Path(path), prove if large else None)
    return written.model


def save(
    model: onnx_package.ModelProto, path: Path, prove: Callable[[str], None] | None = None
) -> None:
    """Writes the file; where it is too large, another one beside it, once both are proven."""
    try:
        if prove is None:
            with atomic_file(path) as temporary:
                _package().save_model(model, str(temporary))
            return
        data = f"{path.name}.data"
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            file = Path(folder) / path.name
            _package().save_model(
                model,
                str(file),
                save_as_external_data=True,
                all_tensors_to_one_file=True,
                location=data,
                size_threshold=1024,
            )
            prove(str(file))
            for name in (data, path.name):
                sync(Path(folder) / name)
                (Path(folder) / name).replace(path.parent / name)
    except OSError as error:
        raise InteropError(f"{path} cannot be written", got=str(error)) from None


def _check_path(path: Any) -> None:
    """Raises where nothing can be written, before anything is worked out."""
    if not isinstance(path, str | os.PathLike):
        raise InteropError(f"path must be a str or a path, got {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InteropError(f"{text!r} is not the name of a file")
    if os.path.isdir(text):
        raise InteropError(f"{text} cannot be written", got="a directory", hint="model.onnx in it")
    if not os.path.isdir(os.path.dirname(text) or "."):
        raise InteropError(
            f"{text} cannot be written", got=f"{os.path.dirname(text)} is not a directory"
        )


def _package() -> Any:
    try:
        import onnx as package
    except ImportError:
        raise InteropError("needs the package onnx", hint="pip install 'jlayers[onnx]'") from None
    return package
