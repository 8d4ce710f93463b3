"""Threefry-2x32 with 20 rounds, the generator behind ``jax.random.key`` (Salmon et al., 2011).

The same lines serve Python integers, NumPy and JAX arrays, so that thousands of keys can be
derived and the bits of all parameters of a model drawn without a program for each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF


def threefry2x32(key: tuple[Any, Any], high: Any, low: Any) -> tuple[Any, Any]:
    """Two words of 32 bits for a key of two words and a counter of two words.

    Args:
      key: two words, all Python integers or all uint32 arrays; any shapes that broadcast.
      high, low: the counter, likewise.

    >>> [hex(word) for word in threefry2x32((0, 0), 0, 0)]
    ['0x6b200159', '0x99ba4efe']
    """
    exact = isinstance(high, int)  # Python's integers do not wrap round

    def word(value: int) -> Any:
        return value if exact else np.uint32(value)

    def add(a: Any, b: Any) -> Any:
        return (a + b) & _WORD if exact else a + b

    def rotate(a: Any, by: int) -> Any:
        left, right = a << word(by), a >> word(32 - by)
        return (left & _WORD if exact else left) | right

    keys = (*key, key[0] ^ key[1] ^ word(_PARITY))
    high, low = add(high, keys[0]), add(low, keys[1])
    for turn in range(5):
        for by in _ROTATIONS[turn % 2]:
            high = add(high, low)
            low = rotate(low, by) ^ high
        high = add(high, keys[(turn + 1) % 3])
        low = add(add(low, keys[(turn + 2) % 3]), word(turn + 1))
    return high, low
