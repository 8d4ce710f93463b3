"""How long does a training step of a ResNet-50 (v1.5, 64x64 images) take?"""

from collections.abc import Callable

from ..models.sizes import ResNet
from .contenders import contenders as all_contenders
from .optimizers import SGD
from .step import Step

NAME = "ResNet-50 (v1.5, 64x64 images)"


def contenders(size: ResNet = ResNet()) -> dict[str, Callable[[], Step]]:
    return all_contenders("resnet50", size, SGD._replace(learning_rate=size.learning_rate))
