"""The data loaders of PyTorch and grain as sources; neither is imported unless it is used."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import DataError, calling_user_code
from ..base.types import PyTree
from .epochs import Epochs, skip
from .ownership import owned_items


def is_from(package: str, value: object) -> bool:
    """Whether the class of ``value``, or one that it inherits from, is from that package."""
    return any(kind.__module__.split(".")[0] == package for kind in type(value).__mro__)


def torch_source(loader: Any) -> Epochs | None:
    """A ``torch.utils.data.DataLoader`` as a source; None for anything else of PyTorch."""
    torch = importlib.import_module("torch")
    if not isinstance(loader, torch.utils.data.DataLoader):
        return None
    # A batch sampler has a sampler inside, and any of the three may be the one that shuffles.
    inner = getattr(loader.batch_sampler, "sampler", None)
    samplers = [s for s in (loader.sampler, loader.batch_sampler, inner) if s is not None]
    if any(getattr(sampler, "generator", "none needed") is None for sampler in samplers):
        raise DataError(
            "a DataLoader that shuffles by PyTorch's global generator cannot be resumed",
            expected="an order that is a function of a seed and the epoch",
            hint="generator=torch.Generator().manual_seed(0), for a sampler of your own too",
        )
    generators = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    seeds = {g: g.initial_seed() for g in generators if isinstance(g, torch.Generator)}

    def start_pass() -> Iterator[PyTree]:
        # A pass draws a seed for its workers from the generator that the sampler has too, but not
        # with persistent workers from the second pass on. Drawn from a copy, it changes no order.
        own = loader.generator
        if own is not None:
            loader.generator = torch.Generator().manual_seed(own.initial_seed())
        try:
            return iter(loader)
        finally:
            loader.generator = own

    def open_epoch(epoch: int) -> Iterator[PyTree]:
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        try:
            for generator, seed in seeds.items():
                # As PyTorch's own DistributedSampler does.
                generator.manual_seed((seed + epoch) % 2**64)
            for batch in start_pass():
                yield jax.tree.map(lambda leaf: _as_numpy(torch, leaf), batch)
        finally:
            # The next source of this loader starts from the seeds of its generators.
            for generator, seed in seeds.items():
                generator.manual_seed(seed)

    return Epochs(open_epoch)


def _as_numpy(torch: Any, leaf: Any) -> Any:
    """A tensor as a NumPy array, which shares its memory if that is the host's."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    if leaf.dtype == torch.bfloat16:  # NumPy has none
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
    # A repeated MapDataset shuffles each epoch differently; by itself it has one order only.
    if epoch:
        data = data.repeat()[epoch * len(data) : (epoch + 1) * len(data)]
    return data.to_iter_dataset()


class _Grain(Epochs):
    """Resumed by the state of grain's own iterator; nothing is read again."""

    num_extra = 1

    def _read_epoch(
        self, epoch: int, index: int, extra: list[Any]
    ) -> Iterator[tuple[PyTree, list[Any]]]:
        iterator = iter(self._open_epoch(epoch))
        if extra:
            (state,) = extra
            # A DataLoader's state is JSON in bytes, a Dataset's is a dict.
            state = state.encode() if isinstance(state, str) else state
            with calling_user_code("grain's set_state", DataError):
                iterator.set_state(state)  # type: ignore[attr-defined]
        else:
            skip(iterator, epoch, index)
        return ((batch, [_state(iterator)]) for batch in owned_items(iterator))


def _state(iterator: Any) -> Any:
    state = iterator.get_state()
    if isinstance(state, bytes):
        return state.decode()
    # A copy, as JSON will restore it; NumPy's integers become Python's.
    return json.loads(json.dumps(state, default=int))
