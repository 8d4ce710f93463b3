"""One framework, once: run as a program, so that nothing is imported or compiled already.

It prints when its time begins, 0 for the start of the process, and when it ends, as ``time.time``.
"""

import importlib
import sys
import time


def first_step(name: str) -> float:
    """From the start of the process to the end of the first training step."""
    from ..steps.deep_transformer import first_step

    first_step(name)
    return 0.0


def init(name: str) -> float:
    """From the imported framework to the parameters."""
    from ..models.sizes import ResNet

    make = importlib.import_module(f"{__package__}.fresh_init").MAKERS[name]
    size = ResNet()
    model = importlib.import_module(f"..models.{name}", __package__).MODELS["resnet50"]
    warm(name)
    begun = time.time()
    make(model, size)
    return begun


def warm(name: str) -> None:
    """Starts the device: that is no part of making parameters."""
    if name != "torch":
        import jax

        jax.block_until_ready(jax.numpy.zeros(3) + 1)


def main(what: str, name: str) -> None:
    from ..steps.step import Unavailable

    try:
        begun = {"first_step": first_step, "init": init}[what](name)
    except (Unavailable, ModuleNotFoundError) as reason:
        sys.exit(f"not installed: {reason}")
    print(begun, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
