"""Presets: rules that look at the shapes and the names of jlayers' own layers.

How to read this file: each preset is a function from the name of an axis of the mesh to ``Rules``;
what it chooses for a leaf is the small function inside it. ``print(rules.layout(model, x, mesh))``
shows what came out for a model.
"""

from __future__ import annotations

import math

from jax.sharding import PartitionSpec

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.specs import format_short
from .batches import AnyMesh
from .layout import axes_of
from .rules import Choice, Choose, Leaf, Part, Rules

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

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        return before or Choice((None,) * len(leaf.whole_shape))

    return _preset(f"data_parallel({axis!r})", choose, names, _batch(names), 3)


@public_api
def fsdp(axis: str | tuple[str, ...] = "data", *, least: int = 1024) -> Rules:
    """Every device has a part of each parameter, and of the batch (Zhao et al., arXiv:2304.11277).

    The largest axis that can be divided evenly is split; XLA gathers a layer's parameters where
    they are used and scatters their gradients, and the optimiser's state stays split.

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

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        chosen = before or Choice((None,) * len(leaf.whole_shape))
        if not leaf.trained or math.prod(leaf.whole_shape) < least:
            return chosen
        parts = math.prod(mesh.shape[name] for name in names)
        first = len(leaf.copies)
        # Not the axis of copies: a scan over split copies would gather all of them at once.
        free = [i for i in range(first, len(chosen.spec)) if chosen.spec[i] is None]
        return _split(leaf, chosen, sorted(free, key=lambda i: -leaf.whole_shape[i]), names, parts)

    return _preset(
        f"fsdp({axis!r}{_not_default('least', least, 1024)})", choose, names, _batch(names), 2
    )


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
    names = _names(axis)

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        chosen = before or Choice((None,) * len(leaf.whole_shape))
        which = _feature_axis(leaf) if leaf.trained else None
        if which is None or chosen.spec[which := which + len(leaf.copies)] is not None:
            return chosen
        return _split(leaf, chosen, [which], names, math.prod(mesh.shape[n] for n in names))

    return _preset(f"tensor_parallel({axis!r})", choose, names, P(), 1)


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
    names = _names(axis)

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        chosen = before or Choice((None,) * len(leaf.whole_shape))
        stacked = [i for i, name in enumerate(leaf.stacks) if name == "experts"]
        if not leaf.trained or not stacked or chosen.spec[stacked[-1]] is not None:
            return chosen
        return _split(leaf, chosen, stacked[-1:], names, math.prod(mesh.shape[n] for n in names))

    return _preset(f"expert_parallel({axis!r})", choose, names, P(), 1)


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
    names = _names(axis)

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        chosen = before or Choice((None,) * len(leaf.whole_shape))
        # The outermost stack: what is inside it belongs to one copy.
        if not leaf.trained or not leaf.copies or "experts" in leaf.stacks[:1]:
            return chosen
        return _split(leaf, chosen, [0], names, math.prod(mesh.shape[n] for n in names))

    return _preset(f"pipeline_parallel({axis!r})", choose, names, P(), 1)


@public_api
def sequence_parallel(axis: str = "sequence", *, batch: str | None = "data") -> Rules:
    """Every device has some of the steps in time of a batch (batch, time, ...).

    Layers that act on each step alone need nothing from other devices; attention gathers keys and
    values, convolutions the steps at the edges, and a recurrence, which goes from step to step,
    gathers its input.

    Args:
      axis: of the mesh, for the steps.
      batch: of the mesh, for the rows; None to have all on each device.

    >>> import jlayers as jl
    >>> jl.sharding.sequence_parallel("sequence").batch
    P('data', 'sequence')
    """
    names = _names(axis)

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        return before or Choice((None,) * len(leaf.whole_shape))

    text = f"sequence_parallel({axis!r}, batch={batch!r})"
    return _preset(text, choose, names, P(batch, _entry(names)), 3)


def _feature_axis(leaf: Leaf) -> int | None:
    """The axis of one copy that holds features which can be computed apart."""
    name, shape = leaf.name, leaf.shape
    if name == "embedding" and len(shape) == 2:
        return 0
    if name in _ROWS:
        return 0
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
    if len(kernel) == 2 and kernel[0] > kernel[1] and "recurrent_kernel" not in leaf.siblings:
        return 0
    return len(kernel) - 1


def _split(
    leaf: Leaf, chosen: Choice, axes: list[int], names: tuple[str, ...], parts: int
) -> Choice:
    """``chosen``, with the first of these axes that can be divided split over ``names``."""
    if set(names) & set(axes_of(P(*chosen.spec))):
        return chosen
    for axis in axes:
        if leaf.whole_shape[axis] and leaf.whole_shape[axis] % parts == 0:
            spec = (*chosen.spec[:axis], _entry(names), *chosen.spec[axis + 1 :])
            return chosen._replace(spec=spec)
    sizes = " or ".join(str(leaf.whole_shape[axis]) for axis in axes)
    note = f"{parts} devices do not divide {sizes}" if sizes else ""
    return chosen._replace(note=chosen.note or note)


def _preset(
    text: str, choose: Choose, names: tuple[str, ...], batch: PartitionSpec, turn: int
) -> Rules:
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


def _batch(names: tuple[str, ...]) -> PartitionSpec:
    return P(_entry(names))


def _not_default(name: str, value: object, default: object) -> str:
    return "" if value == default else f", {name}={value!r}"
