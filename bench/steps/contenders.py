"""The steps of a model in all frameworks."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from .optimizers import Optimizer
from .step import Step, Training, Unavailable, prepare

FRAMEWORKS = ("jlayers", "linen", "nnx", "equinox", "haiku", "keras", "torch")
# Further ways to write a model: without a library; with one compiled block for all, or with the
# blocks one after the other.
VARIANTS = {
    "mlp": ("lax",),
    "transformer": ("jlayers loop", "linen scan", "nnx scan", "equinox scan", "haiku scan"),
}


def contenders(model: str, size: Any, optimizer: Optimizer) -> dict[str, Callable[[], Step]]:
    """Name of a framework, or of a framework and a variant, to what builds its step."""

    def build(name: str) -> Step:
        from .weights import draw

        return prepare(training(name, model, size, optimizer, draw(model, size)))

    return {
        name: functools.partial(build, name) for name in (*FRAMEWORKS, *VARIANTS.get(model, ()))
    }


def first_step(name: str, model: str, size: Any, optimizer: Optimizer) -> float:
    """The loss of one step from the framework's own initialisers.

    Nothing but this framework is imported, so that a fresh process shows what starting costs.
    """
    made = training(name, model, size, optimizer, None)
    *carry, loss = made.step(*made.carry, *made.data)
    made.wait((carry, loss))
    return float(loss)


def training(name: str, model: str, size: Any, optimizer: Optimizer, weights: Any) -> Training:
    """The step as the framework has it, not yet compiled.

    Raises:
      Unavailable: where the framework is not installed.
    """
    framework, _, variant = name.partition(" ")
    try:
        module = importlib.import_module(f".training.{framework}", __package__)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    made: Training = module.training(
        f"{model}_{variant}" if variant else model, size, optimizer, weights
    )
    return made
