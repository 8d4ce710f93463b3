"""PyTorch, eager; images with the channels last in memory, its fast path."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...models.torch import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, batch, fill, fused, kernel_first


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = MODELS[model](size).to(device)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if weights is not None:
        weights = fused(weights, ("query", "keys", "values"), "qkv")
        own = {name: tuple(value.shape) for name, value in trained.items()}
        with torch.no_grad():
            for name, value in fill(weights, layout, own).items():
                trained[name].copy_(torch.from_numpy(value))
    x, labels = (torch.from_numpy(value).to(device) for value in batch(size))
    if x.ndim == 4:
        module = module.to(memory_format=torch.channels_last)
        x = x.permute(0, 3, 1, 2)
    elif not x.is_floating_point():
        x = x.long()
    labels = labels.long().flatten()
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optim = make[optimizer.name](trained.values(), lr=optimizer.learning_rate, **optimizer.options)

    def step(x: Any, labels: Any) -> Any:
        optim.zero_grad()
        logits = module(x)
        loss = functional.cross_entropy(logits.flatten(0, -2), labels)
        loss.backward()
        optim.step()
        return (loss.detach(),)

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    parameters = sum(value.numel() for value in trained.values())
    return Training(step, (), (x, labels), parameters, wait)


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        part, _, layer = part.rpartition("_")
        return {
            f"{part}/weight_ih_l{layer}": arrays["kernel"].T,
            f"{part}/weight_hh_l{layer}": arrays["recurrent_kernel"].T,
            f"{part}/bias_ih_l{layer}": arrays["bias"],
        }
    weight = next(value for name, value in arrays.items() if name != "bias")
    named = {f"{part}/weight": kernel_first(weight) if "kernel" in arrays else weight}
    if "bias" in arrays:
        named[f"{part}/bias"] = arrays["bias"]
    return named
