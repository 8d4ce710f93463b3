#!/usr/bin/env bash
# MobileNetV2 and EfficientNet of transformers, trained, keep the statistics of their last batch alone.
#
# One would guess: running statistics are averages over many batches, as in the TensorFlow models that these were ported from.
# Versions: transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11.
# Seen: they pass TensorFlow's momentum (0.997 and 0.99, the weight of the old statistics) to torch.nn.BatchNorm2d, where it is the weight of the new ones: the mean after one batch is 0.997 and 0.99 times that of the batch.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import torch
from transformers import EfficientNetConfig, EfficientNetModel, MobileNetV2Config, MobileNetV2Model

torch.manual_seed(0)
small = EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320)
models = {
    0.997: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)),
    0.99: EfficientNetModel(small),
}
for weight, model in models.items():
    norm = next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.train()(1 + 2 * torch.randn(4, 3, 64, 64))
    ratio = (norm.running_mean / seen[0].mean((0, 2, 3))).mean().item()
    print(f"{type(model).__name__}: running mean after one batch = {ratio:.3f} of the batch's")
    assert abs(ratio - weight) < 1e-3
PY
