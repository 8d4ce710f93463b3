"""Models that leave: programs, files and operators that run without jlayers."""

from typing import TYPE_CHECKING

from .models import Loaded, load_model, save_model
from .programs import load, stablehlo
from .to_onnx import onnx

__all__ = ["Loaded", "load", "load_model", "onnx", "save_model", "stablehlo"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
