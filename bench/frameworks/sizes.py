"""How large the models are, and what goes through them."""

from typing import NamedTuple


class Perceptron(NamedTuple):
    """Dense layers with ReLU between them."""

    batch: int = 32
    inputs: int = 784
    features: tuple[int, ...] = (128, 128)
    classes: int = 10


class ResNet(NamedTuple):
    """``blocks`` bottlenecks a stage, of ``width`` in the first and twice as wide in each next."""

    batch: int = 8
    image: int = 64
    classes: int = 1000
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    def bottlenecks(self) -> list[tuple[int, int, bool]]:
        """Width, stride and whether the shortcut has a convolution, of each."""
        return [
            (self.width * 2**stage, 2 if stage and not i else 1, i == 0)
            for stage, count in enumerate(self.blocks)
            for i in range(count)
        ]


class MobileNet(NamedTuple):
    """``stages``: expansion, features, number of blocks and stride of the first, as published.

    Batch norm over few numbers makes the first steps chaotic: at a rate of 0.01 rounding alone
    moves the losses by 1%. With a small ``learning_rate`` they can be compared.
    """

    batch: int = 16
    image: int = 64
    classes: int = 1000
    stem: int = 32
    stages: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    last: int = 1280
    learning_rate: float = 3e-5

    def inverted(self) -> list[tuple[int, int, int, int]]:
        """Channels in, expanded channels, channels out and stride of each block."""
        blocks, channels = [], self.stem
        for expansion, features, count, stride in self.stages:
            for i in range(count):
                blocks.append((channels, expansion * channels, features, 1 if i else stride))
                channels = features
        return blocks


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
