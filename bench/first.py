"""What does the first call of a training step cost: tracing, lowering, compiling?

Every figure is of a process of its own, in turns with those of Flax linen, since what counts is
the first trace: nothing has been traced, and nothing is read from a cache of compiled programs.

    python -m bench.first resnet50 linen

is one such process; it prints seconds by stage as JSON.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .frameworks import Unavailable, part
from .frameworks.sizes import MOBILENET, mobilenet
from .fresh import last_line, status_of
from .questions import Answer, Question
from .startup import middle
from .steps.table import STEPS, ModelStep

STAGES = ("trace", "lower", "compile")
FRAMEWORKS, PROCESSES = ("jlayers", "linen"), 5


class First(NamedTuple):
    """A step whose first call is measured, and the names of its models.

    Args:
      names: of the model, in jlayers and in linen.
    """

    step: ModelStep
    names: tuple[str, str]

    def model(self, framework: str) -> str:
        return dict(zip(FRAMEWORKS, self.names, strict=True))[framework]


def _first(step: str, *names: str) -> First:
    found: Any = STEPS[step]
    ours, theirs = names or (found.model, found.model)
    return First(found, (ours, theirs))


STEPS_TRACED = {
    "transformer": _first("step-transformer", "transformer_loop", "transformer"),
    "transformer-repeat": _first("step-transformer", "transformer", "transformer_scan"),
    "mobilenet": _first("step-depthwise"),
    "resnet50": _first("step-resnet50"),
}
# 36 convolutions, each with batch norm: the stem and the first 12 blocks of MobileNetV2.
CONVOLUTIONS = mobilenet(stages=(*MOBILENET[:4], (6, 96, 2, 1)))._replace(last=None)


def stages(first: First, framework: str) -> dict[str, float]:
    """The seconds of each stage in this process; what is computed is nothing."""
    import jax

    from .frameworks.optax_step import abstract_step

    step, made = first.step, part(framework, "train").pair
    jax.devices()  # their start does not count
    jitted, specs = abstract_step(
        made(first.model(framework), step.size), step.size, step.optimizer
    )
    start = time.perf_counter()
    traced = jitted.trace(*specs)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    lowered.compile()
    moments = (start, after_trace, after_lower, time.perf_counter())
    pairs = itertools.pairwise(moments)
    return {stage: after - before for stage, (before, after) in zip(STAGES, pairs, strict=True)}


def measure_first(name: str, budget: float, rounds: int) -> dict[str, Any]:
    """A row with the modes "trace", "lower" and "compile"."""
    seconds: dict[str, list[dict[str, float]]] = {framework: [] for framework in FRAMEWORKS}
    results: dict[str, dict[str, Any]] = {}
    for _ in range(min(rounds, PROCESSES)):
        for framework in [own for own in FRAMEWORKS if own not in results]:
            try:
                line = last_line("-m", "bench.first", name, framework)
                seconds[framework].append(json.loads(line))
            except RuntimeError as error:
                results[framework] = status_of(error)
    for framework, measured in seconds.items():
        if framework not in results:
            own = {stage: middle([each[stage] for each in measured]) for stage in STAGES}
            results[framework] = {"status": "ok", **own}
    ordered = {framework: results[framework] for framework in FRAMEWORKS}
    return {"op": "first", "model": STEPS_TRACED[name].step.title, "frameworks": ordered}


def count_equations(jaxpr: Any) -> int:
    """The equations of a jaxpr and of all jaxprs within it, each as often as it is written."""

    def inner(value: Any) -> int:
        if isinstance(value, list | tuple):
            return sum(map(inner, value))
        # A closed jaxpr holds another, which has the equations.
        value = getattr(value, "jaxpr", value)
        return count_equations(value) if hasattr(value, "eqns") else 0

    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    own = sum(inner(value) for equation in jaxpr.eqns for value in equation.params.values())
    return len(jaxpr.eqns) + own


def gradient_equations(framework: str, size: Any = CONVOLUTIONS) -> int:
    """Of the gradient of the loss of a network of convolutions with respect to its parameters."""
    import jax

    from .frameworks.optax_step import abstract_step, cross_entropy
    from .frameworks.step import SGD

    model = part(framework, "train").pair("conv_net", size)
    _, (params, state, _, x, labels) = abstract_step(model, size, SGD)

    def loss(params: Any, state: Any, x: Any, labels: Any) -> Any:
        logits, state = model.apply(params, state, x)
        return cross_entropy(logits, labels), state

    return count_equations(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params, state, x, labels))


def equations(budget: float, rounds: int, size: Any = CONVOLUTIONS) -> Answer:
    """How many there are, over Flax linen; the same in every run."""
    ours, theirs = (gradient_equations(framework, size) for framework in FRAMEWORKS)
    ratio = ours / theirs
    question = "equations of the gradient's jaxpr, 36 convolutions with batch norm, over linen's"
    return Answer(question, f"{ratio:.2f}x ({ours:,} to {theirs:,})", "1.5x", ratio <= 1.5, {})


ROWS: dict[str, Callable[[float, int], dict[str, Any]]] = {
    f"first-{name}": partial(measure_first, name) for name in STEPS_TRACED
}
QUESTIONS: dict[str, Question] = {"equations": equations}


def main(name: str, framework: str) -> None:
    try:
        print(json.dumps(stages(STEPS_TRACED[name], framework)))
    except (Unavailable, ModuleNotFoundError) as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main(*sys.argv[1:])
