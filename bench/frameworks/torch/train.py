"""Training in PyTorch, eager; images with the channels last in memory, its fast path."""

import re
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..step import Optimizer, Training
from ..weights import Weights, batch, fill
from . import layout, ops
from .models import MODELS

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    ops.configure()
    device = ops.device()
    module = MODELS[model](size).to(device)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if weights is not None:
        # All layers of an LSTM are one module: "lstm.bias_ih_l0" is the bias of "lstm_0".
        layer = re.compile(r"lstm\.(\w+)_l(\d+)")
        own = {layer.sub(r"lstm.\2.\1", name): value for name, value in trained.items()}
        shapes = {name: tuple(value.shape) for name, value in own.items()}
        with torch.no_grad():
            for name, value in fill(fused_projections(weights), layout, shapes).items():
                own[name].copy_(torch.from_numpy(value))
    x, labels = (torch.from_numpy(value).to(device) for value in batch(size))
    if x.ndim == 4:
        module = module.to(memory_format=torch.channels_last)
        x = x.permute(0, 3, 1, 2)
    elif not x.is_floating_point():
        x = x.long()
    labels = labels.long().flatten()
    make = OPTIMIZERS[optimizer.name]
    optim = make(trained.values(), lr=optimizer.learning_rate, **optimizer.options)

    def step(x: Any, labels: Any) -> Any:
        optim.zero_grad()
        logits = module(x)
        loss = functional.cross_entropy(logits.flatten(0, -2), labels)
        loss.backward()
        optim.step()
        return (loss.detach(),)

    def wait(_: Any) -> None:
        ops.wait()

    parameters = sum(value.numel() for value in trained.values())
    return Training(step, (), (x, labels), parameters, wait)


def init(model: Any, size: Any) -> None:
    model(size)


def fused_projections(weights: Weights) -> Weights:
    """The weights with query, key and value, which read the same input, joined as ``qkv``."""
    result = dict(weights)
    for part in weights:
        if part.endswith("_query"):
            stem = part.removesuffix("query")
            pieces = [result.pop(stem + name) for name in ("query", "key", "value")]
            each = {name: [piece[name] for piece in pieces] for name in pieces[0]}
            result[stem + "qkv"] = {name: np.concatenate(a, -1) for name, a in each.items()}
    return result
