"""A text that every machine has, the source of Python's standard library, and how it packs."""

import bz2
import lzma
import os
import pathlib
import sysconfig
from typing import NamedTuple

import numpy as np

# Tests, tables, generated texts, and what is not part of the library.
LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "encodings"}
LEFT_OUT |= {"pydoc_data", "ensurepip", "lib-dynload", "site-packages", "dist-packages"}


class Text(NamedTuple):
    """Bytes, uint8, of the files to learn from and of the others, and the names of the others."""

    train: np.ndarray
    held_out: np.ndarray
    files: list[str]


def standard_library(folder: str | None = None) -> Text:
    """Of the files, sorted by name, the 11th, 31st, 51st, ... are held out, each as a whole."""
    root, found = pathlib.Path(folder or sysconfig.get_path("stdlib")), []
    for place, folders, files in os.walk(root):
        folders[:] = set(folders) - LEFT_OUT  # os.walk does not go into the others
        found += [pathlib.Path(place, file) for file in files if file.endswith(".py")]
    names = sorted(path.relative_to(root).as_posix() for path in found)
    held_out = names[10::20]

    def read(names):
        return np.frombuffer(b"".join((root / name).read_bytes() for name in names), np.uint8)

    return Text(read([name for name in names if name not in held_out]), read(held_out), held_out)


def packed(text: Text) -> dict[str, tuple[float, float]]:
    """Bits for a byte of the held-out text, packed alone, and packed behind the other text.

    The second is what both together need more than the other text alone: fair against a model that
    has read the other text. So far back bz2 looks 900 kB, and xz here 64 MiB, which is all of it.
    """
    train, held_out = text.train.tobytes(), text.held_out.tobytes()
    bits = {}
    for name, pack in {"bz2": bz2.compress, "xz": lambda x: lzma.compress(x, preset=9)}.items():
        alone, before, both = (len(pack(x)) for x in (held_out, train, train + held_out))
        bits[name] = 8 * alone / len(held_out), 8 * (both - before) / len(held_out)
    return bits


def windows(text: np.ndarray, length: int, stride: int) -> np.ndarray:
    """The bytes (windows, length) that begin at 0, ``stride``, ...: a view, nothing is copied."""
    return np.lib.stride_tricks.sliding_window_view(text, length)[::stride]
