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
import re
import sys
import zipfile
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

VERSION = 1
# A number, a name, or a multiple of what has a name; others are left to JAX.
_SIZE = re.compile(r"([0-9]+)|(?:([0-9]+)\*)?([A-Za-z_]\w*)")
_X64 = 'jax.config.update("jax_enable_x64", True)'


class DamagedError(ValueError):
    """The file is not what it was when it was written; the text says where."""


class CallError(ValueError):
    """A call does not fit the file: what was expected, what was got, and what to do."""

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ):
        lines = [problem]
        for label, text in (("expected:", expected), ("got:", got), ("hint:", hint)):
            if text is not None:
                lines.append(f"  {label:<9} {text}")
        super().__init__("\n".join(lines))


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file; nothing but the program in it is run, and that when it is called."""
    name = os.fspath(path)
    try:
        return Model(read(name), name)
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}") from None


def read(path: str) -> dict[str, bytes]:
    """The entries of the archive by name."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                # As it is written: what unpacks to more than it holds is not one of these.
                if info.compress_type != zipfile.ZIP_STORED:
                    raise DamagedError(f"{info.filename} is compressed")
                found[info.filename] = archive.read(info)
    # For an entry that is said to be encrypted, a RuntimeError.
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        raise DamagedError(str(error)) from None
    return found


class Model:
    """The programs of a file.

    Attributes:
      manifest: what the file says of itself.
      weights: the arrays by name.
    """

    error: type[Exception] = CallError

    def __init__(self, entries: dict[str, bytes], name: str = "the model"):
        self._name = name
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
            _texts([*self.manifest["inputs"], *(self.manifest["block"] or ())])
            for vector in self._vectors:
                _tree(self.manifest["output"], vector["outputs"])
            written, self._repr = self.manifest["versions"]["jax"], self.manifest["repr"]
            self._programs = {
                name: _program(entries[f"{name}.bin"], f"{name}.bin", written, self.weights)
                for name in self.manifest["programs"]
            }
        except KeyError as error:
            raise DamagedError(f"{error.args[0]} is missing") from None
        except (TypeError, AttributeError, IndexError, ValueError) as error:
            if isinstance(error, DamagedError):
                raise
            raise DamagedError(f"manifest.json: {error}") from None
        if "apply" not in self._programs:
            raise DamagedError("it has no program 'apply'")
        self._compiled = {name: jax.jit(found.call) for name, found in self._programs.items()}
        self._given: list[Any] | None = None

    def __repr__(self) -> str:
        return f"<{self._name}: {self._repr} of {_texts(self.manifest['inputs'])}>"

    def __call__(self, *inputs: Any) -> Any:
        """The output for the inputs: arrays in the order of ``manifest["inputs"]``, or one tree.

        A tree with dicts in it has the names of the manifest.

        Raises:
          CallError: for inputs of another number, name, shape or dtype.
        """
        return self._output(self._run("apply", self._leaves("inputs", inputs)))

    def start(self, *block: Any) -> Any:
        """The carry before the first block, for blocks of these sizes."""
        self._has("start")
        return self._run("start", self._leaves("block", block))

    def step(self, carry: Any, *block: Any) -> tuple[Any, Any]:
        """The output of a block, and the carry for the next one."""
        self._has("step")
        leaves = self._leaves("block", block)
        self._check_carry(carry, leaves)
        outputs, carry = self._run("step", carry, leaves)
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

    def _refused(self, problem: str, expected: str, got: str, hint: str | None) -> Exception:
        return self.error(f"{self._name}: {problem}", expected=expected, got=got, hint=hint)  # type: ignore[call-arg]

    def _has(self, name: str) -> None:
        if name not in self._programs:
            hint = "export.stablehlo(..., stream=k) for blocks of k steps"
            known = ", ".join(self._programs)
            raise self._refused(f"the file has no program {name!r}", known, name, hint)

    def _leaves(self, kind: str, inputs: tuple[Any, ...]) -> list[Any]:
        entries = self.manifest[kind]
        leaves = [
            self._array(entry, leaf)
            for entry, leaf in zip(entries, self._in_order(entries, inputs), strict=True)
        ]
        self._check_sizes(entries, leaves)
        return leaves

    def _in_order(self, entries: list[dict[str, Any]], inputs: tuple[Any, ...]) -> list[Any]:
        given = jax.tree.leaves_with_path(inputs[0] if len(inputs) == 1 else inputs)
        names = [entry["name"] for entry in entries]
        found = {_name(path): leaf for path, leaf in given}
        if len(found) == len(given) and sorted(found) == sorted(names):
            return [found[name] for name in names]
        # Without names the order counts; names that are others were meant for another model.
        named = any(isinstance(key, jax.tree_util.DictKey) for path, _ in given for key in path)
        if len(given) == len(names) and not named:
            return [leaf for _, leaf in given]
        hint = "arrays in this order, or one tree with these names in its dicts"
        if any(isinstance(leaf, bool | int | float) for _, leaf in given):
            hint = "np.asarray(x): a list is a tree of several inputs"
        got = ", ".join(_described(leaf, name) for name, leaf in found.items())
        raise self._refused("takes other inputs", _texts(entries), got or "no arrays", hint)

    def _array(self, entry: dict[str, Any], leaf: Any) -> Any:
        expected = _text(entry["dtype"], entry["shape"])
        try:
            array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
            value = jnp.asarray(array)
        except (TypeError, ValueError, OverflowError):
            problem = f"the input {entry['name']!r} must be an array"
            raise self._refused(problem, expected, _described(leaf), None) from None
        if value.dtype != array.dtype and array.dtype.kind in "iu":
            outside = array[np.asarray(value) != array]
            if outside.size:
                problem = f"the input {entry['name']!r} has integers that do not fit"
                raise self._refused(problem, expected, str(outside[0]), None)
        if str(value.dtype) != entry["dtype"]:
            wide = str(array.dtype) == entry["dtype"]
            hint = _X64 if wide else f"{entry['name']}.astype({entry['dtype']!r})"
            problem = f"the input {entry['name']!r} has another dtype"
            raise self._refused(problem, expected, _described(value), hint)
        return value

    def _check_sizes(self, entries: list[dict[str, Any]], leaves: list[Any]) -> None:
        sizes: dict[str, int] = {}
        for entry, leaf in zip(entries, leaves, strict=True):
            shape, hint = entry["shape"], None
            fits = len(shape) == leaf.ndim
            if leaf.ndim == len(shape) - 1:
                hint = "x[None] is a batch of one"
            for wanted, size in zip(shape, leaf.shape, strict=True) if fits else ():
                found = _SIZE.fullmatch(str(wanted))
                # Sizes may be symbolic, where the program is a part of another one.
                if found is None or not isinstance(size, int):
                    continue
                factor, name = int(found[2] or 1), found[3]
                if name is None:
                    fits = fits and size == wanted
                elif size < 1 or size % factor:
                    fits, hint = False, f"{wanted} is at least {factor}"
                    hint += f", and a multiple of {factor}" if factor > 1 else ""
                elif sizes.setdefault(name, size // factor) != size // factor:
                    fits, hint = False, f"{name} is {sizes[name]} elsewhere"
            if not fits:
                problem = f"the input {entry['name']!r} has another shape"
                expected = _text(entry["dtype"], shape)
                raise self._refused(problem, expected, _described(leaf), hint)

    def _check_carry(self, carry: Any, leaves: list[Any]) -> None:
        exported, weights = self._programs["step"], list(self.weights.values())
        have: object = jax.tree.structure(((weights, carry, leaves), {}))
        wanted = exported.in_avals[len(weights) : len(exported.in_avals) - len(leaves)]
        expected = ", ".join(_text(str(aval.dtype), aval.shape) for aval in wanted)
        got = ", ".join(map(_described, jax.tree.leaves(carry)))
        if have != exported.in_tree or expected != got:
            raise self._refused(
                "the carry is not one of this model and its blocks",
                expected or "no arrays",
                got or "no arrays",
                "carry = model.start(block); y, carry = model.step(carry, block)",
            )

    def _run(self, name: str, *arguments: Any) -> Any:
        if self._given is None:
            self._given = [self._enabled(weight) for weight in self.weights.values()]
        try:
            return self._compiled[name](self._given, *arguments)
        except (ValueError, NotImplementedError) as error:
            raise self._not_run(self._programs[name], arguments, error) from error

    def _enabled(self, weight: np.ndarray) -> Any:
        value = jnp.asarray(weight)
        if value.dtype != weight.dtype:
            got = (str(weight.dtype), str(value.dtype))
            raise self._refused("the dtype of the weights is not enabled in JAX", *got, _X64)
        return value

    def _not_run(self, exported: Any, arguments: tuple[Any, ...], error: Exception) -> Exception:
        got = ", ".join(map(_described, jax.tree.leaves(arguments)))
        if isinstance(error, NotImplementedError):
            hint = "the first axis of the inputs in place of jax.vmap"
            return self._refused("JAX cannot transform the program", "a call", str(error), hint)
        if "was exported for platforms" in str(error):
            return self._refused(
                "the program was not written for the platform that is here",
                ", ".join(exported.platforms),
                jax.default_backend(),
                "export.stablehlo(..., platforms=[...])",
            )
        try:
            # Says which of the constraints does not hold, which the compiled program need not.
            jax.eval_shape(exported.call, self._given, *arguments)
        except ValueError as said:
            error = said
        expected = [_texts(self.manifest["inputs"]), *self.manifest.get("constraints", ())]
        problem = f"cannot run on these sizes: {str(error).partition('. ')[0]}"
        return self._refused(problem, " and ".join(expected), got, None)

    def _output(self, leaves: list[Any]) -> Any:
        return _tree(self.manifest["output"], leaves)


def _program(
    data: bytes, name: str, written: str, weights: dict[str, np.ndarray]
) -> jax.export.Exported:
    try:
        program = jax.export.deserialize(bytearray(data))
    except ImportError as error:
        raise ImportError(f"{error}\n  hint:     pip install flatbuffers") from None
    except Exception as error:
        problem = f"{name}, written by jax {written}, cannot be read by jax {jax.__version__}"
        raise DamagedError(f"{problem}: {type(error).__name__}: {error}") from None
    avals = [(aval.shape, str(aval.dtype)) for aval in program.in_avals]
    if avals[: len(weights)] != [(one.shape, str(one.dtype)) for one in weights.values()]:
        raise DamagedError(f"the weights are not those of {name}")
    return program


def _name(path: tuple[Any, ...]) -> str:
    inside = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"x/{inside}" if inside else "x"


def _text(dtype: str, shape: Any, name: str = "") -> str:
    return f"{name} {dtype}[{', '.join(map(str, shape))}]".strip()


def _texts(entries: list[dict[str, Any]]) -> str:
    return ", ".join(_text(e["dtype"], e["shape"], e["name"]) for e in entries)


def _described(leaf: Any, name: str = "") -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return _text(str(leaf.dtype), leaf.shape, name)
    text = repr(leaf)
    return f"{name} {text if len(text) < 40 else type(leaf).__name__}".strip()


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
    weights = sum(weight.size for weight in model.weights.values())
    sys.stdout.write(
        f"{manifest['repr']}\n{weights:,} weights; inputs: {_texts(manifest['inputs'])}\n"
        f"{len(manifest['vectors'])} test vectors on {jax.default_backend()}: largest difference "
        f"{error:.1e} of the largest number, at most {tolerance:.0e} expected\n"
    )
    sys.exit(error > tolerance)


if __name__ == "__main__":
    _main()
