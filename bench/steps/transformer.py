"""How long does a training step of a 12-block transformer take?"""

from collections.abc import Callable

from ..models.sizes import Transformer
from .contenders import contenders as all_contenders
from .optimizers import ADAMW
from .step import Step

NAME = "12-block transformer"


def contenders(size: Transformer = Transformer()) -> dict[str, Callable[[], Step]]:
    return all_contenders("transformer", size, ADAMW)
