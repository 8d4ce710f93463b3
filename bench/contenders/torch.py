"""PyTorch, eager, with channels last in memory where that is its fast path."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from ..agreement import disagreement
from ..data import floating
from ..device import cores
from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..programs import Asked, Program, wanted
from ..row import Row
from .contender import Unavailable, no_weights

LACKS: dict[str, str] = {}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class TorchContender(NamedTuple):
    """A row in PyTorch.

    Args:
      module: holds the parameters.
      convert: the canonical weights to them by name; it only moves values.
      call: (module, x) to y, by default a call of the module.
      layout: where the channels are: "last", "first", or "heads" for (B, T, N, H) as (B, N, T, H).
    """

    module: nn.Module
    convert: Callable[[Any], dict[str, Any]]
    call: Callable[[nn.Module, Any], Any] = lambda module, x: module(x)
    layout: str = "last"


def device() -> str:
    """Where the rows run: as JAX's.

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


def settle() -> None:
    """All cores, and on an accelerator the precision that JAX has by default."""
    torch.set_num_threads(cores())
    torch.set_float32_matmul_precision("high")


def tensor(value: np.ndarray, layout: str = "last") -> torch.Tensor:
    """A tensor of the same dtype; NumPy's bfloat16 is nothing that torch can read."""
    if not np.issubdtype(value.dtype, np.integer):
        made = torch.tensor(value.astype(np.float32), device=device())
        made = made.to(getattr(torch, value.dtype.name))
    else:
        made = torch.tensor(value, device=device())
    if layout == "heads":
        return made.transpose(1, 2)
    if layout == "first":
        made = made.movedim(-1, 1)
        form = CHANNELS_LAST.get(made.ndim, torch.contiguous_format)
        return made.contiguous(memory_format=form)
    return made


def array(value: torch.Tensor, layout: str = "last") -> np.ndarray:
    value = {
        "last": lambda: value,
        "first": lambda: value.movedim(1, -1),
        "heads": lambda: value.transpose(1, 2),
    }[layout]()
    return value.detach().double().cpu().numpy()


def program(contender: TorchContender, asked: Asked) -> Program:
    """The forward pass without a tape, or with one and all gradients."""
    settle()
    data, module, layout = asked.data, contender.module, contender.layout
    weights = contender.convert(data.weights)
    some = next(iter(weights.values()), None)
    module.to(device())
    if some is not None:
        module.to(getattr(torch, some.dtype.name))
    own = dict(module.named_parameters())
    if own.keys() != weights.keys():
        raise ValueError(f"torch has parameters {sorted(own)}, not {sorted(weights)}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(tensor(np.ascontiguousarray(value)))
    if layout == "first" and asked.data.x.ndim in CHANNELS_LAST:
        module.to(memory_format=CHANNELS_LAST[asked.data.x.ndim])
    x = jax.tree.map(lambda value: tensor(value, layout), data.x)
    leaves = jax.tree.leaves(x)
    cotangent = tensor(data.cotangent, layout)
    differentiable = floating(data.x)
    names, parameters = list(own), list(own.values())

    def forward() -> Any:
        with torch.no_grad():
            y = contender.call(module, x)
        wait()
        return y, ()

    def gradient() -> Any:
        inputs = leaves if differentiable else []
        for leaf in inputs:
            leaf.requires_grad_()
        y = contender.call(module, x)
        gradients = torch.autograd.grad(y, parameters + inputs, cotangent)
        wait()
        return y, gradients

    run = forward if asked.mode == "forward" else gradient

    def disagrees(tolerance: float) -> str | None:
        y, gradients = run()
        got: tuple[Any, ...] = (array(y, layout),)
        if asked.mode == "gradient":
            ours = dict(zip(names, map(array, gradients[: len(names)]), strict=True))
            theirs = [array(value, layout) for value in gradients[len(names) :]]
            x_gradient = jax.tree.unflatten(jax.tree.structure(x), theirs) if theirs else None
            got += ours, x_gradient
        return disagreement(got, wanted(asked, got[0], contender.convert), tolerance)

    return Program(run, disagrees, None, None, None)


def kernel_first(kernel: Any) -> Any:
    """(*size, in, out) to (out, in, *size)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def conv(row: Row) -> TorchContender:
    g = geometry(row)
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[g.rank - 1]
    module = make(
        g.channels,
        g.features,
        g.kernel,
        stride=g.strides,
        padding=g.padding,
        dilation=g.dilation,
        groups=g.groups,
        bias=g.bias,
    )
    return TorchContender(module, _conv_weights, layout="first")


def _conv_weights(weights: Any) -> dict[str, Any]:
    bias = {"bias": weights["bias"]} if "bias" in weights else {}
    return {"weight": kernel_first(weights["kernel"]), **bias}


def conv_transpose(row: Row) -> TorchContender:
    g = transposed_geometry(row)
    make = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[g.rank - 1]
    # "SAME" crops kernel - stride steps; an odd number of them leaves no way to say where.
    crop = [
        k - s if row["padding"] == "SAME" else 0 for k, s in zip(g.kernel, g.strides, strict=True)
    ]
    if any(amount % 2 for amount in crop):
        raise ValueError(f"{row.name}: torch has no such crop; give VALID")
    module = make(
        g.channels,
        g.features,
        g.kernel,
        stride=g.strides,
        padding=[amount // 2 for amount in crop],
        output_padding=[max(s - k, 0) for k, s in zip(g.kernel, g.strides, strict=True)],
    )

    def convert(weights: Any) -> dict[str, Any]:
        flipped = np.flip(weights["kernel"], tuple(range(g.rank)))
        return {"weight": np.moveaxis(flipped, (-2, -1), (0, 1)), "bias": weights["bias"]}

    return TorchContender(module, convert, layout="first")


def chain(*parts: TorchContender) -> TorchContender:
    def convert(weights: Any) -> dict[str, Any]:
        return {
            f"{i}.{name}": value
            for i, (part, own) in enumerate(zip(parts, weights, strict=True))
            for name, value in part.convert(own).items()
        }

    return TorchContender(
        nn.Sequential(*(part.module for part in parts)), convert, layout=parts[0].layout
    )


def pool(*make: Any, **options: Any) -> Callable[[Row], TorchContender]:
    def build(row: Row) -> TorchContender:
        w = window(row)
        module = make[len(w.window) - 1](w.window, w.strides, w.padding, **options)
        return TorchContender(module, no_weights, layout="first")

    return build


def affine(weights: Any) -> dict[str, Any]:
    names = {"scale": "weight", "bias": "bias"}
    return {theirs: weights[ours] for ours, theirs in names.items() if ours in weights}


def batch_norm(row: Row) -> TorchContender:
    make = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    module = make[len(row.x)](row.x[-1], EPSILON, momentum=0.01)
    return TorchContender(module, affine, layout="first" if len(row.x) > 2 else "last")


def recurrent(make: Any, convert: Callable[[Any], tuple[Any, Any]]) -> Any:
    """``convert`` gives the biases of the input's side and of the hidden state's."""

    def build(row: Row) -> TorchContender:
        ways = row["bidirectional"]
        module = make(
            row.x[-1], row["features"], row["layers"], batch_first=True, bidirectional=ways
        )

        def weights_of(weights: Any) -> dict[str, Any]:
            named = {}
            for layer, cells in enumerate(weights):
                for cell, side in zip(cells, ("", "_reverse"), strict=False):
                    end = f"l{layer}{side}"
                    named[f"weight_ih_{end}"] = cell["kernel"].T
                    named[f"weight_hh_{end}"] = cell["recurrent_kernel"].T
                    named[f"bias_ih_{end}"], named[f"bias_hh_{end}"] = convert(cell)
            return named

        return TorchContender(module, weights_of, lambda module, x: module(x)[0])

    return build


def two_biases(w: Any) -> tuple[Any, Any]:
    return w["bias"], w["second_bias"]


def gru_biases(w: Any) -> tuple[Any, Any]:
    return w["bias"], np.concatenate([w["second_bias"], w["recurrent_bias"]])


def dense(row: Row) -> TorchContender:
    return TorchContender(
        nn.Linear(row.x[-1], row["features"]),
        lambda weights: {"weight": weights["kernel"].T, "bias": weights["bias"]},
    )


def attention(row: Row) -> TorchContender:
    def call(module: nn.Module, x: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(*x, is_causal=row["causal"])

    return TorchContender(nn.Identity(), no_weights, call, layout="heads")


OPS = {
    "dense": dense,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "avg_pool": pool(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, count_include_pad=False),
    "batch_norm": batch_norm,
    "layer_norm": lambda row: TorchContender(nn.LayerNorm(row.x[-1], EPSILON), affine),
    "group_norm": lambda row: TorchContender(
        nn.GroupNorm(row["groups"], row.x[-1], EPSILON), affine, layout="first"
    ),
    "rms_norm": lambda row: TorchContender(nn.RMSNorm(row.x[-1], EPSILON), affine),
    "lstm": recurrent(nn.LSTM, two_biases),
    "gru": recurrent(nn.GRU, gru_biases),
    "simple_rnn": recurrent(nn.RNN, two_biases),
    "attention": attention,
    "embedding": lambda row: TorchContender(
        nn.Embedding(row["vocabulary"], row["features"]),
        lambda weights: {"weight": weights["embedding"]},
    ),
    "dropout": lambda row: TorchContender(nn.Dropout(row["rate"]), no_weights),
}
