"""The rows of whole training steps: which model, of which size, trained by which optimiser."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..frameworks import LIBRARIES, part
from ..frameworks.sizes import LanguageModel, Perceptron, Transformer, mobilenet, resnet
from ..frameworks.step import ADAM, ADAMW, SGD, Optimizer, Step, Training, prepare

# Further ways to write a model: without a library; with one compiled block for all, or with the
# blocks one after the other.
VARIANTS = {
    "mlp": ("lax",),
    "transformer": ("jlayers loop", "linen scan", "nnx scan", "equinox scan", "haiku scan"),
}


class ModelStep(NamedTuple):
    """A step of a model in all frameworks.

    Args:
      model: a key of each framework's ``MODELS``.
      judged: how many of the first losses are compared between frameworks; None for all.
      ours: which of jlayers' variants stands for it; by default the model as it is written.
    """

    title: str
    model: str
    size: Any
    optimizer: Optimizer
    judged: int | None = None
    ours: str = "jlayers"

    def builders(self) -> dict[str, Callable[[], Step]]:
        """Name of a framework, or of a framework and a variant, to what builds its step."""
        names = (*LIBRARIES, *VARIANTS.get(self.model, ()))
        builders = {name: functools.partial(self._build, name) for name in names}
        return builders | {"jlayers": builders[self.ours]}

    def needs(self) -> tuple[float, float]:
        """FLOPs and bytes of a step."""
        return part("jlayers", "train").needs(self.model, self.size, self.optimizer)  # type: ignore[no-any-return]

    def _build(self, name: str) -> Step:
        from ..frameworks.weights import draw

        return prepare(self.training(name, draw(self.model, self.size)))

    def training(self, name: str, weights: Any) -> Training:
        """The step as the framework has it, not yet compiled.

        Raises:
          Unavailable: where the framework is not installed.
        """
        framework, _, variant = name.partition(" ")
        model = f"{self.model}_{variant}" if variant else self.model
        return part(framework, "train").training(model, self.size, self.optimizer, weights)


class OtherStep(NamedTuple):
    """Steps of the MLP with builders of their own, from a module that is imported when measured."""

    module: str
    title: str
    steps: int
    judged: None = None

    def builders(self) -> dict[str, Callable[[], Step]]:
        return importlib.import_module(f".{self.module}", __package__).builders()

    def needs(self) -> tuple[float, float]:
        one = part("jlayers", "train").needs("mlp", Perceptron(), ADAM)
        return self.steps * one[0], self.steps * one[1]


MLP, TRANSFORMER = "MLP (784-128-128-10)", "transformer"
# Batch norm over few numbers makes the first steps chaotic: at a rate of 0.01 rounding alone
# changes the losses of a MobileNet by 1%. With a small rate they can be compared.
SLOW = SGD._replace(learning_rate=3e-5)
STEPS: dict[str, ModelStep | OtherStep] = {
    "step-depthwise": ModelStep("MobileNetV2 (64x64 images)", "conv_net", mobilenet(), SLOW),
    "step-fit": OtherStep("fit", f"{MLP}, 1000 steps in the loop that users run", 1000),
    "step-lstm-lm": ModelStep("LSTM language model", "lstm_lm", LanguageModel(), ADAM),
    "step-mlp": ModelStep(MLP, "mlp", Perceptron(), ADAM),
    "step-mlp-dispatch": OtherStep("dispatch", f"{MLP}, 32 steps", 32),
    # Only the first loss is the same everywhere: through 50 layers with batch norm rounding grows
    # until it changes the second by 1 to 8%, at any rate. The tests compare more, of a small one.
    "step-resnet50": ModelStep("ResNet-50 (v1.5, 64x64 images)", "conv_net", resnet(), SGD, 1),
    "step-resnet50-224": ModelStep(
        "ResNet-50 (v1.5, 224x224 images)", "conv_net", resnet(batch=2, image=224), SGD, 1
    ),
    "step-transformer": ModelStep("12-block transformer", TRANSFORMER, Transformer(), ADAMW),
    "step-transformer-serial": ModelStep(
        "12-block transformer, serial", TRANSFORMER, Transformer(), ADAMW, ours="jlayers loop"
    ),
}
# Measured for its first step alone, with the start-up.
DEEP_SIZE = Transformer(batch=4, steps=64, width=64, heads=4, blocks=48)
DEEP = ModelStep("48-block transformer", TRANSFORMER, DEEP_SIZE, ADAMW)


def first_step(name: str, step: ModelStep = DEEP) -> float:
    """The loss of one step from the framework's own initialisers.

    Nothing but this framework is imported: a fresh process shows what starting costs.
    """
    made = step.training(name, None)
    *carry, loss = made.step(*made.carry, *made.data)
    made.wait((carry, loss))
    return float(loss)
