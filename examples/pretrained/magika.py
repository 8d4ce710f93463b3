"""magika 1.0.3: what kind of file some bytes are, of 214.

One ONNX file, made by tf2onnx from Flax. Its first norm runs over the 512 positions, each channel
by itself, with a scale for each position: its parameters are (1, 512, 1) in the file.

The graph takes variances as the mean of squares less the square of the mean. Of a file of 19 bytes,
nearly all is padding, little is left of the difference, and onnxruntime's own answer changes by
8e-4 with the other files in the batch: files shorter than ``SHORTEST`` are left out here.
"""

import functools

import jax
import numpy as np

import jlayers as jl

from . import wheels

SIZE, PADDING, BLOCK, SHORTEST = 1024, 256, 4096, 64


def network():
    """From ids (B, 2048) of bytes, 256 for padding, to probabilities (B, 214)."""
    gelu = functools.partial(jax.nn.gelu, approximate=True)
    return jl.serial(
        lambda ids: jax.nn.one_hot(ids, PADDING + 1),
        jl.Dense(64),
        gelu,
        # Four bytes after each other are one position.
        lambda x: x.reshape(-1, 512, 256),
        jl.LayerNorm(axis=1, feature_axes=1, epsilon=1e-6),
        jl.Conv(512, 5),
        gelu,
        jl.GlobalMaxPool(),
        jl.LayerNorm(epsilon=1e-6),
        jl.Dense(214),
        jax.nn.softmax,
    )


def ids(path):
    """The first and the last bytes of a file, but for white space around it."""
    data = path.read_bytes()
    start = list(data[:BLOCK].lstrip()[:SIZE])
    end = list(data[-BLOCK:].rstrip()[-SIZE:])
    padding = [PADDING] * SIZE
    return (start + padding)[:SIZE] + (padding + end)[-SIZE:]


def results():
    """The files of the package itself, each one's kind, by both."""
    path = wheels.path("magika", "models/standard_v3_3/model.onnx")
    import onnxruntime

    found = sorted(file for file in path.parents[2].rglob("*") if file.is_file())
    # What Python compiled when the package was imported is not in the wheel.
    of_wheel = [file for file in found if file.suffix != ".pyc"]
    files = [file for file in of_wheel if file.stat().st_size >= SHORTEST]
    x = np.array([ids(file) for file in files], np.int32)
    (want,) = onnxruntime.InferenceSession(path).run(None, {"bytes": x})
    model = network()
    params, state = jl.interop.match(model, x, jl.interop.read(path)).load()
    y, _ = jax.jit(model.apply)(params, state, x)
    runtime = f"onnxruntime {onnxruntime.__version__}"
    inputs = f"the {len(files)} files of the package"
    yield wheels.Result("magika", runtime, inputs, *wheels.largest_difference([y], [want]))
