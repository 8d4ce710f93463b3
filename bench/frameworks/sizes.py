"""How large the models are, and what goes through them."""

from typing import NamedTuple


class Perceptron(NamedTuple):
    """Dense layers with ReLU between them."""

    batch: int = 32
    inputs: int = 784
    features: tuple[int, ...] = (128, 128)
    classes: int = 10


class ConvNorm(NamedTuple):
    """A convolution without bias, padded to keep the size, and batch normalisation."""

    channels: int
    features: int
    size: int
    stride: int = 1
    groups: int = 1


class ConvBlock(NamedTuple):
    """``convs`` with activations between them, added to the block's input.

    Args:
      shortcut: applied to the input before it is added; None for the identity.
      residual: whether the input is added.
      activated: whether an activation follows the sum.
    """

    convs: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None
    residual: bool
    activated: bool


class ConvNet(NamedTuple):
    """``stem``, blocks, ``last``, the mean over the image and a dense layer.

    Args:
      pooled: whether the stem is followed by a maximum over 3x3, strides 2.
      activation: "relu" or "relu6", after ``stem``, within the blocks and after ``last``.
    """

    batch: int
    image: int
    classes: int
    stem: ConvNorm
    pooled: bool
    blocks: tuple[ConvBlock, ...]
    last: ConvNorm | None
    activation: str

    @property
    def head_inputs(self) -> int:
        return (self.last or self.blocks[-1].convs[-1]).features


def resnet(
    batch: int = 8,
    image: int = 64,
    classes: int = 1000,
    width: int = 64,
    stages: tuple[int, ...] = (3, 4, 6, 3),
) -> ConvNet:
    """``stages``: the bottlenecks of each; they are twice as wide as in the stage before."""
    blocks, channels = [], width
    for stage, count in enumerate(stages):
        inner = width * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            between = (ConvNorm(channels, inner, 1), ConvNorm(inner, inner, 3, stride))
            shortcut = None if i else ConvNorm(channels, 4 * inner, 1, stride)
            convs = (*between, ConvNorm(inner, 4 * inner, 1))
            blocks.append(ConvBlock(convs, shortcut, residual=True, activated=True))
            channels = 4 * inner
    stem = ConvNorm(3, width, 7, 2)
    return ConvNet(batch, image, classes, stem, True, tuple(blocks), None, "relu")


# Expansion, features, number of blocks and stride of the first, as published.
MOBILENET = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def mobilenet(
    batch: int = 16,
    image: int = 64,
    classes: int = 1000,
    channels: int = 32,
    stages: tuple[tuple[int, int, int, int], ...] = MOBILENET,
    last: int = 1280,
) -> ConvNet:
    blocks, stem = [], ConvNorm(3, channels, 3, 2)
    for expansion, features, count, first_stride in stages:
        for i in range(count):
            inner, stride = expansion * channels, 1 if i else first_stride
            expand = () if inner == channels else (ConvNorm(channels, inner, 1),)
            depthwise = ConvNorm(inner, inner, 3, stride, groups=inner)
            convs = (*expand, depthwise, ConvNorm(inner, features, 1))
            residual = stride == 1 and channels == features
            blocks.append(ConvBlock(convs, None, residual, activated=False))
            channels = features
    last_conv = ConvNorm(channels, last, 1)
    return ConvNet(batch, image, classes, stem, False, tuple(blocks), last_conv, "relu6")


class LanguageModel(NamedTuple):
    """An embedding, ``layers`` LSTM layers, and the logits of the next word."""

    batch: int = 32
    steps: int = 64
    vocabulary: int = 1000
    width: int = 256
    features: int = 512
    layers: int = 2

    def lstm_inputs(self) -> list[int]:
        """The features that go into each layer."""
        return [self.width] + [self.features] * (self.layers - 1)


class Transformer(NamedTuple):
    """``blocks`` blocks of causal attention and an MLP four times as wide, pre-norm."""

    batch: int = 4
    steps: int = 128
    vocabulary: int = 1000
    width: int = 256
    heads: int = 4
    blocks: int = 12


EPSILON = 1e-5  # of every normalisation
MOMENTUM = 0.9  # of the running statistics
