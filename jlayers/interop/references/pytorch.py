"""A torch module: hooks on all modules inside it, in evaluation and without gradients."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...base.types import PyTree
from .base import Given, Reference, named, needed, outputs

# Of the random numbers of a run.
_SEEDS = itertools.count()


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

    like = _like(module, torch)
    tensors = jax.tree.map(lambda array: _tensor(np.asarray(array), torch, like), inputs)
    with _kept(module, torch), _evaluating(module, torch) as modules, torch.no_grad():
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
    return [*given, *outputs(type(module).__name__, output, lambda each: _array(each, torch))]


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


@contextlib.contextmanager
def _kept(module: Any, torch: Any) -> Iterator[None]:
    """Buffers and random numbers, as they were, whatever a module does to them in evaluation.

    Each time the random numbers are others, so that two runs show whether they are used.
    """
    plain = [each for each in module.modules() if not isinstance(each, torch.jit.ScriptModule)]
    owned = [(each, dict(each._buffers)) for each in plain]
    buffers = [(each, each.detach().clone()) for each in module.buffers()]
    cards = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(next(_SEEDS))
        try:
            yield
        finally:
            for owner, own in owned:
                owner._buffers.update(own)
            with torch.no_grad():
                for each, before in buffers:
                    if not torch.equal(each, before):
                        each.copy_(before)


def _like(module: Any, torch: Any) -> Any:
    """A parameter that says where the module is, and in which dtype it computes; or None."""
    floating = [each for each in module.parameters() if each.is_floating_point()]
    one_dtype = len({each.dtype for each in floating}) == 1
    return floating[0] if one_dtype else None


def _tensor(array: np.ndarray, torch: Any, like: Any) -> Any:
    if array.dtype.name == "bfloat16":
        tensor = torch.tensor(array.astype(np.float32)).bfloat16()
    else:
        tensor = torch.tensor(array)
    if like is None:
        return tensor
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(device=like.device, dtype=dtype)


def _first(output: Any, torch: Any) -> np.ndarray | None:
    """The first tensor of an output, copied."""
    # What a packed sequence holds is in another order.
    if isinstance(output, torch.nn.utils.rnn.PackedSequence):
        return None
    return next((array for _, array in named(output, lambda each: _array(each, torch))), None)


def _array(output: Any, torch: Any) -> np.ndarray | None:
    return array_of(output) if isinstance(output, torch.Tensor) else None


def array_of(tensor: Any) -> np.ndarray:
    """A copy of what a tensor holds."""
    tensor = tensor.detach().cpu()
    try:
        return np.array(tensor.numpy())
    except TypeError:
        # What NumPy lacks has few digits, and is not compared in more.
        return np.array(tensor.float().numpy().astype(jnp.bfloat16))


REFERENCE = Reference("a torch.nn.Module", _takes, _run)
