"""Presets: rules that look at the shapes and the names of jlayers' own layers.

How to read this file: each preset says which axes of a parameter may be split, and ``_preset``
splits the first that can be. ``print(rules.layout(model, x, mesh))`` shows what came out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jax.sharding import PartitionSpec

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.specs import format_short
from .batches import AnyMesh, parts_of
from .layout import axes_of
from .rules import Choice, Leaf, Part, Rules

P = PartitionSpec
# Kernels (in, out) whose outputs are the heads, the gates or the hidden features of a layer: each
# device computes some of them. Megatron-LM (arXiv:1909.08053), section 3.
_COLUMNS = ("query_kernel", "key_kernel", "value_kernel", "gate_kernel", "recurrent_kernel")
# Those that sum over what is split: each device has the rows of its own inputs.
_ROWS = ("out_kernel",)


@public_api
def data_parallel(axis: str | tuple[str, ...] = "data") -> Rules:
    """Every device has all parameters, and a part of the batch.

    Args:
      axis: of the mesh, or several of them.

    >>> import jax, jlayers as jl
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> print(jl.sharding.data_parallel("data").layout(jl.Dense(2), jl.spec((8, 3)), mesh))
    kernel  float32[3, 2]  P()  24 B a device
    bias    float32[2]     P()  8 B a device
    total 32 B a device, 32 B in all; batches P('data'); mesh data=4
    """
    names = _names(axis)
    return _preset(f"data_parallel({axis!r})", names, _no_axes, turn=3, batch=P(_entry(names)))


@public_api
def fsdp(axis: str | tuple[str, ...] = "data", *, least: int = 1024) -> Rules:
    """Every device has a part of each parameter, and of the batch (Zhao et al., arXiv:2304.11277).

    The largest axis that can be divided evenly is split, of a recurrence's kernels rather the
    inputs than the gates. XLA gathers a layer's parameters where they are used and scatters their
    gradients, and the optimiser's state stays split.

    Args:
      axis: of the mesh, or several of them.
      least: arrays of fewer elements stay whole: what they would save is less than the gathering
        of them costs.

    >>> import jax, jlayers as jl
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> print(jl.sharding.fsdp("data").layout(jl.Dense(512), jl.spec((8, 30)), mesh))
    kernel  float32[30, 512]  P(None, 'data')  15.4 kB a device
    bias    float32[512]      P()              2.05 kB a device
    total 17.4 kB a device, 63.5 kB in all; batches P('data'); mesh data=4
    """
    names = _names(axis)
    least = arguments.integer("least", least, 0)

    def axes(leaf: Leaf) -> list[int]:
        if math.prod(leaf.whole_shape) < least:
            return []
        # Not the axis of copies: a scan over split copies would gather all of them at once.
        own = range(len(leaf.copies), len(leaf.whole_shape))
        # Nor that of gates, which a step takes apart, while there is another.
        gates = own[-1:] if _has_gates(leaf) else range(0)
        return sorted(own, key=lambda i: (i in gates, -leaf.whole_shape[i]))

    more = "" if least == 1024 else f", least={least}"
    return _preset(f"fsdp({axis!r}{more})", names, axes, turn=2, batch=P(_entry(names)))


@public_api
def tensor_parallel(axis: str = "model") -> Rules:
    """Every device computes some of the features of each layer (Shoeybi et al., arXiv:1909.08053).

    Split are the heads of attention, the gates of recurrences, the output channels of
    convolutions, the rows of embeddings, and of ``Dense`` the larger of its two sizes: so the
    hidden features of a transformer's network are split, and the two products around them need one
    sum over the devices. Everything else is whole.

    Args:
      axis: of the mesh.

    >>> import jax, jlayers as jl
    >>> mesh = jax.sharding.AbstractMesh((4,), ("model",))
    >>> network = jl.serial(jl.Dense(32), jax.nn.gelu, jl.Dense(8))
    >>> print(jl.sharding.tensor_parallel("model").layout(network, jl.spec((8, 8)), mesh))
    dense/kernel    float32[8, 32]  P(None, 'model')  256 B a device
    dense/bias      float32[32]     P('model')        32 B a device
    dense_1/kernel  float32[32, 8]  P('model')        256 B a device
    dense_1/bias    float32[8]      P()               32 B a device
    total 576 B a device, 2.21 kB in all; batches P(); mesh model=4
    """

    def axes(leaf: Leaf) -> list[int]:
        which = _feature_axis(leaf)
        return [] if which is None else [which + len(leaf.copies)]

    return _preset(f"tensor_parallel({axis!r})", _names(axis), axes, turn=1)


@public_api
def expert_parallel(axis: str = "expert") -> Rules:
    """Every device has some of the experts of each ``MixtureOfExperts`` (arXiv:2006.16668).

    Args:
      axis: of the mesh.

    >>> import jax, jlayers as jl
    >>> mesh = jax.sharding.AbstractMesh((4,), ("expert",))
    >>> model = jl.MixtureOfExperts(jl.Dense(8, bias=False), 4)
    >>> print(jl.sharding.expert_parallel("expert").layout(model, jl.spec((2, 6, 8)), mesh))
    router/kernel   float32[8, 4]     P()          128 B a device
    experts/kernel  float32[4, 8, 8]  P('expert')  256 B a device
    total 384 B a device, 1.15 kB in all; batches P(); mesh expert=4
    """

    def axes(leaf: Leaf) -> list[int]:
        return [i for i, name in enumerate(leaf.stacks) if name == "experts"][-1:]

    return _preset(f"expert_parallel({axis!r})", _names(axis), axes, turn=1)


@public_api
def pipeline_parallel(axis: str = "stage") -> Rules:
    """Every device has some of the copies of each ``repeat``, for ``jl.pipeline``.

    Args:
      axis: of the mesh.

    >>> import jax, jlayers as jl
    >>> mesh = jax.sharding.AbstractMesh((4,), ("stage",))
    >>> model = jl.pipeline(jl.Dense(8, bias=False), 12, stages=4, parts=2)
    >>> print(jl.sharding.pipeline_parallel("stage").layout(model, jl.spec((2, 8)), mesh))
    kernel  float32[12, 8, 8]  P('stage')  768 B a device
    total 768 B a device, 3.07 kB in all; batches P(); mesh stage=4
    """

    def axes(leaf: Leaf) -> list[int]:
        # The outermost stack: what is inside it belongs to one copy.
        return [0] if leaf.copies and leaf.stacks[0] != "experts" else []

    return _preset(f"pipeline_parallel({axis!r})", _names(axis), axes, turn=1)


@public_api
def sequence_parallel(axis: str = "sequence", *, batch: str | None = "data") -> Rules:
    """Every device has some of the steps in time of a batch (batch, time, ...).

    Layers that act on each step alone need nothing from other devices; attention gathers keys and
    values, and convolutions and recurrences, which go along the steps, gather their inputs.

    Args:
      axis: of the mesh, for the steps.
      batch: of the mesh, for the rows; None to have all on each device.

    >>> import jlayers as jl
    >>> jl.sharding.sequence_parallel("sequence").batch
    P('data', 'sequence')
    """
    names = _names(axis)
    text = f"sequence_parallel({axis!r}, batch={batch!r})"
    return _preset(text, names, _no_axes, turn=3, batch=P(batch, _entry(names)))


def _feature_axis(leaf: Leaf) -> int | None:
    """The axis of one copy that holds features which can be computed apart."""
    name, shape = leaf.name, leaf.shape
    if name == "embedding" and len(shape) == 2:
        return 0
    if name in _ROWS:
        return 0
    if name == "recurrent_kernel" and len(shape) > len(leaf.siblings.get("kernel", shape)):
        return 0  # that of heads
    if name in _COLUMNS:
        return len(shape) - 1
    if name == "kernel" and len(shape) >= 2:
        return _out_axis(shape, leaf)
    if name.endswith("bias") and len(shape) == 1:
        kernel = leaf.siblings.get(f"{name.removesuffix('bias')}kernel")
        # Of a layer that sums over what is split the bias is added once, after the sum.
        if kernel is None or name == "out_bias" or kernel[-1] != shape[0]:
            return None
        return 0 if name != "bias" or _out_axis(kernel, leaf) else None
    return None


def _out_axis(kernel: tuple[int, ...], leaf: Leaf) -> int:
    """Of a ``Dense`` the larger axis; of a convolution and of a recurrence the outputs."""
    if len(kernel) == 2 and kernel[0] > kernel[1] and not _has_gates(leaf):
        return 0
    return len(kernel) - 1


def _has_gates(leaf: Leaf) -> bool:
    """Whether it is of a recurrence, whose gates lie side by side along the last axis."""
    return "recurrent_kernel" in leaf.siblings


def _no_axes(leaf: Leaf) -> list[int]:
    return []


def _preset(
    text: str,
    names: tuple[str, ...],
    axes: Callable[[Leaf], list[int]],
    *,
    turn: int,
    batch: PartitionSpec = P(),
) -> Rules:
    """Rules that split one axis of each parameter over ``names``.

    Args:
      text, turn: as for ``Part``.
      names: axes of the mesh.
      axes: of a parameter, those that may be split, the likeliest first.
      batch: as for ``Rules``.
    """

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice:
        chosen = before or Choice((None,) * len(leaf.whole_shape))
        if not leaf.trained or set(names) & set(axes_of(P(*chosen.spec))):
            return chosen
        free = [i for i in axes(leaf) if chosen.spec[i] is None]
        parts = parts_of(mesh, names)
        for i in free:
            if leaf.whole_shape[i] and leaf.whole_shape[i] % parts == 0:
                spec = (*chosen.spec[:i], _entry(names), *chosen.spec[i + 1 :])
                return chosen._replace(spec=spec)
        sizes = " or ".join(str(leaf.whole_shape[i]) for i in free)
        note = f"{parts} devices do not divide {sizes}" if sizes else ""
        return chosen._replace(note=chosen.note or note)

    return Rules((Part(text, choose, names, turn=turn),), batch)


def _names(axis: object) -> tuple[str, ...]:
    names = (axis,) if isinstance(axis, str) else axis
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        raise LayerError(
            "axis must be the name of an axis of the mesh, or a tuple of names",
            expected='"data"',
            got=format_short(axis),
        )
    return names


def _entry(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names
