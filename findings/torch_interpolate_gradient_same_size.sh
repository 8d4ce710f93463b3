#!/usr/bin/env bash
# torch.nn.functional.interpolate has the gradient of the identity where scale_factor leaves the size as it is.
#
# One would guess: the gradient of what it computes; with scale_factor=1.2 four pixels stay four, but are read at i / 1.2.
# Versions: torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11.
# Seen: nearest gives the pixels 0, 0, 1, 2 of 0, 1, 2, 3, and the gradient of their sum 1, 1, 1, 1, where 2, 1, 1, 0 is right. With scale_factor=1.3, five pixels, it is right.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn.functional import interpolate


def gradients(factor, mode):
    """The gradient of the sum of the outputs, by autograd and by finite differences."""
    x = torch.arange(4.0, dtype=torch.float64).reshape(1, 1, 4)

    def total(x):
        return interpolate(x, scale_factor=factor, mode=mode).sum()

    given = x.clone().requires_grad_()
    total(given).backward()
    steps = 1e-3 * torch.eye(4, dtype=torch.float64).reshape(4, 1, 1, 4)
    right = torch.stack([(total(x + step) - total(x - step)) / 2e-3 for step in steps])
    return interpolate(x, scale_factor=factor, mode=mode).ravel(), given.grad.ravel(), right


for factor, agrees in ((1.2, False), (1.3, True)):
    y, gradient, right = gradients(factor, "nearest")
    print(factor, y.tolist(), "gradient", gradient.tolist(), "right", right.tolist())
    assert torch.allclose(gradient, right, atol=1e-6) == agrees
    assert agrees or torch.equal(gradient, torch.ones(4, dtype=torch.float64))
PY
