"""PyTorch's layers, eager, with channels last in memory where that is its fast path."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from ...agreement import disagreement
from ...data import floating
from ...device import cores
from ...ops.attention import hides_more, visible
from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...program import Program, Task
from ...row import Row
from .. import Unavailable
from . import layout

# Channels to the front, and (B, T, N, H) to (B, N, T, H).
FIRST, HEADS = (-1, 1), (1, 2)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def device() -> str:
    """Where the rows run: the same as JAX.

    Raises:
      Unavailable: where JAX runs on an accelerator and torch has none.
    """
    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise Unavailable("torch is installed without CUDA")
    return "cuda"


def wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def configure() -> None:
    """All cores, and on an accelerator the precision that JAX has by default."""
    torch.set_num_threads(cores())
    torch.set_float32_matmul_precision("high")


class TorchOp(NamedTuple):
    """A row in PyTorch.

    Args:
      module: holds the parameters.
      convert: the canonical weights to them by name; it only moves values.
      call: (module, x) to y, by default a call of the module.
      moved: an axis of x and y, and where it is in torch; None where all are the same.
    """

    module: nn.Module
    convert: Callable[[Any], Any] = layout
    call: Callable[[nn.Module, Any], Any] = lambda module, x: module(x)
    moved: tuple[int, int] | None = None

    def program(self, task: Task) -> Program:
        """The forward pass without a tape, or with one and all gradients."""
        configure()
        module, data = self.module, task.data
        own = self._filled(data.weights, data.x)
        x = jax.tree.map(self._tensor, data.x)
        inputs = jax.tree.leaves(x) if floating(data.x) else []
        cotangent = self._tensor(data.cotangent)

        def forward(times: int = 1) -> Any:
            with torch.no_grad():
                for _ in range(times):
                    y = self.call(module, x)
            wait()
            return y, ()

        def gradient(times: int = 1) -> Any:
            for leaf in inputs:
                leaf.requires_grad_()
            for _ in range(times):
                y = self.call(module, x)
                gradients = torch.autograd.grad(y, [*own.values(), *inputs], cotangent)
            wait()
            return y, gradients

        run = forward if task.mode == "forward" else gradient

        def disagrees(tolerance: float) -> str | None:
            y, gradients = run()
            got: tuple[Any, ...] = (self._array(y),)
            if task.mode == "gradient":
                of_weights = dict(zip(own, map(array, gradients), strict=False))
                of_x = [self._array(value) for value in gradients[len(own) :]]
                got += of_weights, jax.tree.unflatten(jax.tree.structure(x), of_x) if of_x else None
            return disagreement(got, task.expected(got[0], self.convert), tolerance)

        return Program(run, disagrees)

    def _filled(self, weights: Any, x: Any) -> dict[str, nn.Parameter]:
        """The module's parameters by name, with the weights for values."""
        values, module = self.convert(weights), self.module.to(device())
        for value in list(values.values())[:1]:
            module.to(getattr(torch, value.dtype.name))
        own = dict(module.named_parameters())
        if own.keys() != values.keys():
            raise ValueError(f"torch has parameters {sorted(own)}, not {sorted(values)}")
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(tensor(np.ascontiguousarray(value)))
        if self.moved == FIRST and x.ndim in CHANNELS_LAST:
            module.to(memory_format=CHANNELS_LAST[x.ndim])
        return own

    def _tensor(self, value: np.ndarray) -> torch.Tensor:
        made = tensor(value)
        if self.moved is not None:
            made = made.movedim(*self.moved)
        if self.moved == FIRST:
            form = CHANNELS_LAST.get(made.ndim, torch.contiguous_format)
            made = made.contiguous(memory_format=form)
        return made

    def _array(self, value: torch.Tensor) -> np.ndarray:
        return array(value if self.moved is None else value.movedim(*reversed(self.moved)))

    @staticmethod
    def chain(parts: Sequence["TorchOp"]) -> "TorchOp":
        def convert(weights: Any) -> dict[str, Any]:
            return {
                f"{i}.{name}": value
                for i, (part, own) in enumerate(zip(parts, weights, strict=True))
                for name, value in part.convert(own).items()
            }

        module = nn.Sequential(*(part.module for part in parts))
        return TorchOp(module, convert, moved=parts[0].moved)


def tensor(value: np.ndarray) -> torch.Tensor:
    """A tensor of the same dtype; torch cannot read NumPy's bfloat16."""
    if np.issubdtype(value.dtype, np.integer):
        return torch.tensor(value, device=device())
    wide = torch.tensor(value.astype(np.float32), device=device())
    return wide.to(getattr(torch, value.dtype.name))


def array(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def ranked(name: str, rank: int) -> Any:
    """The layer for a number of spatial axes: ``ranked("Conv{}d", 2)``."""
    return getattr(nn, name.format(rank))


def conv(row: Row) -> TorchOp:
    g = geometry(row)
    shape = (g.channels, g.features, g.kernel, g.strides, g.padding, g.dilation, g.groups, g.bias)
    return TorchOp(ranked("Conv{}d", g.rank)(*shape), moved=FIRST)


def conv_transpose(row: Row) -> TorchOp:
    g = geometry(row)
    pairs = list(zip(g.kernel, g.strides, strict=True))
    # "SAME" crops kernel - stride steps; torch cannot crop an odd number of them.
    crop = [k - s if row["padding"] == "SAME" else 0 for k, s in pairs]
    if any(amount % 2 for amount in crop):
        raise ValueError(f"{row.name}: torch has no such crop; give VALID")
    padding, output_padding = [c // 2 for c in crop], [max(s - k, 0) for k, s in pairs]
    shape = (g.channels, g.features, g.kernel, g.strides, padding, output_padding)
    module = ranked("ConvTranspose{}d", g.rank)(*shape)

    def convert(weights: Any) -> dict[str, Any]:
        flipped = np.flip(weights["kernel"], tuple(range(g.rank)))
        return {"weight": np.moveaxis(flipped, (-2, -1), (0, 1)), "bias": weights["bias"]}

    return TorchOp(module, convert, moved=FIRST)


def pool(name: str, row: Row, **options: Any) -> TorchOp:
    w = window(row)
    make = ranked(name, len(w.window))
    return TorchOp(make(w.window, w.strides, w.padding, **options), moved=FIRST)


def batch_norm(row: Row) -> TorchOp:
    module = ranked("BatchNorm{}d", max(len(row.x) - 2, 1))(row.x[-1], EPSILON, momentum=0.01)
    return TorchOp(module, moved=FIRST if len(row.x) > 2 else None)


def recurrent(make: Any, row: Row) -> TorchOp:
    options = {"batch_first": True, "bidirectional": row["bidirectional"]}
    module = make(row.x[-1], row["features"], row["layers"], **options)

    def convert(weights: Any) -> dict[str, Any]:
        return {
            f"{name}_l{i}{side}": value
            for i, cells in enumerate(weights)
            for cell, side in zip(cells, ("", "_reverse"), strict=False)
            for name, value in layout(cell).items()
        }

    return TorchOp(module, convert, lambda module, x: module(x)[0])


def attention(row: Row) -> TorchOp:
    options: dict[str, Any] = {"is_causal": row["causal"]}
    if hides_more(row):
        options = {"attn_mask": torch.tensor(visible(row), device=device())}
    attend = partial(nn.functional.scaled_dot_product_attention, **options)
    return TorchOp(nn.Identity(), call=lambda module, x: attend(*x), moved=HEADS)


OPS: dict[str, Callable[[Row], TorchOp]] = {
    "dense": lambda row: TorchOp(nn.Linear(row.x[-1], row["features"])),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, "MaxPool{}d"),
    "avg_pool": partial(pool, "AvgPool{}d", count_include_pad=False),
    "batch_norm": batch_norm,
    "layer_norm": lambda row: TorchOp(nn.LayerNorm(row.x[-1], EPSILON)),
    "group_norm": lambda row: TorchOp(nn.GroupNorm(row["groups"], row.x[-1], EPSILON), moved=FIRST),
    "rms_norm": lambda row: TorchOp(nn.RMSNorm(row.x[-1], EPSILON)),
    "lstm": partial(recurrent, nn.LSTM),
    "gru": partial(recurrent, nn.GRU),
    "simple_rnn": partial(recurrent, nn.RNN),
    "attention": attention,
    "embedding": lambda row: TorchOp(nn.Embedding(row["vocabulary"], row["features"])),
    "dropout": lambda row: TorchOp(nn.Dropout(row["rate"])),
}
