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
    """``convs`` with activations between them, added to what went in.

    Args:
      shortcut: on the way around them; None for the identity.
      residual: whether there is a way around them.
      activated: whether an activation follows the sum.
    """

    convs: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None
    residual: bool
    activated: bool


class ResNet(NamedTuple):
    """``blocks`` bottlenecks a stage, of ``width`` in the first and twice as wide in each next.

    Like ``MobileNet`` a convolutional network in common terms: ``stem``, ``pooled`` (by 3x3,
    strides 2), ``conv_blocks``, ``last``, the mean over the image and a dense layer.
    """

    batch: int = 8
    image: int = 64
    classes: int = 1000
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    activation, pooled, last = "relu", True, None

    @property
    def stem(self) -> ConvNorm:
        return ConvNorm(3, self.width, 7, 2)

    @property
    def head_inputs(self) -> int:
        return self.conv_blocks()[-1].convs[-1].features

    def conv_blocks(self) -> list[ConvBlock]:
        blocks, channels = [], self.width
        for stage, count in enumerate(self.blocks):
            width = self.width * 2**stage
            for i in range(count):
                stride = 2 if stage and not i else 1
                convs = (
                    ConvNorm(channels, width, 1),
                    ConvNorm(width, width, 3, stride),
                    ConvNorm(width, 4 * width, 1),
                )
                shortcut = None if i else ConvNorm(channels, 4 * width, 1, stride)
                blocks.append(ConvBlock(convs, shortcut, residual=True, activated=True))
                channels = 4 * width
        return blocks


class MobileNet(NamedTuple):
    """``stages``: expansion, features, number of blocks and stride of the first, as published.

    Batch norm over few numbers makes the first steps chaotic: at a rate of 0.01 rounding alone
    moves the losses by 1%. With a small ``learning_rate`` they can be compared.
    """

    batch: int = 16
    image: int = 64
    classes: int = 1000
    stem_features: int = 32
    stages: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    head_inputs: int = 1280
    learning_rate: float = 3e-5

    activation, pooled = "relu6", False

    @property
    def stem(self) -> ConvNorm:
        return ConvNorm(3, self.stem_features, 3, 2)

    @property
    def last(self) -> ConvNorm:
        return ConvNorm(self.stages[-1][1], self.head_inputs, 1)

    def conv_blocks(self) -> list[ConvBlock]:
        blocks, channels = [], self.stem_features
        for expansion, features, count, first_stride in self.stages:
            for i in range(count):
                inner, stride = expansion * channels, 1 if i else first_stride
                expand = () if inner == channels else (ConvNorm(channels, inner, 1),)
                depthwise = ConvNorm(inner, inner, 3, stride, groups=inner)
                convs = (*expand, depthwise, ConvNorm(inner, features, 1))
                residual = stride == 1 and channels == features
                blocks.append(ConvBlock(convs, None, residual, activated=False))
                channels = features
        return blocks


ConvNet = ResNet | MobileNet


class LanguageModel(NamedTuple):
    """An embedding, ``layers`` LSTM layers, and the logits of the next word."""

    batch: int = 32
    steps: int = 64
    vocabulary: int = 1000
    width: int = 256
    features: int = 512
    layers: int = 2


class Transformer(NamedTuple):
    """``blocks`` blocks of causal attention and a perceptron four times as wide, pre-norm."""

    batch: int = 4
    steps: int = 128
    vocabulary: int = 1000
    width: int = 256
    heads: int = 4
    blocks: int = 12


EPSILON = 1e-5  # of every normalisation
MOMENTUM = 0.9  # of the running statistics
