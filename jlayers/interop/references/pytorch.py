"""A torch module: hooks on all modules inside it, in evaluation and without gradients."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ...base.types import PyTree
from .base import Given, Reference, needed


def _takes(reference: object) -> bool:
    # Whoever has a module has imported torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(reference, torch.nn.Module)


def _run(module: Any, inputs: PyTree) -> list[Given]:
    torch = needed("torch", "a torch module")
    given: list[Given] = []

    def hook(name: str, kind: str, _: Any, __: Any, output: Any) -> None:
        # A copy: the next module may write into it (ReLU(inplace=True)).
        if (value := _first(output, torch)) is not None:
            given.append(Given(name, kind, value))

    tensors = jax.tree.map(lambda array: _tensor(np.asarray(array), torch), inputs)
    with _evaluating(module, torch) as modules, torch.no_grad():
        # The hooks of a scripted module see nothing of what is inside it.
        scripted = isinstance(module, torch.jit.ScriptModule)
        inside = {} if scripted else modules
        hooks = [
            each.register_forward_hook(functools.partial(hook, name, type(each).__name__))
            for name, each in inside.items()
            if name
        ]
        try:
            if isinstance(tensors, dict):
                output = module(**tensors)
            else:
                output = module(*tensors) if isinstance(tensors, tuple) else module(tensors)
        finally:
            for each in hooks:
                each.remove()
    value = _first(output, torch)
    if value is None:
        raise ValueError(f"its output holds no tensor: {type(output).__name__}")
    return [*given, Given("", type(module).__name__, value)]


@contextlib.contextmanager
def _evaluating(module: Any, torch: Any) -> Iterator[dict[str, Any]]:
    """The modules by name; their flags are put back whatever happens."""
    modules = dict(module.named_modules())
    training = {name: each.training for name, each in modules.items()}
    # A transformer layer's fast path calls none of the modules inside it.
    fast = getattr(torch.backends, "mha", None)
    was_fast = fast.get_fastpath_enabled() if fast else False
    try:
        module.eval()
        if fast:
            fast.set_fastpath_enabled(False)
        yield modules
    finally:
        if fast:
            fast.set_fastpath_enabled(was_fast)
        for name, each in modules.items():
            each.training = training[name]


def _tensor(array: np.ndarray, torch: Any) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.astype(np.float32)).bfloat16()
    return torch.tensor(array)


def _first(output: Any, torch: Any) -> np.ndarray | None:
    """The first tensor of an output, copied."""
    if isinstance(output, torch.Tensor):
        tensor = output.detach().cpu()
        # NumPy has no bfloat16, and a comparison needs no more digits.
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return np.array(wide.numpy())
    if isinstance(output, torch.nn.utils.rnn.PackedSequence):
        return None
    values = output.values() if isinstance(output, dict) else output
    if not isinstance(values, list | tuple) and not isinstance(output, dict):
        return None
    return next((found for each in values if (found := _first(each, torch)) is not None), None)


REFERENCE = Reference("a torch.nn.Module", _takes, _run)
