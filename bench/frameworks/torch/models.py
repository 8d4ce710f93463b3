"""In PyTorch."""

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


class ConvNorm(nn.Module):
    def __init__(self, channels: int, features: int, size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            channels, features, size, stride, size // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(features, EPSILON, 1 - MOMENTUM)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, project: bool):
        super().__init__()
        self.a = ConvNorm(channels, width, 1)
        self.b = ConvNorm(width, width, 3, stride)
        self.c = ConvNorm(width, 4 * width, 1)
        self.shortcut = ConvNorm(channels, 4 * width, 1, stride) if project else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = self.c(functional.relu(self.b(functional.relu(self.a(x)))))
        return functional.relu(self.shortcut(x) + y)


class ResNet50(nn.Module):
    def __init__(self, size: ResNet):
        super().__init__()
        self.stem = ConvNorm(3, size.width, 7, 2)
        self.blocks, channels = nn.ModuleList(), size.width
        for width, stride, project in size.bottlenecks():
            self.blocks.append(Bottleneck(channels, width, stride, project))
            channels = 4 * width
        self.head = nn.Linear(channels, size.classes)

    def forward(self, x: Any) -> Any:
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, channels: int, inner: int, features: int, stride: int):
        super().__init__()
        self.expand = ConvNorm(channels, inner, 1) if inner != channels else None
        self.depthwise = ConvNorm(inner, inner, 3, stride, inner)
        self.project = ConvNorm(inner, features, 1)
        self.residual = stride == 1 and channels == features

    def forward(self, x: Any) -> Any:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    def __init__(self, size: MobileNet):
        super().__init__()
        blocks = size.inverted()
        self.stem = ConvNorm(3, size.stem, 3, 2)
        self.blocks = nn.ModuleList(Inverted(*block) for block in blocks)
        self.last = ConvNorm(blocks[-1][2], size.last, 1)
        self.head = nn.Linear(size.last, size.classes)

    def forward(self, x: Any) -> Any:
        x = functional.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(functional.relu6(self.last(x)).mean((2, 3)))


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
        # The others have one bias a layer, so the second stays out of it.
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


MODELS = {
    "mlp": Mlp,
    "resnet50": ResNet50,
    "mobilenet": MobileNetV2,
    "lstm_lm": LstmLm,
    "transformer": Gpt,
}
