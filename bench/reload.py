"""Calls of ResNet-50 after ``export.stablehlo`` and ``export.load``, against the jitted model.

``python -m bench.reload``: in turns, the ratio of the medians.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np

import jlayers as jl
from bench.frameworks import sizes
from bench.frameworks.jlayers.models import conv_net


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    x = np.random.default_rng(0).normal(size=(arguments.batch, *[arguments.size] * 2, 3))
    x = x.astype("float32")
    model = conv_net(sizes.resnet())
    params, state = model.init(jax.random.key(0), x)
    folder = pathlib.Path(tempfile.mkdtemp())
    jl.export.stablehlo(model, params, state, x, folder / "model.zip")
    loaded = jl.export.load(folder / "model.zip")
    jitted = jax.jit(lambda params, state, x: model.apply(params, state, x)[0])
    programs = {"jitted": lambda: jitted(params, state, x), "reloaded": lambda: loaded(x)}
    times: dict[str, list[float]] = {name: [] for name in programs}
    outputs = {name: np.asarray(run()) for name, run in programs.items()}
    for _ in range(arguments.turns):
        for name, run in programs.items():
            start = time.perf_counter()
            run().block_until_ready()
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    ratios = np.array(times["reloaded"]) / np.array(times["jitted"])
    difference = np.abs(outputs["jitted"] - outputs["reloaded"]).max()
    shown = ", ".join(f"{name} {value:.1f} ms" for name, value in medians.items())
    print(f"{shown}; ratio {np.median(ratios):.3f}; largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
