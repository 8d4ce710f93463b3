"""How long does a training step of a LSTM language model take?"""

from collections.abc import Callable

from ..models.sizes import LanguageModel
from .contenders import contenders as all_contenders
from .optimizers import ADAM
from .step import Step

NAME = "LSTM language model"


def contenders(size: LanguageModel = LanguageModel()) -> dict[str, Callable[[], Step]]:
    return all_contenders("lstm_lm", size, ADAM)
