"""Which order of the rows behind an image that was flattened is the original's."""

import numpy as np
import pytest

import jlayers as jl

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("channels_first", [True, False])
def test_rows_of_the_other_order_are_found(channels_first):
    model = jl.serial(jl.AvgPool(2), jl.Flatten(), jl.Dense(4))
    x = RANDOM.standard_normal((3, 4, 6, 5)).astype("float32")
    kernel = RANDOM.standard_normal((30, 4)).astype("float32")
    bias = np.zeros(4, "float32")
    pooled = x.reshape(3, 2, 2, 3, 2, 5).mean((2, 4))
    there = {"pool": pooled}
    if channels_first:
        # Its rows were left as they are, as for a function in place of jl.Flatten().
        there["fc"] = np.moveaxis(pooled, -1, 1).reshape(3, -1) @ kernel
        params = {"dense": {"kernel": kernel, "bias": bias}}
        says = "it agrees with the rows of 'kernel' turned from channels first, as jl.Flatten()"
    else:
        there["fc"] = pooled.reshape(3, -1) @ kernel
        weights = {"fc.weight": kernel.T, "fc.bias": bias}
        params, _ = jl.interop.match(model, x, weights, library="torch").load()
        says = "it agrees with the rows of 'kernel' as in the file, since the image is flattened"
    report = jl.interop.verify(model, params, {}, there, x)
    assert report.first.path == "dense"
    assert report.hint.startswith(says)
