"""Whole training steps and decoding steps as items of the plan."""

from functools import partial
from typing import Any

from .. import sequences
from ..data import default_promotion
from ..frameworks.sizes import LanguageModel, Perceptron, Transformer, mobilenet, resnet
from ..frameworks.step import ADAMW, SGD
from ..measure import attempt, timed_steps
from ..steps.table import SLOW, STEPS, TRANSFORMER, ModelStep, OtherStep
from .item import Item, Result, Submit
from .operations import without_compilation
from .variants import frameworks

# Larger than on a processor, which has less; where they are as small, what starts a step is most
# of it. (step, seconds), most important first.
LARGE: dict[str, tuple[ModelStep | OtherStep, float]] = {
    "step-mlp-dispatch": (STEPS["step-mlp-dispatch"], 8.0),
    "step-transformer-16x512": (
        ModelStep(
            "12-block transformer, 16 x 512 ids, 512 wide",
            TRANSFORMER,
            Transformer(batch=16, steps=512, width=512, heads=8),
            ADAMW,
        ),
        40.0,
    ),
    "step-lstm-lm": (STEPS["step-lstm-lm"], 20.0),
    "step-mlp": (STEPS["step-mlp"], 8.0),
    "step-resnet50-224": (
        ModelStep("ResNet-50 (v1.5), 32 images of 224x224", "conv_net", resnet(32, 224), SGD, 1),
        60.0,
    ),
    "step-depthwise": (
        ModelStep("MobileNetV2, 64 images of 224x224", "conv_net", mobilenet(64, 224), SLOW, 1),
        60.0,
    ),
    "step-fit": (STEPS["step-fit"], 30.0),
}
TINY: dict[str, Any] = {
    TRANSFORMER: Transformer(2, 8, 11, 8, 2, 2),
    "lstm_lm": LanguageModel(2, 4, 11, 6, 5, 2),
    "mlp": Perceptron(4, 6, (5, 7), 3),
    "conv_net": resnet(4, 32, 5, 4, (2, 1)),
}
# What decodes a token: ours by streaming and by hand, from blocks in sequence or repeated.
DECODING = ("token-1", "token-8", "token-repeat-1", "token-repeat-8")


def steps(tiny: bool) -> dict[str, Item]:
    found = {}
    for name, (step, seconds) in LARGE.items():
        if tiny and isinstance(step, ModelStep):
            step = step._replace(size=TINY[step.model])
        found[name] = _step(name, step, seconds, tiny)
    return found


def _step(name: str, step: ModelStep | OtherStep, seconds: float, tiny: bool) -> Item:
    def builders() -> dict[str, Any]:
        if tiny and step == STEPS["step-fit"]:
            from ..steps.fit import builders as loops

            found = loops(TINY["mlp"], steps=40)
        else:
            found = step.builders()
        here = frameworks()
        return {name: build for name, build in found.items() if _framework(name) in here}

    def prepare(submit: Submit) -> Any:
        # Others than models are loops around programs that are soon compiled.
        alone = not isinstance(step, ModelStep)
        return {
            name: build if alone or name == "torch" else submit(partial(attempt, build))
            for name, build in builders().items()
        }

    def finish(prepared: Any, budget: float, rounds: int) -> dict[str, Result]:
        made = {
            name: own.result() if hasattr(own, "result") else attempt(own)
            for name, own in prepared.items()
        }
        result = timed_steps(step.title, made, budget, rounds, step.judged, queue=True)
        return {name: without_compilation(result)}

    size = getattr(step, "size", None)
    what = {"title": step.title, "size": repr(size), "timing": "queued"}
    return Item("steps", what, seconds, prepare, finish)


def _framework(name: str) -> str:
    return name.replace(",", "").split()[0]


def decoding(tiny: bool) -> dict[str, Item]:
    size = Transformer(1, 8, 11, 8, 2, 2) if tiny else sequences.LARGE

    def item(name: str) -> Item:
        def finish(prepared: None, budget: float, rounds: int) -> dict[str, Result]:
            ask: Any = sequences.ROWS[name]
            with default_promotion():
                answer = ask(budget, rounds, size=size)
            return {name: {"op": "sequences", **answer._asdict()}}

        return Item("sequences", {"size": repr(size)}, 12.0, lambda submit: None, finish)

    return {name: item(name) for name in DECODING}
