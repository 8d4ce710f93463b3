"""The data loaders of PyTorch and grain as sources; neither is imported before it is met."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import DataError, calling_user_code
from .epochs import Epochs, skip


def made_by(package: str, value: Any) -> bool:
    """Whether the class of ``value``, or one that it inherits from, is of that package."""
    return any(kind.__module__.split(".")[0] == package for kind in type(value).__mro__)


def torch_source(loader: Any) -> Epochs | None:
    """A ``torch.utils.data.DataLoader`` as a source; None for anything else of PyTorch."""
    torch = importlib.import_module("torch")
    if not isinstance(loader, torch.utils.data.DataLoader):
        return None
    samplers = [
        sampler
        for sampler in (
            loader.sampler,
            loader.batch_sampler,
            getattr(loader.batch_sampler, "sampler", None),
        )
        if sampler is not None
    ]
    if any(getattr(sampler, "generator", "none needed") is None for sampler in samplers):
        raise DataError(
            "the DataLoader shuffles by PyTorch's global generator, and cannot be resumed",
            expected="an order that is a function of a seed and the epoch",
            hint="generator=torch.Generator().manual_seed(0), for a sampler of your own too",
        )
    generators = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    seeds = {g: g.initial_seed() for g in generators if isinstance(g, torch.Generator)}

    def passed() -> Iterator[Any]:
        # A pass draws a seed for its workers from the generator that the sampler has too, but not
        # with persistent workers from the second pass on. From a copy it leaves the order alone.
        own = loader.generator
        if own is not None:
            loader.generator = torch.Generator().manual_seed(own.initial_seed())
        try:
            return iter(loader)
        finally:
            loader.generator = own

    def opened(epoch: int) -> Iterator[Any]:
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        try:
            for generator, seed in seeds.items():
                # As PyTorch's own DistributedSampler does it.
                generator.manual_seed((seed + epoch) % 2**64)
            for batch in passed():
                yield jax.tree.map(lambda leaf: _as_numpy(torch, leaf), batch)
        finally:
            # The seed is part of the generator, and the next source of this loader starts from it.
            for generator, seed in seeds.items():
                generator.manual_seed(seed)

    return Epochs(opened)


def _as_numpy(torch: Any, leaf: Any) -> Any:
    """A tensor as a numpy array on the same memory, if it is the host's."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    if leaf.dtype == torch.bfloat16:  # which numpy lacks
        return leaf.view(torch.int16).numpy().view(jnp.bfloat16)
    return leaf.numpy()


def grain_source(data: Any) -> Epochs | None:
    """A ``DataLoader``, ``MapDataset`` or ``IterDataset`` of grain; None for anything else."""
    grain = importlib.import_module("grain.python")
    if isinstance(data, grain.MapDataset):
        return _Grain(lambda epoch: _epoch_of(data, epoch))
    if isinstance(data, grain.DataLoader | grain.IterDataset):
        return _Grain(lambda epoch: data)
    return None


def _epoch_of(data: Any, epoch: int) -> Any:
    # Repeated, a MapDataset shuffles each epoch in another order; alone it repeats the first.
    if epoch:
        data = data.repeat()[epoch * len(data) : (epoch + 1) * len(data)]
    return data.to_iter_dataset()


class _Grain(Epochs):
    """Resumed by the state of grain's own iterator, with nothing read again."""

    further = 1

    def _from(self, epoch: int, index: int, further: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
        iterator = iter(self._opened(epoch))
        if further:
            (state,) = further
            # A DataLoader's state is JSON in bytes, a Dataset's is a dict.
            state = state.encode() if isinstance(state, str) else state
            with calling_user_code("grain's set_state", DataError):
                iterator.set_state(state)  # type: ignore[attr-defined]
        else:
            skip(iterator, epoch, index)
        return ((batch, [_state(iterator)]) for batch in iterator)


def _state(iterator: Any) -> Any:
    state = iterator.get_state()
    if isinstance(state, bytes):
        return state.decode()
    # A copy, and what JSON will give back; numpy's integers become Python's.
    return json.loads(json.dumps(state, default=int))
