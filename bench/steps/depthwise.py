"""How long does a training step of a MobileNetV2 (64x64 images) take?"""

from collections.abc import Callable

from ..models.sizes import MobileNet
from .contenders import contenders as all_contenders
from .optimizers import SGD
from .step import Step

NAME = "MobileNetV2 (64x64 images)"


def contenders(size: MobileNet = MobileNet()) -> dict[str, Callable[[], Step]]:
    return all_contenders("mobilenet", size, SGD._replace(learning_rate=size.learning_rate))
