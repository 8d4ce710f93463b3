"""Well-known networks, each a page of combinators, with the parameter counts of their papers."""

from typing import TYPE_CHECKING

from .bert import BERT
from .convnext import ConvNeXt
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .dlrm import DLRM
from .efficientnet import EfficientNet
from .gpt import GPT2
from .llama import Llama
from .lstm_lm import LSTMLM
from .mamba import MambaLM
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .t5 import T5
from .tcn import TCN
from .unet import UNet
from .vae import VAE
from .vit import ViT
from .wavenet import WaveNet
from .whisper import Whisper

__all__ = [
    "BERT",
    "DLRM",
    "GPT2",
    "LSTMLM",
    "T5",
    "TCN",
    "VAE",
    "ConvNeXt",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "EfficientNet",
    "Llama",
    "MambaLM",
    "MobileNetV2",
    "ResNet",
    "UNet",
    "ViT",
    "WaveNet",
    "Whisper",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
