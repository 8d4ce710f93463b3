"""How long does a training step of a perceptron with two hidden layers take?"""

from collections.abc import Callable

from ..models.sizes import Perceptron
from .contenders import contenders as all_contenders
from .optimizers import ADAM
from .step import Step

NAME = "MLP (784-128-128-10)"


def contenders(size: Perceptron = Perceptron()) -> dict[str, Callable[[], Step]]:
    return all_contenders("mlp", size, ADAM)
