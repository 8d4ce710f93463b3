"""Well-known networks, each a page of combinators, with the parameter counts of their papers."""

from .convnext import ConvNeXt
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .dlrm import DLRM
from .efficientnet import EfficientNet
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .tcn import TCN
from .unet import UNet
from .vae import VAE
from .vit import ViT
from .wavenet import WaveNet

__all__ = [
    "DLRM",
    "TCN",
    "VAE",
    "ConvNeXt",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "EfficientNet",
    "MobileNetV2",
    "ResNet",
    "UNet",
    "ViT",
    "WaveNet",
]
