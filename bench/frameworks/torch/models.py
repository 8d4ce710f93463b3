"""In PyTorch."""

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


class ConvNorm(nn.Module):
    def __init__(self, spec: sizes.ConvNorm):
        super().__init__()
        shape = (spec.channels, spec.features, spec.size, spec.stride, spec.size // 2)
        self.conv = nn.Conv2d(*shape, groups=spec.groups, bias=False)
        self.norm = nn.BatchNorm2d(spec.features, EPSILON, 1 - MOMENTUM)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class ConvBlock(nn.Module):
    def __init__(self, spec: sizes.ConvBlock, activation: Any):
        super().__init__()
        self.spec, self.activation = spec, activation
        self.convs = nn.ModuleList(ConvNorm(conv) for conv in spec.convs)
        self.shortcut = spec.shortcut and ConvNorm(spec.shortcut)

    def forward(self, x: Any) -> Any:
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = conv(self.activation(y))
        x = x if self.shortcut is None else self.shortcut(x)
        y = x + y if self.spec.residual else y
        return self.activation(y) if self.spec.activated else y


class ConvNet(nn.Module):
    def __init__(self, size: sizes.ConvNet):
        super().__init__()
        self.activation, self.pooled = getattr(functional, size.activation), size.pooled
        self.stem = ConvNorm(size.stem)
        self.blocks = nn.ModuleList(ConvBlock(spec, self.activation) for spec in size.blocks)
        self.last = size.last and ConvNorm(size.last)
        self.head = nn.Linear(size.head_inputs, size.classes)

    def forward(self, x: Any) -> Any:
        x = self.activation(self.stem(x))
        x = functional.max_pool2d(x, 3, 2, 1) if self.pooled else x
        for block in self.blocks:
            x = block(x)
        x = x if self.last is None else self.activation(self.last(x))
        return self.head(x.mean((2, 3)))


class Mlp(nn.Module):
    def __init__(self, size: Perceptron):
        super().__init__()
        pairs = itertools.pairwise((size.inputs, *size.features))
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.head = nn.Linear(size.features[-1], size.classes)

    def forward(self, x: Any) -> Any:
        for layer in self.dense:
            x = functional.relu(layer(x))
        return self.head(x)


class LstmLm(nn.Module):
    def __init__(self, size: LanguageModel):
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.lstm = nn.LSTM(size.width, size.features, size.layers, batch_first=True)
        self.head = nn.Linear(size.features, size.vocabulary)
        # The other frameworks have one bias a layer, so the second one is zero and not trained.
        for name, value in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                value.requires_grad_(False).zero_()

    def forward(self, ids: Any) -> Any:
        return self.head(self.lstm(self.tokens(ids))[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, steps, width = x.shape
        q, k, v = self.qkv(x).view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, steps, width))


class Block(nn.Module):
    def __init__(self, size: Transformer):
        super().__init__()
        self.attend_norm = nn.LayerNorm(size.width, EPSILON)
        self.attend = Attention(size.width, size.heads)
        self.mlp_norm = nn.LayerNorm(size.width, EPSILON)
        self.up = nn.Linear(size.width, 4 * size.width)
        self.down = nn.Linear(4 * size.width, size.width)

    def forward(self, x: Any) -> Any:
        x = x + self.attend(self.attend_norm(x))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, size: Transformer):
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.steps, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(size.width, EPSILON)
        self.head = nn.Linear(size.width, size.vocabulary)

    def forward(self, ids: Any) -> Any:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


MODELS = {"mlp": Mlp, "conv_net": ConvNet, "lstm_lm": LstmLm, "transformer": Gpt}
