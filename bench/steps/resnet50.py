"""How long does a training step of a ResNet-50 (v1.5, 64x64 images) take?"""

from collections.abc import Callable

from ..models.sizes import ResNet
from .contenders import contenders as all_contenders
from .optimizers import SGD
from .step import Step

NAME = "ResNet-50 (v1.5, 64x64 images)"
# Of this size only the first loss is everybody's: through 50 layers with batch norm rounding grows
# until it moves the second by 1 to 8%, whatever the rate. The tests judge gradients on a small one.
JUDGED = 1


def contenders(size: ResNet = ResNet()) -> dict[str, Callable[[], Step]]:
    return all_contenders("resnet50", size, SGD)
