"""How long does a deep model take to start: from nothing to the end of the first training step?"""

from collections.abc import Callable

from ..models.sizes import Transformer
from .contenders import contenders as all_contenders
from .contenders import first_step as any_first_step
from .optimizers import ADAMW
from .step import Step

NAME = "48-block transformer"
DEEP = Transformer(batch=4, steps=64, width=64, heads=4, blocks=48)


def contenders(size: Transformer = DEEP) -> dict[str, Callable[[], Step]]:
    return all_contenders("transformer", size, ADAMW)


def first_step(name: str, size: Transformer = DEEP) -> float:
    """The loss of the first step of a contender, for a fresh process that is timed from outside."""
    return any_first_step(name, "transformer", size, ADAMW)
