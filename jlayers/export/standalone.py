"""A model in one file: reads it, runs it and checks it. Needs jax, with its export, and numpy.

``pip install jax flatbuffers`` has both.

This text is in the file itself, which is a zip archive that Python can run:

    python model.zip                  # runs the test vectors and says how far they are

    import sys; sys.path.insert(0, "model.zip")
    from standalone import load
    model = load("model.zip")
    y = model(x)

``manifest.json`` says what the inputs are, and which axes have no fixed size. ``apply.bin`` is an
artefact of ``jax.export``; with ``start.bin`` and ``step.bin`` the model also runs block by block:

    carry = model.start(block)
    y, carry = model.step(carry, block)
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

VERSION = 1


class DamagedError(ValueError):
    """The file is not what it was when it was written; the text says where."""


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file; nothing but the program in it is run, and that when it is called."""
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(name) as archive:
            return Model(_entries(archive))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DamagedError(f"{name} is damaged: {error}") from None
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}") from None


def _entries(archive: zipfile.ZipFile) -> dict[str, bytes]:
    found = {}
    for info in archive.infolist():
        # As it is written: an archive that unpacks to more than it holds is not one of these.
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedError(f"{info.filename} is compressed")
        found[info.filename] = archive.read(info)
    return found


class Model:
    """The programs of a file.

    Attributes:
      manifest: what the file says of itself.
      weights: the arrays by name.
    """

    def __init__(self, entries: dict[str, bytes]):
        try:
            self.manifest = json.loads(entries["manifest.json"])
            version = self.manifest["version"]
            if version > VERSION:
                raise DamagedError(f"its version is {version}, and this reads {VERSION}")
            self.weights = _arrays(self.manifest["weights"], entries["weights.bin"])
            self._vectors = [
                {
                    part: list(_arrays(kinds, entries[f"vectors/{i}/{part}.bin"]).values())
                    for part, kinds in vector.items()
                }
                for i, vector in enumerate(self.manifest["vectors"])
            ]
            self._programs = {name: entries[f"{name}.bin"] for name in self.manifest["programs"]}
            self._inputs = len(self.manifest["inputs"])
        except KeyError as error:
            raise DamagedError(f"{error.args[0]} is missing") from None
        except (TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DamagedError):
                raise
            raise DamagedError(f"manifest.json: {error}") from None
        self._compiled: dict[str, Any] = {}
        self._given: list[Any] | None = None

    def __call__(self, *inputs: Any) -> Any:
        """The output for the inputs, arrays in the order of ``manifest["inputs"]``, or trees."""
        return self._output(self._run("apply", self._leaves(inputs)))

    def start(self, *block: Any) -> Any:
        """The carry before the first block, for blocks of these sizes."""
        return self._run("start", self._leaves(block))

    def step(self, carry: Any, *block: Any) -> tuple[Any, Any]:
        """The output of a block, and the carry for the next one."""
        outputs, carry = self._run("step", carry, self._leaves(block))
        return self._output(outputs), carry

    def verify(self) -> float:
        """The largest difference of the test vectors' outputs, relative to their largest number."""
        worst = 0.0
        for vector in self._vectors:
            got = self._run("apply", [jnp.asarray(value) for value in vector["inputs"]])
            for have, want in zip(got, vector["outputs"], strict=True):
                have = np.asarray(have)
                if have.shape != want.shape or have.dtype != want.dtype:
                    return float("inf")
                worst = max(worst, _difference(have, want))
        return worst

    def _leaves(self, inputs: Any) -> list[Any]:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        if len(leaves) != self._inputs:
            names = ", ".join(entry["name"] for entry in self.manifest["inputs"])
            raise ValueError(f"expected {self._inputs} arrays ({names}), got {len(leaves)}")
        return leaves

    def _run(self, name: str, *arguments: Any) -> Any:
        if name not in self._compiled:
            if name not in self._programs:
                raise ValueError(f"the file has no program {name!r}; it was written without it")
            exported = jax.export.deserialize(bytearray(self._programs[name]))
            self._compiled[name] = jax.jit(exported.call)
        if self._given is None:
            self._given = [jnp.asarray(weight) for weight in self.weights.values()]
        return self._compiled[name](self._given, *arguments)

    def _output(self, leaves: list[Any]) -> Any:
        return _tree(self.manifest["output"], leaves)


def _tree(kind: Any, leaves: list[Any]) -> Any:
    if isinstance(kind, int):
        return leaves[kind]
    if kind is None:
        return None
    ((name, inside),) = kind.items()
    if name == "dict":
        return {key: _tree(part, leaves) for key, part in inside.items()}
    parts = [_tree(part, leaves) for part in inside]
    return tuple(parts) if name == "tuple" else parts


def _arrays(kinds: list[dict[str, Any]], data: bytes) -> dict[str, np.ndarray]:
    """Arrays by name, which lie in ``data`` one after the other."""
    found: dict[str, np.ndarray] = {}
    start = 0
    for entry in kinds:
        dtype, shape = jnp.dtype(entry["dtype"]), tuple(entry["shape"])
        count = 1
        for size in shape:
            count *= size
        end = start + count * dtype.itemsize
        if end > len(data):
            raise DamagedError(f"the numbers of {entry['name']!r} are missing")
        found[entry["name"]] = np.frombuffer(data[start:end], dtype).reshape(shape)
        start = end
    if start != len(data):
        raise DamagedError("there are more numbers than manifest.json lists")
    return found


def _difference(have: np.ndarray, want: np.ndarray) -> float:
    if not jnp.issubdtype(want.dtype, jnp.inexact):
        return 0.0 if np.array_equal(have, want) else float("inf")
    wide = np.complex128 if jnp.issubdtype(want.dtype, jnp.complexfloating) else np.float64
    have, want = have.astype(wide), want.astype(wide)
    finite = np.isfinite(want)
    if not np.array_equal(have[~finite], want[~finite], equal_nan=True):
        return float("inf")
    largest = np.abs(want[finite]).max(initial=0.0)
    return float(np.abs(have - want)[finite].max(initial=0.0) / max(largest, 1e-30))


def _main() -> None:
    path = os.path.abspath(os.path.dirname(__file__))
    model = load(path)
    manifest, error = model.manifest, model.verify()
    tolerance = float(sys.argv[1]) if len(sys.argv) > 1 else manifest["tolerance"]
    inputs = ", ".join(f"{e['name']} {e['dtype']}{e['shape']}" for e in manifest["inputs"])
    weights = sum(weight.size for weight in model.weights.values())
    sys.stdout.write(
        f"{manifest['repr']}\n{weights:,} weights; inputs: {inputs}\n"
        f"{len(manifest['vectors'])} test vectors on {jax.default_backend()}: largest difference "
        f"{error:.1e} of the largest number, at most {tolerance:.0e} expected\n"
    )
    sys.exit(error > tolerance)


if __name__ == "__main__":
    _main()
