"""Mutated checkpoints: each is refused with a message, or read back exactly.

    python -m bench.checkpoint_fuzz 20000

Memory is limited to little more than the process has at the start, each read has ten seconds, and
an audit hook sees whatever would run code: imports, evaluation, processes, pickles.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlayers import JlayersError, training
from jlayers.checkpoint import manifest

from .resident import forget_peak, peak

ROOM = 256 << 20
SECONDS = 10
CODE = ("import", "exec", "compile", "pickle", "subprocess", "os.system", "os.exec", "ctypes")
VALUES = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**70), 10**30, 0.5, -0.0, 1e308),
    *("", "x", "float32", "key", "threefry2x32", "__import__('os')", "ü\x00", "../../etc/passwd"),
    *([], {}, [0], [2**62, 2**62, 0], [2**40], [-1], [[]], {"a": {}}, [None], {"$float": "nan"}),
    *({"$float": "x"}, {"$float": {}}, [1] * 1000, "y" * 100_000),
]


def tree() -> dict[str, Any]:
    x = np.arange(24, dtype=np.float32)
    return {
        "params": {"dense": {"kernel": jnp.asarray(x.reshape(4, 6)), "bias": jnp.zeros(6)}},
        "small": [jnp.ones(5, jnp.bfloat16), np.arange(6).astype(jnp.int4), np.float32([[1]])],
        "flags": np.array([True, False, True]),
        "complex": np.complex64([1 + 2j]),
        "none": jnp.zeros((0, 3)),
        "key": jax.random.key(1),
        "step": 3,
        "rate": 0.25,
    }


def arrays_of(found: Any) -> Any:
    def is_key(leaf: Any) -> bool:
        return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    return [
        np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for leaf in jax.tree.leaves(found)
    ]


def same(a: list[Any], b: list[Any]) -> bool:
    def fits(x: Any, y: Any) -> bool:
        return (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())

    return len(a) == len(b) and all(map(fits, a, b))


def bytes_changed(pick: random.Random, data: bytes, other: bytes) -> bytes:
    """One or a few changes to the bytes of a file."""
    changed = bytearray(data)
    for _ in range(pick.choice([1, 1, 1, 2, 8])):
        at = pick.randrange(len(changed) + 1) if changed else 0
        if pick.random() < 0.3:
            at = min(at, pick.randrange(80))
        kind = pick.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << pick.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = pick.randbytes(pick.choice([1, 8, 1000]))
        elif kind == 3:
            del changed[at : at + pick.choice([1, 2, 8, 64])]
        elif kind == 4:
            changed[at : at + 8] = pick.choice([0, 1, 2**31, 2**63, 2**64 - 1]).to_bytes(
                8, "little"
            )
        elif kind == 5:
            changed[at:at] = changed[at : at + 200] * pick.choice([1, 2, 50])
        else:
            start = pick.randrange(len(other) + 1)
            changed[at : at + 32] = other[start : start + 32]
    return bytes(changed)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def json_changed(pick: random.Random, text: str, *, sign: bool) -> str:
    """Values of the manifest replaced, removed, renamed, swapped; with its checksum set right."""
    content = json.loads(text)
    for _ in range(pick.choice([1, 1, 2])):
        container, key = pick.choice(list(places(content)))
        kind = pick.randrange(5)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[pick.choice(["x", "", "dtype", key + "/"])] = container.pop(key)
        elif kind == 2:
            other, name = pick.choice(list(places(content)))
            container[key] = json.loads(json.dumps(other[name]))
        else:
            container[key] = json.loads(json.dumps(pick.choice(VALUES)))
    if sign and isinstance(content, dict):
        content.pop("checksum", None)
        content["checksum"] = manifest._checksum(content)
    return json.dumps(content)


def forged(pick: random.Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """The bytes of one array changed, with its checksum and the manifest's set right."""
    content = json.loads(files["manifest.json"])
    data = bytearray(files["arrays.safetensors"])
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    path = pick.choice([path for path, entry in header.items() if 0 not in entry["shape"]])
    start, end = (8 + length + offset for offset in header[path]["data_offsets"])
    data[start:end] = pick.randbytes(end - start)
    content["arrays"][path]["crc32"] = f"{zlib.crc32(data[start:end]):08x}"
    content.pop("checksum")
    content["checksum"] = manifest._checksum(content)
    return {"manifest.json": json.dumps(content).encode(), "arrays.safetensors": bytes(data)}


def mutate(pick: random.Random, one: dict[str, bytes], two: dict[str, bytes]) -> dict[str, Any]:
    """A checkpoint's files, changed; and whether other numbers may stand in them then."""
    files, may_differ = dict(one), False
    name = pick.choice(list(files))
    kind = pick.choice(["bytes", "bytes", "json", "signed json", "swapped", "missing", "forged"])
    if kind == "bytes":
        files[name] = bytes_changed(pick, files[name], two[name])
    elif kind in ("json", "signed json"):
        may_differ = kind == "signed json"
        text = json_changed(pick, files["manifest.json"].decode(), sign=may_differ)
        files["manifest.json"] = text.encode()
    elif kind == "swapped":
        files[name] = pick.choice([two[name], b"", b"{}", b"[" * 100_000, files[name] * 2])
    elif kind == "missing":
        del files[name]
    else:
        files, may_differ = forged(pick, files), True
    return {"kind": kind, "files": files, "may_differ": may_differ}


def files_of(path: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What was run, imported or unpickled inside."""
    seen: list[str] = []
    on = True

    def hook(event: str, arguments: Any) -> None:
        if on and event.startswith(CODE):
            seen.append(f"{event} {arguments}"[:200])

    sys.addaudithook(hook)
    try:
        yield seen
    finally:
        on = False


def late(*_: Any) -> None:
    raise TimeoutError


def run(count: int, seed: int = 0, tell: Callable[[str], None] = print) -> dict[str, int]:
    """``count`` mutations.

    Returns:
      How many were refused and how many read, by kind of mutation.

    Raises:
      AssertionError: where a reader did anything else, with the mutation's number.
    """
    outcomes: collections.Counter[str] = collections.Counter()
    like = tree()
    expected = arrays_of(like)
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        extra = {
            "position": [1, 2],
            "metrics": {"loss": 0.5},
            "history": [{"a": [1]}],
            "model": "m",
        }
        one = files_of(training.save_checkpoint(base, like, step=1, **extra))
        other = jax.tree.map(lambda leaf: leaf, like) | {"step": 4, "rate": 1.0}
        two = files_of(training.save_checkpoint(base, other, step=2))
        by_path = training.read_arrays(base / "step_00000001")
        training.read_checkpoint(base / "step_00000001", like)
        target = base / "mutated"
        signal.signal(signal.SIGALRM, late)
        with watched() as seen:
            for number in range(count):
                pick = random.Random(f"{seed}/{number}")
                case = mutate(pick, one, two)
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                for name, data in case["files"].items():
                    (target / name).write_bytes(data)
                where = f"mutation {number} of seed {seed} ({case['kind']})"
                began = len(seen)
                signal.alarm(SECONDS)
                try:
                    if number % 4:
                        found = training.read_arrays(target)
                        told = training.read_manifest(target)
                        exact = found.keys() == by_path.keys() and same(
                            list(found.values()), list(by_path.values())
                        )
                        exact = exact and told.step == 1 and told.position == [1, 2]
                    else:
                        restored = training.read_checkpoint(target, like)
                        exact = same(arrays_of(restored.tree), expected)
                    assert exact or case["may_differ"], f"{where} was read, and differs"
                    outcome = "read"
                except JlayersError as error:
                    outcome = "refused" if str(error) else "refused without a word"
                except Exception as error:
                    raise AssertionError(f"{where} raised {error!r}") from error
                finally:
                    signal.alarm(0)
                assert len(seen) == began, f"{where} ran {seen[began:]}"
                outcomes[f"{case['kind']}: {outcome}"] += 1
                if number % 2000 == 1999:
                    tell(f"{number + 1} of {count}")
    return dict(sorted(outcomes.items()))


def limited(room: int = ROOM) -> None:
    """No more memory than the process has now and ``room``."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    run(20)
    limited()
    forget_peak()
    before, start = peak(), time.perf_counter()
    for outcome, number in run(options.count, options.seed).items():
        print(f"{outcome:<24}{number:>7}")
    grown = peak() - before
    print(f"{time.perf_counter() - start:.0f} s; resident memory grew by {grown / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
