"""save_model and load_model: architecture, parameters and state in one file that runs no code.

How to read this file: the file is of the safetensors format, which every reader of weights knows.
The arrays are under ``params/``, ``state/`` and ``arguments/``, and its metadata has one text: JSON
with the architecture, the dtype, shape and checksum of every array, and a checksum of itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import CheckpointError, JlayersError, LayerError, error_context, public_api
from ..base.layer import Layer
from ..base.paths import unflatten
from ..base.specs import format_short
from ..base.types import Params, State
from ..base.validation import check_tree
from ..base.wrong_input import refuse_other_trees
from ..checkpoint import manifest
from ..checkpoint.formats.base import CorruptFileError
from ..checkpoint.formats.safetensors import OpenFile, Safetensors
from ..checkpoint.parts import whole
from ..checkpoint.transfer import from_file, place_like, to_host
from ..checkpoint.tree import DTYPES, KEYS, LeafSpec, leaf_specs, named_leaves, stored_name
from ..checkpoint.writing import checksum
from ..inspection.traverse import walk
from .architecture import Decoder, Encoder
from .files import file_path, new_file
from .names import builders, callable_of

_FORMAT, _VERSION = "jlayers model", 1
_KEY = "jlayers"
_TREES = ("params", "state", "arguments")
_KINDS = ("array", "key")
_OTHER_FILES = (
    "files of other libraries are for interop.read, those of export.stablehlo for export.load"
)
# Nothing that is built by hand is deeper, and JSON cannot be read much deeper.
_TOO_DEEP = "the model is nested too deeply for a file"


class Loaded(NamedTuple):
    """What a file of ``save_model`` holds.

    Attributes:
      model: the ``Layer``.
      params, state: its trees, as they were saved.
    """

    model: Layer
    params: Params
    state: State


@public_api
def save_model(
    path: str | os.PathLike[str],
    model: LayerOrFunction,
    params: Params,
    state: State | None = None,
    *,
    layers: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Writes a model, its parameters and its state to one file.

    The architecture is written as the calls that built it. Layers of jlayers, functions of
    ``jax.nn`` and ``jnp`` and their initialisers are known by name, and so is a factory of your own
    (``jl.factory``); other functions (a lambda, the body of ``compose``) get a name in ``layers``.
    What is written is built again before it is: a file that exists can be loaded.

    ``params`` and ``state`` must be those of an input that the model was initialised, applied or
    matched with. Of a model that has met none it cannot be known whether they are complete: what is
    missing is then an error of ``apply`` after the file was loaded.

    The file appears complete or not at all. It is one of the safetensors format, with the arrays
    under ``params/`` and ``state/``.

    Args:
      path: of the file; an existing one is replaced.
      model: a ``Layer``, or a function of one argument.
      params, state: as ``init`` or training returned them.
      layers: your own factories and functions by name. ``load_model`` needs those that are used.

    Raises:
      LayerError: for a part of the model that a file cannot say, naming it; and for ``params`` and
        ``state`` that are not the model's, with all differences.
      CheckpointError: for a leaf that is not an array, and if the file cannot be written.

    >>> import tempfile, pathlib, jax, jlayers as jl
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> model = jl.serial(jl.Dense(8), jax.nn.relu, head=jl.Dense(3))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 4)))
    >>> jl.save_model(path, model, params, state)
    >>> jl.load_model(path).model
    serial(Dense(8), jax.nn.relu, head=Dense(3))
    """
    if isinstance(path, Layer):
        raise LayerError(
            "the path comes first", got=path.short(), hint="save_model(path, model, params, state)"
        )
    layer, own, file = lift(model), _by_name(layers), file_path(path)
    tree = {"params": params, "state": {} if state is None else state}
    with error_context(layer):
        for name, part in tree.items():
            check_tree(part, name)
        refuse_other_trees(layer, params, tree["state"])
    encoder = Encoder(own)
    try:
        architecture = encoder.layer(layer)
        again = Decoder(encoder.arrays, own | _factories(layer)).layer(architecture)
    except RecursionError:
        raise LayerError(_TOO_DEEP) from None
    if _outline(again) != _outline(layer):
        raise LayerError(
            "the calls that a file can say build another model",
            expected=layer.short(),
            got=again.short(),
            hint="jl.factory on the function that builds it",
        )
    arguments = {str(i): array for i, array in enumerate(encoder.arrays)}
    tree["arguments"] = arguments
    leaves = named_leaves(tree, "the model")
    specs = leaf_specs(leaves, "the model")
    for name, spec in specs.items():
        if spec.kind not in _KINDS:
            raise CheckpointError(
                f"{name!r} of the model must be an array", got=format_short(leaves[name])
            )
    arrays = to_host(leaves, specs, "the model", copy=False)
    if not _same_names(leaves, tree):
        raise CheckpointError(
            "params and state must be nested dicts of arrays, with '/' in no key and nothing empty"
        )
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "versions": manifest.versions(sys.modules["jlayers"].__version__),
        "repr": repr(layer),
        "architecture": architecture,
        "outline": _outline(layer),
        "arrays": {
            name: [spec.kind, spec.impl, spec.dtype, list(spec.shape), checksum(arrays[name])]
            for name, spec in specs.items()
        },
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    stored = {stored_name(name): array for name, array in arrays.items()}
    _write(file, stored, {_KEY: f"{_digest(text)} {text}"})


def _by_name(layers: Mapping[str, Callable[..., Any]] | None) -> dict[str, Callable[..., Any]]:
    if layers is None or isinstance(layers, Mapping):
        found = dict(layers or {})
        for name, value in found.items():
            if not isinstance(name, str) or not callable(value) or isinstance(value, Layer):
                raise LayerError(
                    "layers must hold factories and functions by name",
                    got=f"{name!r}: {format_short(value)}",
                    hint='layers={"Name": Name}',
                )
            # A model may have both, and a file tells them apart by their names.
            if (builders().get(name) or callable_of(name) or value) is not value:
                raise LayerError(
                    f"the name {name!r} in layers is that of jlayers or JAX",
                    hint="another one, here and where the file is loaded or saved",
                )
        return found
    raise LayerError(
        "layers must be a mapping of names to factories and functions",
        got=type(layers).__name__,
        hint='layers={"Name": Name}',
    )


def _factories(layer: Layer) -> dict[str, Callable[..., Any]]:
    """The factories inside a model by name, those of the user among them."""
    makes = (inner._call.make for _, inner in walk(layer))
    return {make.__name__: make for make in makes if getattr(make, "__jlayers_factory__", False)}


def _outline(layer: Layer) -> list[tuple[str, str, str]]:
    return [(path, inner.kind, inner.maker) for path, inner in walk(layer)]


def _check_outline(saved: Any, model: Layer) -> None:
    """Raises where a factory builds another model than when the file was written."""
    if saved is None:
        return
    pairs = itertools.zip_longest(saved, map(list, _outline(model)))
    for wanted, got in pairs if isinstance(saved, list) else [(saved, None)]:
        # A factory may have got another name since.
        if not isinstance(wanted, list) or got is None or wanted[:2] != got[:2]:
            raise CheckpointError(
                "its factories build another model than when it was saved",
                expected=_layer_text(wanted),
                got=_layer_text(got),
                hint="layers= with the factories of then",
            )


def _layer_text(entry: Any) -> str:
    if not isinstance(entry, list) or len(entry) != 3:
        return "no further layer"
    return f"{entry[2]} at {entry[0]!r}"


def _same_names(leaves: Mapping[str, object], tree: Mapping[str, Any]) -> bool:
    """Whether the trees can be built again from the names of their arrays."""
    again = unflatten(dict(leaves)) if leaves else {}
    same: bool = _names({name: part for name, part in tree.items() if part}) == _names(again)
    return same


def _names(tree: Any) -> Any:
    return {key: _names(part) for key, part in tree.items()} if isinstance(tree, dict) else None


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    with new_file(path, safetensors.SafetensorError) as temporary:
        Safetensors().write(arrays, temporary, metadata)


@public_api
def load_model(
    path: str | os.PathLike[str], *, layers: Mapping[str, Callable[..., Any]] | None = None
) -> Loaded:
    """The model, the parameters and the state in a file of ``save_model``.

    Nothing in the file is run: it names layers of jlayers, functions of JAX out of a fixed list,
    and what you pass in ``layers``. Every array is compared with its checksum, which finds damage;
    it is not a signature.

    Args:
      path: of the file.
      layers: your own factories and functions, by the names under which they were saved.

    Returns:
      ``(model, params, state)``.

    Raises:
      CheckpointError: if it is not a complete file of ``save_model``, naming file and entry, and
        for a layer or function that is not known.
    """
    path, own = file_path(path), _by_name(layers)
    try:
        content, arrays = _read(path)
        model = Decoder(_arguments(arrays), own).layer(content["architecture"])
        _check_outline(content.get("outline"), model)
        trees = unflatten({name: _placed(name, *found) for name, found in arrays.items()})
    except CorruptFileError as error:
        hint = None if path.suffix == ".safetensors" else _OTHER_FILES
        raise CheckpointError(f"cannot read {path}: {error}", hint=hint) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", got=str(error)) from error
    except RecursionError:
        raise CheckpointError(f"cannot read {path}: {_TOO_DEEP}") from None
    except JlayersError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.problem}",
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        ) from None
    return Loaded(model, trees.get("params", {}), trees.get("state", {}))


_Arrays = dict[str, tuple[LeafSpec, np.ndarray]]


def _placed(name: str, spec: LeafSpec, array: np.ndarray) -> object:
    dtype = array.dtype
    if spec.kind == "array" and jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(
            f"{name!r} is {dtype}, which is not enabled in JAX",
            hint='jax.config.update("jax_enable_x64", True)',
        )
    return place_like(None, spec, {whole(spec.shape): array})


def _arguments(arrays: _Arrays) -> list[np.ndarray]:
    """Those of the calls, which are not a part of the trees."""
    numbered = {int(n[1]): n[0] for n in map(_ARGUMENT.fullmatch, list(arrays)) if n}
    if sorted(numbered) != list(range(len(numbered))):
        raise CorruptFileError("its arguments are not numbered")
    return [arrays.pop(numbered[i])[1] for i in range(len(numbered))]


_ARGUMENT = re.compile("arguments/([0-9]{1,9})")


def _read(path: Path) -> tuple[dict[str, Any], _Arrays]:
    with OpenFile(path) as file:
        content = _content(path)
        specs = {name: _spec(name, entry) for name, entry in content["arrays"].items()}
        if {stored_name(name) for name in specs} != set(file):
            raise CorruptFileError("its arrays are not those that it lists")
        arrays = {}
        for name, (spec, wanted) in specs.items():
            array = file[stored_name(name)]
            found = from_file(name, spec, array)
            if checksum(array) != wanted:
                raise CorruptFileError(f"{name!r} has another checksum than when it was written")
            arrays[name] = (spec, found)
    return content, arrays


def _content(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CorruptFileError(str(error)) from None
    digest, _, text = metadata.get(_KEY, "").partition(" ")
    if not text:
        raise CheckpointError(
            "it holds weights, and no model",
            hint="checkpoint.read_safetensors(path), or interop.match for weights alone",
        )
    if digest != _digest(text):
        raise CorruptFileError("its description has another checksum than when it was written")
    try:
        content = json.loads(text)
        version = content["version"]
        known = content["format"] == _FORMAT and isinstance(version, int)
        complete = isinstance(content["arrays"], dict) and "architecture" in content
    except (ValueError, KeyError, TypeError):
        known = complete = False
        version = 0
    if known and version > _VERSION:
        raise CheckpointError(
            f"it is of version {version} of the format",
            expected=f"at most {_VERSION}",
            hint="a newer jlayers",
        )
    if not (known and complete):
        raise CorruptFileError("its description is damaged")
    return content  # type: ignore[no-any-return]


def _spec(name: str, entry: Any) -> tuple[LeafSpec, int]:
    try:
        kind, impl, dtype, shape, crc = entry
        sizes = all(type(size) is int and 0 <= size < 1 << 56 for size in shape)
        fits = dtype in DTYPES if kind == "array" else kind == "key" and impl in KEYS
        if not (sizes and fits and type(crc) is int and name.split("/")[0] in _TREES):
            raise ValueError
    except (ValueError, TypeError):
        raise CorruptFileError(
            f"its description of {name!r} is damaged: {format_short(entry)}"
        ) from None
    return LeafSpec(kind, dtype, tuple(shape), impl), crc
