"""stablehlo: a model as compiled-from programs of ``jax.export``, in one file that checks itself.

How to read this file: ``stablehlo`` gathers what goes into the archive, ``_Programs`` traces, and
``standalone`` reads: it is a part of the archive, and what ``load`` uses here.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ..base import arguments
from ..base.arrays import native_tree
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import CheckpointError, LayerError, error_context, public_api
from ..base.layer import Layer
from ..base.specs import as_array, format_short, path_text, specs_of
from ..base.types import Params, PyTree, State
from ..base.wrong_input import checked_trees
from ..checkpoint.manifest import versions
from ..core.dtypes import is_symbolic
from ..sequences.streaming import stream as stream_pair
from . import standalone
from .files import file_path, new_file
from .sizes import blocks, check_names, factor, scope, symbolic

_PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN = ("cpu", "cuda", "rocm", "tpu")
# Of the largest number in an output: what another order of additions may change.
_TOLERANCE = 1e-4


@public_api
def stablehlo(
    model: LayerOrFunction,
    params: Params,
    state: State | None,
    x: PyTree,
    path: str | os.PathLike[str],
    *,
    batch: str | None = "b",
    time: str | None = None,
    constraints: Sequence[str] = (),
    stream: int | None = None,
    capacity: int | None = None,
    platforms: Sequence[str] = _PLATFORMS,
    seed: int = 0,
) -> None:
    """Writes a model to one file that runs in a process without jlayers, and checks itself.

    The file holds the program of ``model.apply`` in evaluation mode (StableHLO, by ``jax.export``),
    the weights, a manifest, and test vectors whose outputs are those of the model here. It is a zip
    archive, and ``python FILE`` runs the test vectors: jax and numpy are all that it needs.
    ``export.load`` reads it here.

    Args:
      model: a ``Layer``, or a function of one argument.
      params, state: as ``init`` or training returned them.
      x: an input: arrays, which are then a test vector, or ``jax.ShapeDtypeStruct``s.
      path: of the file; an existing one is replaced.
      batch: a name for the size of the first axis of every input, which then is of any size from 1;
        None where it is the one of ``x``. A multiple of a name, ``"4*b"``, where it must be one.
      time: a name for the size of the second axis of those inputs in which it has as many entries
        as in the first one.
      constraints: what holds for these sizes, as of ``jax.export.SymbolicScope``: ``"t >= 3"``.
      stream: for a causal model, how many steps a block has: the file then has its ``start`` and
        ``step`` too, for the batch of ``x``.
      capacity: as of ``jl.stream``: for how many steps attention without a window has room.
      platforms: what it can run on.
      seed: of the test vectors.

    Raises:
      LayerError: for a model that cannot be exported so, with the reason.
      CheckpointError: if the file cannot be written.

    >>> import pathlib, tempfile, jax, jlayers as jl
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.zip"
    >>> model = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(3))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 4)))
    >>> jl.export.stablehlo(model, params, state, jl.spec((2, 4)), path, platforms=["cpu"])
    >>> loaded = jl.export.load(path)
    >>> loaded(jax.numpy.ones((7, 4))).shape, loaded.verify() < 1e-5
    ((7, 3), True)
    """
    layer, state = lift(model), {} if state is None else state
    path = file_path(path)
    check_names(batch, time)
    unknown = [platform for platform in platforms if platform not in _KNOWN]
    if unknown or isinstance(platforms, str) or not platforms:
        raise LayerError(
            "platforms must be a list of platforms of JAX",
            expected=", ".join(map(repr, _KNOWN)),
            got=format_short(platforms),
        )
    with error_context(layer):
        x = native_tree(x, "x")
        # With the sizes of x, where what is wrong has nothing to do with sizes that are not known.
        params, state = checked_trees(layer, params, state, x)
        programs = _Programs(layer, params, state, x)
        specs = symbolic(programs.inputs, batch, time, scope(constraints))
        exported = {"apply": _export(programs.apply, platforms, programs.weights, specs)}
        block = None
        if stream is not None:
            block = blocks(programs.inputs, arguments.positive("stream", stream))
            programs.streamed(capacity)
            first = _export(programs.start, platforms, programs.weights, block)
            last = _export(programs.step, platforms, programs.weights, _like(first), block)
            exported |= {"start": first, "step": last}
        vectors = _vectors(programs, exported["apply"], factor(batch), seed)
    manifest = {
        "format": "jlayers stablehlo",
        "version": standalone.VERSION,
        "versions": versions(sys.modules["jlayers"].__version__),
        "calling_convention": exported["apply"].calling_convention_version,
        "platforms": list(platforms),
        "repr": repr(layer),
        "inputs": _inputs(programs.names, specs),
        "block": None if block is None else _inputs(programs.names, block),
        "output": programs.output,
        "weights": [
            _entry(name, array) for name, array in zip(programs.paths, programs.arrays, strict=True)
        ],
        "programs": list(exported),
        "vectors": [
            {
                part: [_entry(str(i), array) for i, array in enumerate(arrays)]
                for part, arrays in vector.items()
            }
            for vector in vectors
        ],
        "constraints": list(constraints),
        "tolerance": _TOLERANCE,
    }
    source = Path(standalone.__file__).read_bytes()
    entries = {
        "__main__.py": source,
        "standalone.py": source,
        "manifest.json": json.dumps(manifest, indent=1, allow_nan=False).encode(),
        **{f"{name}.bin": bytes(program.serialize()) for name, program in exported.items()},
        **{
            f"vectors/{i}/{part}.bin": _joined(arrays)
            for i, vector in enumerate(vectors)
            for part, arrays in vector.items()
        },
        "weights.bin": _joined(programs.arrays),
    }
    if _runs_here(platforms):
        _check(entries)
    _write(path, entries)


@public_api
def load(path: str | os.PathLike[str]) -> standalone.Model:
    """The model in a file of ``export.stablehlo``: ``y = model(x)``, ``model.verify()``.

    No Python in the file is run. It computes outputs, and has no derivatives. Outputs that are
    neither arrays nor tuples, lists and dicts of them, such as a ``Sequence``, come as dicts by the
    names of their parts.

    Raises:
      CheckpointError: if it is not a complete file of this kind.
      LayerError: from the model, for inputs that do not fit.
    """
    path = file_path(path)
    try:
        return _Loaded(standalone.read(str(path)), str(path))
    except standalone.DamagedError as error:
        other = str(error) in ("File is not a zip file", "manifest.json is missing")
        hint = "files of save_model are for load_model" if other else None
        raise CheckpointError(f"cannot read {path}: {error}", hint=hint) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


class _Loaded(standalone.Model):
    error = LayerError


class _Programs:
    """A model as functions of lists of arrays, which need no class of jlayers where they run."""

    def __init__(self, layer: Layer, params: Params, state: State, x: PyTree):
        self.layer = layer
        self._start: Callable[..., Any] | None = None
        self._step: Callable[..., Any] | None = None
        leaves, self._weights = jax.tree.flatten((params, state))
        self._impls = [_key_impl(leaf) for leaf in leaves]
        self.arrays = [_plain(leaf) for leaf in leaves]
        named = jax.tree.leaves_with_path({"params": params, "state": state})
        self.paths = [path_text(name) for name, _ in named]
        self.weights = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.arrays]
        inputs = jax.tree.leaves_with_path(x)
        self.names = [_input_name(name) for name, _ in inputs]
        self.inputs = [
            _input(name, leaf) for name, (_, leaf) in zip(self.names, inputs, strict=True)
        ]
        self._x = jax.tree.structure(x)
        self.output: Any = None

    def _trees(self, weights: list[Any]) -> tuple[Params, State]:
        leaves = [
            jax.random.wrap_key_data(leaf, impl=impl) if impl else leaf
            for leaf, impl in zip(weights, self._impls, strict=True)
        ]
        params, state = jax.tree.unflatten(self._weights, leaves)
        return params, state

    def apply(self, weights: list[Any], inputs: list[Any]) -> list[Any]:
        x = jax.tree.unflatten(self._x, inputs)
        y, _ = self.layer.apply(*self._trees(weights), x)
        self.output, leaves = _described(y)
        return leaves

    def streamed(self, capacity: int | None) -> None:
        self._start, self._step = stream_pair(self.layer, capacity=capacity)

    def start(self, weights: list[Any], inputs: list[Any]) -> Any:
        assert self._start is not None
        return self._start(*self._trees(weights), jax.tree.unflatten(self._x, inputs))

    def step(self, weights: list[Any], carry: Any, inputs: list[Any]) -> tuple[list[Any], Any]:
        assert self._step is not None
        x = jax.tree.unflatten(self._x, inputs)
        y, carry = self._step(*self._trees(weights), carry, x)
        return jax.tree.leaves(y), carry


def _input_name(path: tuple[Any, ...]) -> str:
    inside = path_text(path)
    return f"x/{inside}" if inside else "x"


def _input(name: str, leaf: Any) -> Any:
    """An array or a spec, in a dtype that JAX computes in: others are not in the program."""
    if not hasattr(leaf, "shape") or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise LayerError(f"the input {name!r} must be an array", got=format_short(leaf))
    if is_symbolic(*leaf.shape):
        hint = "numbers in x, and names for them: batch=, time="
        raise LayerError(f"the input {name!r} has sizes that are not numbers", hint=hint)
    return specs_of(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else as_array(leaf)


def _key_impl(leaf: Any) -> str | None:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return str(jax.random.key_impl(leaf)) if is_key else None


def _plain(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    # As they are in the program, whatever is enabled where the file is read.
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _described(y: PyTree) -> tuple[Any, list[Any]]:
    """The structure of an output as JSON, with numbers for its leaves; and the leaves."""
    leaves: list[Any] = []

    def describe(node: Any) -> Any:
        if node is None:
            return None
        if type(node) in (tuple, list):
            return {type(node).__name__: [describe(part) for part in node]}
        if type(node) is dict and all(isinstance(key, str) for key in node):
            return {"dict": {key: describe(node[key]) for key in sorted(node)}}
        inside = jax.tree.leaves_with_path(node)
        if len(inside) == 1 and not inside[0][0]:
            leaves.append(node)
            return len(leaves) - 1
        return {"dict": {path_text(path): describe(leaf) for path, leaf in inside}}

    return describe(y), leaves


def _inputs(names: list[str], specs: list[jax.ShapeDtypeStruct]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": jnp.dtype(spec.dtype).name, "shape": [*map(_size, spec.shape)]}
        for name, spec in zip(names, specs, strict=True)
    ]


def _like(exported: export.Exported) -> Any:
    specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.out_avals]
    return jax.tree.unflatten(exported.out_tree, specs)


def _hint(specs: Any) -> str | None:
    symbolic = any(is_symbolic(*leaf.shape) for leaf in jax.tree.leaves(specs))
    return 'batch=None, time=None, or constraints=["t >= 8"]' if symbolic else None


def _export(function: Callable[..., Any], platforms: Sequence[str], *specs: Any) -> export.Exported:
    try:
        found = export.export(jax.jit(function), platforms=tuple(platforms))(*specs)
        # What cannot be written is found out here as well.
        found.serialize()
    except LayerError as error:
        # With the sizes of x it was taken.
        error.hint = error.hint or _hint(specs)
        raise
    except ImportError as error:
        raise LayerError(
            "needs the package flatbuffers", got=str(error), hint="pip install 'jlayers[export]'"
        ) from None
    except Exception as error:
        text = " ".join(str(error).split())
        if "custom call" in text or "callback" in text:
            raise LayerError(
                "has an operation that JAX does not promise to run in other versions of itself",
                got=text[:300],
                hint="functions of jnp in place of callbacks and kernels of one platform",
            ) from error
        hint = _hint(specs)
        unknown = " with sizes that are not known" if hint and "ymbolic dimension" in text else ""
        raise LayerError(f"cannot be exported{unknown}", got=text[:300], hint=hint) from error
    return found


def _vectors(
    programs: _Programs, exported: export.Exported, more: int, seed: int
) -> list[dict[str, list[np.ndarray]]]:
    """Inputs as they were given, and of a batch with ``more`` rows; with the model's outputs."""
    run, rng = jax.jit(programs.apply), np.random.default_rng(seed)
    vectors = []
    for rows in (0, more) if more else (0,):
        inputs = [_numbers(leaf, rows, rng) for leaf in programs.inputs]
        try:
            jax.eval_shape(exported.call, programs.arrays, inputs)
        except ValueError as error:
            # The larger batch is ours, and the constraints may be against it.
            if rows:
                break
            raise LayerError(
                "x is not of the sizes that constraints allow",
                got=str(error).partition(". ")[0],
            ) from None
        outputs = [np.asarray(leaf) for leaf in run(programs.arrays, inputs)]
        vectors.append({"inputs": inputs, "outputs": outputs})
    return vectors


def _numbers(leaf: Any, more: int, rng: np.random.Generator) -> np.ndarray:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        array = np.asarray(leaf)
        return np.concatenate([array, array[:more]]) if more and array.ndim else array
    shape = (leaf.shape[0] + more, *leaf.shape[1:]) if leaf.shape else ()
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return rng.normal(size=shape).astype(leaf.dtype)
    return rng.integers(0, 2, shape).astype(leaf.dtype)


def _entry(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}


def _size(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)


def _joined(arrays: Sequence[np.ndarray]) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _runs_here(platforms: Sequence[str]) -> bool:
    here = jax.default_backend()
    return here in platforms or (here == "gpu" and not {"cuda", "rocm"}.isdisjoint(platforms))


def _check(entries: dict[str, bytes]) -> None:
    """Raises unless what is about to be written gives what the model gives."""
    error = standalone.Model(entries).verify()
    if not error <= _TOLERANCE:
        raise LayerError(
            "the exported program gives other numbers than the model",
            expected=f"a difference of at most {_TOLERANCE:.0e} of the largest number",
            got=f"{error:.1e}",
        )


def _write(path: Path, entries: dict[str, bytes]) -> None:
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
