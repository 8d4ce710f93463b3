"""Rounded weights as PyTorch rounds them."""

import numpy as np
import pytest

from jlayers import core

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]

WEIGHT = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "largest"), [("int8", 127), ("int4", 7)])
def test_integers(dtype, largest):
    q, scale = core.quantize(WEIGHT, dtype)
    theirs = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(WEIGHT),
        torch.from_numpy(np.array(scale)),
        torch.zeros(5, dtype=torch.int32),
        1,
        -largest,
        largest,
    )
    np.testing.assert_allclose(core.dequantize(q, scale, dtype), theirs, rtol=1e-6, atol=1e-7)


def test_float8():
    q, scale = core.quantize(WEIGHT, "float8_e4m3fn")
    scaled = torch.from_numpy(WEIGHT / np.asarray(scale)).clamp(-448, 448)
    theirs = scaled.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(q, theirs.T)
