"""Damaged files of weights: each must be refused by an InteropError, or give arrays."""

import random
import tracemalloc

import numpy as np

import jlayers as jl

# What interprets a small file, whatever is in it: Python's objects for its entries.
_OBJECTS = 1 << 20


def mutated(content, rng):
    """A copy with some bytes changed, taken out, repeated, or cut off."""
    content = bytearray(content)
    # Half of them near the ends, where most formats have what they say of themselves.
    size = len(content)
    near = rng.choice([size, size, min(size, 2000)])
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(near) if rng.random() < 0.6 else size - 1 - rng.randrange(near)
        at = min(max(at, 0), len(content) - 1)
        match rng.randrange(6):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                number = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
                content[at : at + 8] = number.to_bytes(8, "little")
            case 3:
                del content[at : at + rng.choice([1, 4, 100])]
            case 4:
                content[at:at] = content[at : at + rng.choice([1, 8, 64])]
            case 5:
                del content[max(at, 1) :]
        if not content:
            return b"\0"
    return bytes(content)


def check(path, count, format=None, seed=0):
    """Reads ``count`` mutations of a file; returns how many were refused."""
    rng = random.Random(seed)
    content = path.read_bytes()
    jl.interop.read(path, format=format)  # what is imported at first is not counted below
    refused = 0
    for number in range(count):
        path.write_bytes(mutated(content, rng))
        tracemalloc.start()
        text = str(path)
        try:
            arrays = jl.interop.read(path, format=format)
            assert all(isinstance(array, np.ndarray) for array in arrays.values()), number
            shapes = [(name, array.shape, array.dtype) for name, array in arrays.items()]
            del arrays, shapes
        except jl.InteropError as error:
            text, refused = str(error), refused + 1
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert str(path.parent) in text, (number, text)
        assert peak < 3 * len(content) + _OBJECTS, (number, peak)
    path.write_bytes(content)
    return refused
